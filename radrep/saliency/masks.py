"""From the maps of the labels that fire to one masked image.

Which image of a study is masked is decided by `radrep.data.image_selection.masked_view`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_DILATION = 5  # pixels, the side of the square


def aggregate_maps(maps: Tensor, how: str) -> Tensor:
    """One map of several labels' maps in [0, 1], (k, h, w) -> (h, w), by "max" or "mean".

    The mean is scaled to [0, 1] again: where the maps of labels differ, no place has the mean 1,
    and a hard mask might keep nothing.
    """
    if how == "max":
        return maps.amax(dim=0)
    mean = maps.mean(dim=0)
    highest = mean.max()
    return mean / highest if highest > 0 else mean


def make_mask(saliency: Tensor, kind: str, threshold: float) -> Tensor:
    """The share from 0 to 1 that is kept of each pixel, given a map in [0, 1], (h, w) both.

    "hard" keeps what reaches the threshold and two pixels around it, "soft" the map's share.
    """
    if kind == "soft":
        return saliency
    reached = (saliency >= threshold).float()[None, None]
    return F.max_pool2d(reached, _DILATION, stride=1, padding=_DILATION // 2)[0, 0]


def mask_image(image: np.ndarray, mask: Tensor) -> np.ndarray:
    """An image times its mask, uint8 (h, w) both ways."""
    return torch.round(torch.from_numpy(image).float() * mask).to(torch.uint8).numpy()
