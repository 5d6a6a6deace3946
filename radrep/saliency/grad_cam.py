"""Grad-CAM of a discriminator (Selvaraju et al., 2017), in closed form.

Letters: n patches (rows times columns of the last map), c their width, k labels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def grad_cam(patches: Tensor, weight: Tensor, grid: tuple[int, int]) -> Tensor:
    """Map the places that raise the score of each label.

    Grad-CAM weighs channel j of the last map A by the spatial mean of d(output)/dA_j. Here the
    output is a sigmoid of a linear layer of the map's mean, so that this derivative is
    s (1 - s) w_j / n at every place: the map is ReLU(sum_j w_j A_j) but for a positive factor,
    which scaling takes out again. So no gradient need be computed, and none can underflow where
    the sigmoid is flat.

    Args:
        patches: One image's patches, row by row, (n, c).
        weight: Of the classifier, (k, c).
        grid: Rows and columns.

    Returns:
        Maps scaled to [0, 1], (k, rows, columns); all zeros for a label without such places.
    """
    maps = (weight.float() @ patches.float().T).relu().view(-1, *grid)
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    return (maps - low) / span.masked_fill(span == 0, 1.0)


def enlarge(maps: Tensor, height: int, width: int, shift: tuple[float, float]) -> Tensor:
    """Maps at the size of an image, bicubic, each cell's value at its receptive field's centre.

    Bilinear ones would have their maximum in the middle of a cell, wherever between cells it is.

    Args:
        maps: Maps, (k, rows, columns).
        height: Of the image.
        width: Of the image.
        shift: Offset of the receptive field from the cell, down and to the right, in cells, see
            `Backbone.measure_shift`.

    Returns:
        Maps, (k, height, width), from 0 to 1 as those given.
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
