"""What a linear model reads of a study's images: statistics of an encoder's maps and of the film.

Letters: v views, h rows and w columns of a map, c channels, k statistics of a view, d = s k, s
views of a study's vector.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.guidance.film_statistics import NUM_FILM_STATISTICS, film_statistics
from radrep.modules.backbone import Backbone, to_patches

PixelStats = tuple[Sequence[float], Sequence[float]]

_GRID = 3
NUM_SUMMARIES = 3 + _GRID**2
# Pixels a patch of the stages that describe a radiograph best: from ImageNet the last map knows
# less of it (.github/docs/results.md).
_MIDDLE = range(8, 17)
MIN_SCALE = 1e-6  # a number that is the same in all studies stays 0


def summarize_maps(maps: Tensor) -> Tensor:
    """Mean, maximum, standard deviation and 3 x 3 means of each map: (v, h, w, c) -> (v, 12, c)."""
    maps = maps.float()
    flat = maps.flatten(1, 2)
    pools = F.adaptive_avg_pool2d(maps.permute(0, 3, 1, 2), _GRID).flatten(2).transpose(1, 2)
    means, spread = _mean_and_spread(flat)
    return torch.cat([torch.stack([means, flat.amax(1), spread], dim=1), pools], dim=1)


def _mean_and_spread(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over n: (v, n, c) -> (v, c) each.

    In two passes: the one of `Tensor.std` takes four times as long on a CPU.
    """
    means = flat.mean(dim=1, keepdim=True)
    return means.squeeze(1), (flat - means).square().mean(dim=1).sqrt()


def summarize_stages(maps: Sequence[Tensor], image_size: int) -> Tensor:
    """Statistics of the maps of all stages of a backbone, (v, c, h, w) each -> (v, k).

    Mean and standard deviation of every map; of those of 8 and 16 pixels a patch, or where there
    is none of the last one, the maximum and the 3 x 3 means too.
    """
    middle = [image_size // stage.shape[2] in _MIDDLE for stage in maps]
    if not any(middle):
        middle[-1] = True
    found = []
    for stage, whole in zip(maps, middle, strict=True):
        if whole:
            found.append(summarize_maps(stage.permute(0, 2, 3, 1)).flatten(1))
        else:
            found += _mean_and_spread(stage.float().flatten(2).transpose(1, 2))
    return torch.cat(found, dim=1)


def film_of(images: Tensor, stats: PixelStats) -> Tensor:
    """`film_statistics` of images (v, 3, h, w), normalised by each channel's mean and deviation."""
    means, deviations = stats
    return film_statistics(images[:, 0].float() * deviations[0] + means[0])


def column_weights(num_columns: int, num_views: int, *, maps: float, film: float) -> np.ndarray:
    """How much each number of a study's vector weighs in a linear model, (d,), 1 in the mean.

    `maps` and `film` are what the two kinds of statistics weigh together, however many they are.
    """
    of_maps = num_columns // num_views - NUM_FILM_STATISTICS
    one_view = [np.full(of_maps, maps / max(1, of_maps))]
    one_view.append(np.full(NUM_FILM_STATISTICS, film / NUM_FILM_STATISTICS))
    weights = np.tile(np.concatenate(one_view), num_views)
    return weights / weights.mean()


def weighted_scale(vectors: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """What each column is divided by, (d,): its standard deviation over the root of its weight.

    Infinite where it weighs nothing.
    """
    deviations = np.maximum(vectors.std(axis=0), MIN_SCALE)
    if weights is None:
        return deviations
    with np.errstate(divide="ignore"):
        return (deviations / np.sqrt(weights)).astype(deviations.dtype)


class FilmStatistics(nn.Module):
    """`film_of` normalised images (v, 3, h, w), as (v, 1, m)."""

    def __init__(self, stats: PixelStats) -> None:
        super().__init__()
        self.stats = stats

    def forward(self, images: Tensor) -> Tensor:
        """One row of statistics an image, in place of patches."""
        return film_of(images, self.stats)[:, None]


class StageSummaries(nn.Module):
    """`summarize_stages` of a backbone's maps: normalised images (v, 3, h, w) to (v, 1, k)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """One row of statistics an image, in place of patches."""
        return summarize_stages(self.backbone.stage_maps(images), images.shape[2])[:, None]


def encode_images(encoders: Sequence[nn.Module], images: Tensor) -> list[Tensor]:
    """What each encoder makes of normalised images (v, 3, h, w); see `StageSummaries`.

    A backbone runs once for its patches and its statistics.
    """
    maps = {
        each.backbone: each.backbone.stage_maps(images)
        for each in encoders
        if isinstance(each, StageSummaries)
    }
    found = []
    for each in encoders:
        if isinstance(each, StageSummaries):
            found.append(summarize_stages(maps[each.backbone], images.shape[2])[:, None])
        elif each in maps:
            found.append(to_patches(maps[each][-1]))
        else:
            found.append(each(images))
    return found


def study_vectors(studies: Iterable[Tensor], num_views: int) -> np.ndarray:
    """The statistics of each study's views, (v, ...), side by side: float32 (n, d).

    A vector has so many views: those beyond are left out, those missing are the first one again.
    """
    rows = []
    for summaries in studies:
        views = [summaries[i if i < len(summaries) else 0] for i in range(num_views)]
        rows.append(torch.stack(views).flatten().cpu().numpy())
    return np.stack(rows)
