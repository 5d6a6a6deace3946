"""How a film was made, by its grey levels alone: their histogram and spectra.

No anatomy is in them, but scanner, processing and site are, and with the site comes the wording of
its reports: on IU X-Ray they predict words as well as a network's features do
(.github/docs/results.md). So selection reads them, and a control shows what they reach alone.

Letters: v images, h rows and w columns of pixels, m statistics.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 256
_FREQUENCIES = 112  # of rows, and of columns
_RADII = 128
NUM_FILM_STATISTICS = _LEVELS + 2 * _FREQUENCIES + _RADII


def film_statistics(grey: Tensor) -> Tensor:
    """Statistics of grey levels from 0 to 1, (v, h, w) -> (v, m), whatever the size.

    Logarithms of the counts of 256 levels; of the mean amplitudes of rows, of columns, and of the
    spectrum in two dimensions by distance from its centre.
    """
    grey = grey.float() * (_LEVELS - 1)
    levels = grey.round().long().clamp(0, _LEVELS - 1).flatten(1)
    counts = torch.zeros(len(grey), _LEVELS, device=grey.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=counts.dtype))
    varying = grey - grey.mean(dim=(1, 2), keepdim=True)
    # Many short transforms depend on the number of threads; in float64, rounded, they do not.
    exact = varying.double()
    rows = torch.fft.rfft(exact, dim=2).abs().float().mean(dim=1)
    columns = torch.fft.rfft(exact, dim=1).abs().float().mean(dim=2)
    lines = [F.adaptive_avg_pool1d(each.log1p(), _FREQUENCIES) for each in (rows, columns)]
    return torch.cat([counts.log1p(), *lines, _radial(varying)], dim=1)


def _radial(varying: Tensor) -> Tensor:
    """The mean log amplitude at each distance from the centre of the spectrum, (v, 128)."""
    amplitudes = torch.fft.fft2(varying).abs().log1p().flatten(1)
    amplitudes[:, 0] = 0  # the mean, which was taken out: nothing but rounding
    height, width = varying.shape[1:]
    down = torch.fft.fftfreq(height, device=varying.device)[:, None]
    across = torch.fft.fftfreq(width, device=varying.device)[None]
    radius = torch.hypot(down, across) * 2 * (_RADII - 1)  # .5 a pixel is the border
    ring = radius.round().long().clamp(max=_RADII - 1).flatten()
    sums = torch.zeros(len(varying), _RADII, device=varying.device).index_add_(1, ring, amplitudes)
    sizes = torch.bincount(ring, minlength=_RADII).clamp(min=1)
    return sums / sizes
