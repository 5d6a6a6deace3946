"""Grad-CAM of a discriminator (Selvaraju et al., 2017), in closed form.

Letters: n patches (rows times columns of the last map), c their width, k labels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def grad_cam(patches: Tensor, weight: Tensor, grid: tuple[int, int]) -> Tensor:
    """Map the places that raise the score of each label: (k, rows, columns) scaled to [0, 1].

    Grad-CAM weighs channel j of the last map A by the spatial mean of d(output)/dA_j. Here the
    output is a sigmoid of a linear layer of the map's mean, so that this derivative is
    s (1 - s) w_j / n at every place: the map is ReLU(sum_j w_j A_j) but for a positive factor,
    which scaling takes out again. Without a gradient none can underflow where the sigmoid is flat.

    Args:
        patches: One image's patches, row by row, (n, c).
        weight: Of the classifier, (k, c).
        grid: Rows and columns.
    """
    maps = (weight.float() @ patches.float().T).relu().view(-1, *grid)
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    return (maps - low) / span.masked_fill(span == 0, 1.0)


def enlarge(maps: Tensor, height: int, width: int, shift: tuple[float, float]) -> Tensor:
    """Maps in [0, 1] at the size of an image: (k, rows, columns) -> (k, height, width).

    Each cell's value lies at the centre of its receptive field; `shift` is the offset of that from
    the cell, down and to the right, in cells, see `Backbone.measure_shift`. Bicubic: bilinear maps
    would have their maximum in the middle of a cell, wherever between cells it is.
    """
    steps = [
        (torch.arange(n, device=maps.device) + 0.5) / n * 2 - 1 - 2 * far / cells
        for n, far, cells in zip((height, width), shift, maps.shape[1:], strict=True)
    ]
    down, across = torch.meshgrid(*steps, indexing="ij")
    places = torch.stack([across, down], dim=-1)[None]
    enlarged = F.grid_sample(
        maps[None], places, mode="bicubic", padding_mode="border", align_corners=False
    )
    return enlarged[0].clamp(0, 1)  # cubics overshoot
