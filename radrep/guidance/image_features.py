"""Feature maps of a study as one vector, for a linear model.

Letters: v views, h rows and w columns of a map, c channels, s views of a vector, d = s 12 c.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_GRID = 3
NUM_SUMMARIES = 3 + _GRID**2


def summarize_maps(maps: Tensor) -> Tensor:
    """Mean, maximum, standard deviation and 3 x 3 means of each map: (v, h, w, c) -> (v, 12, c)."""
    maps = maps.float()
    flat = maps.flatten(1, 2)
    pools = F.adaptive_avg_pool2d(maps.permute(0, 3, 1, 2), _GRID).flatten(2).transpose(1, 2)
    spread = flat.std(dim=1, correction=0)
    return torch.cat([torch.stack([flat.mean(1), flat.amax(1), spread], dim=1), pools], dim=1)


def study_vectors(studies: Iterable[Tensor], num_views: int) -> np.ndarray:
    """The summaries of each study, (v, 12, c), side by side: float32 (n, d).

    A vector has so many views: those beyond are left out, those missing are the first one again.
    """
    rows = []
    for summaries in studies:
        views = [summaries[i if i < len(summaries) else 0] for i in range(num_views)]
        rows.append(torch.stack(views).flatten().cpu().numpy())
    return np.stack(rows)
