"""Pixel values to what a viewer shows, in the order of PS3.3 and PS3.4.

Rescale slope and intercept or the modality LUT, then the VOI LUT or window, computed once for each
stored code and applied as a table.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from radrep.data.dicom.codes import find_padding, find_values
from radrep.data.dicom.elements import items, number, numbers, text, texts
from radrep.data.dicom.pixels import PixelLayout, Stored
from radrep.data.dicom.tables import read_table
from radrep.errors import DataError

# Fewer grey levels than these, of values that have many, hide what is in a film.
_FEW, _MANY, _NARROW = 16, 64, 32
_SATURATED = 0.95
_SPIKE = 1.5  # times the next
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_SPACINGS = (
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
)


def show(dataset: Any, stored: Stored, name: str, notes: list[str]) -> tuple[np.ndarray, bool]:
    """Map stored grey pixels to what a viewer shows, uint8 (h, w), and whether to invert that.

    `notes` gets what was chosen for the user, values in brackets at its end.
    """
    layout, pixels = stored.layout, stored.pixels
    counts = np.bincount(pixels.ravel(), minlength=256**pixels.itemsize)
    padding = find_padding(dataset, layout, len(counts))
    present = (counts > 0) & ~padding
    if not present.any():
        raise DataError(f"{name}: blank, every pixel is padding")
    stored_values = find_values(dataset, layout, pixels, present, notes)
    values, signed = _rescale(dataset, layout, stored_values, name, notes)
    if not np.isfinite(values[present]).all():
        raise DataError(f"{name}: its rescaling is not a number")
    ends = _ends(layout, stored_values, values)
    shown = _display(dataset, layout, values, present, signed, ends, notes)
    shown, shape = _present(dataset, shown, notes)
    grey = np.rint(np.clip(shown, 0.0, 1.0) * 255.0).astype(np.uint8)
    _judge(grey, np.where(present, counts, 0), notes)
    negative = is_negative(layout, shape, notes)
    grey[padding] = 255 if negative else 0  # black
    return grey[pixels], negative


def is_negative(layout: PixelLayout, shape: str, notes: list[str]) -> bool:
    """Whether the least value is shown white.

    MONOCHROME1 and a presentation LUT of shape INVERSE are one statement and invert once.
    """
    is_first = layout.photometric == "MONOCHROME1"
    if shape.startswith("INVERSE") and not is_first:
        notes.append(f"inverted by its Presentation LUT Shape, {shape}, though it is MONOCHROME2")
    elif shape.startswith("IDENTITY") and is_first:
        notes.append(f"inverted as MONOCHROME1, though its Presentation LUT Shape is {shape}")
    return is_first or shape.startswith("INVERSE")


def _present(dataset: Any, shown: np.ndarray, notes: list[str]) -> tuple[np.ndarray, str]:
    """Greys under the presentation LUT, not inverted yet, and its shape: falling is INVERSE."""
    shape = text(dataset, "PresentationLUTShape")
    for item in items(dataset, "PresentationLUTSequence")[:1]:
        table = read_table(item)
        if table is None or table.entries[0] == table.entries[-1]:
            notes.append(
                "its Presentation LUT has no data, or does not rise or fall: it is not used"
            )
            continue
        entries = table.entries / float(table.entries.max())
        is_falling = bool(entries[0] > entries[-1])
        places = np.rint(np.clip(shown, 0.0, 1.0) * (len(entries) - 1)).astype(np.intp)
        greys = entries[places]
        shape = "INVERSE (a table)" if is_falling else "IDENTITY (a table)"
        return (1.0 - greys if is_falling else greys), shape
    return shown, shape


def _ends(layout: PixelLayout, stored: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The rescaled values of the least and the greatest value that can be stored."""
    half = 2 ** (layout.depth - 1)
    bounds = (-half, half - 1) if layout.signed else (0, 2 * half - 1)
    codes = (np.flatnonzero(stored == bound) for bound in bounds)
    first, last = (
        float(values[found[0] if len(found) else bound % len(values)])
        for found, bound in zip(codes, bounds, strict=True)
    )
    return min(first, last), max(first, last)


def find_aspect(dataset: Any, notes: list[str]) -> float:
    """Height of a pixel over its width: the distance of rows over that of columns."""
    for keyword in _SPACINGS:
        pair = numbers(dataset, keyword)
        if len(pair) < 2 or not min(pair[:2]) > 0:
            continue
        ratio = pair[0] / pair[1]
        if 0.2 <= ratio <= 5.0:
            return ratio
        notes.append(f"its pixels are taken for squares ({keyword} {pair[0]:g}, {pair[1]:g})")
    return 1.0


def _rescale(
    dataset: Any, layout: PixelLayout, stored: np.ndarray, name: str, notes: list[str]
) -> tuple[np.ndarray, bool]:
    """Rescaled values, and whether they can be negative."""
    modality = items(dataset, "ModalityLUTSequence")
    if modality:
        table = read_table(modality[0])
        if table is None:
            raise DataError(f"{name}: its modality LUT has no data or no descriptor")
        return table.look_up(stored, signed=layout.signed).astype(float), False
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    for keyword, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        written = "\\".join(texts(dataset, keyword))
        if (value is None and written) or (value == 0 and keyword == "RescaleSlope"):
            notes.append(f"its {keyword} is not used ({written[:16]!r})")
    values = stored * (slope or 1.0) + (intercept or 0.0)
    return values, layout.signed or bool(values[: 2**layout.depth].min() < 0)


def _display(
    dataset: Any,
    layout: PixelLayout,
    values: np.ndarray,
    present: np.ndarray,
    signed: bool,
    ends: tuple[float, float],
    notes: list[str],
) -> np.ndarray:
    """Map rescaled values to grey, 0 to 1, by the first VOI that leaves a picture."""
    exposed = values[present]
    has_many = len(np.unique(exposed)) >= _FEW
    is_unusable = False
    for voi, found, shown in _vois(dataset, layout, values, signed, ends, notes):
        grey = np.unique(np.rint(np.clip(shown[present], 0.0, 1.0) * 255.0))
        num_inside = ((grey > 0) & (grey < 255)).sum()
        if num_inside >= 2 or (not has_many and len(grey) > 1):
            return shown
        notes.append(f"its {voi} leaves no picture and is not used ({found})")
        is_unusable = True
    if layout.depth == 8 and not layout.signed and not is_unusable:
        if items(dataset, "ModalityLUTSequence"):
            black, white = 0.0, 255.0
        else:
            black, white = ends  # as they are stored; a negative slope inverts
        if black <= exposed.min() and exposed.max() <= white:
            return (values - black) / (white - black)
    least, greatest = float(exposed.min()), float(exposed.max())
    return (values - least) / (greatest - least if greatest > least else 1.0)


def _vois(
    dataset: Any,
    layout: PixelLayout,
    values: np.ndarray,
    signed: bool,
    ends: tuple[float, float],
    notes: list[str],
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Each VOI LUT and then each window of a file: its name, what it is, the values under it.

    A window over all that the stored bits can hold is what exporters write who know none, and
    counts as none: 12 bits of which a film uses half would be shown at half of its contrast.
    """
    for item in items(dataset, "VOILUTSequence"):
        table = read_table(item)
        if table is None or not table.entries.any():
            notes.append("its VOI LUT has no data or no descriptor and is not used")
            continue
        # By the greatest entry: the descriptor of some (Agfa) has the bits of storage. So do Horos,
        # Cornerstone and dicom-rs.
        looked_up = table.look_up(values, signed=signed)
        yield "VOI LUT", table.name, looked_up / _white(table.entries, notes)
    function = text(dataset, "VOILUTFunction")
    if function not in ("", *_FUNCTIONS):
        notes.append(f"its VOI LUT Function is unknown and taken as LINEAR ({function[:16]!r})")
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    for center, width in zip(centers, widths, strict=False):
        # A window without width, which the standard forbids, counts as none.
        if function != "SIGMOID" and _holds_all(center, width, layout, ends):
            continue
        if not math.isnan(center) and width > 0:
            found = f"center {center:g}, width {width:g}"
            yield "window", found, _window(values, center, width, function)
        else:
            written = ["\\".join(texts(dataset, f"Window{key}")) for key in ("Center", "Width")]
            notes.append(f"its window is not used (center {written[0]!r}, width {written[1]!r})")


def _white(entries: np.ndarray, notes: list[str]) -> float:
    """The greatest entry of a table; not one alone that far exceeds all others."""
    distinct = np.unique(entries)
    greatest = int(distinct[-1])
    if len(distinct) > _FEW and (entries == greatest).sum() == 1:
        second = int(distinct[-2])
        if greatest > _SPIKE * second:
            notes.append(
                f"one entry of its VOI LUT is not counted ({greatest}, others to {second})"
            )
            return float(second)
    return float(greatest)


def _holds_all(center: float, width: float, layout: PixelLayout, ends: tuple[float, float]) -> bool:
    """Whether a window reaches from the least to the greatest value that can be stored."""
    least, greatest = ends
    step = (greatest - least) / (2**layout.depth - 1)
    return center - width / 2 <= least + step and center + width / 2 >= greatest - step


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """The three windows of DICOM PS3.3 C.11.2, from 0 to 1.

    LINEAR of a width up to 1, which the standard forbids below 1, is taken as LINEAR_EXACT.
    pydicom's own returns the range of the stored values, which a negative rescale slope inverts.
    """
    if function == "SIGMOID":
        # Beyond 50 the exponential only changes what rounds to 0 or 255 all the same.
        steepness = -4.0 * (values - center) / width
        return 1.0 / (1.0 + np.exp(np.clip(steepness, -50.0, 50.0)))
    if function != "LINEAR_EXACT" and width > 1:
        center, width = center - 0.5, width - 1.0
    return (values - center) / width + 0.5


def _judge(grey: np.ndarray, counts: np.ndarray, notes: list[str]) -> None:
    """Note a picture that is black or white nearly all over, or has lost nearly all its levels."""
    num_values, num_pixels = int((counts > 0).sum()), int(counts.sum())
    num_levels = len(np.unique(grey[counts > 0]))
    for end, what in ((0, "the darkest"), (255, "the brightest")):
        share = counts[grey == end].sum() / num_pixels
        if share > _SATURATED:
            notes.append(f"nearly all of it is shown in {what} grey level ({share:.1%})")
            return
    # From the 1st to the 99th percentile: one bright pixel can leave the rest nearly black.
    shares = np.cumsum(np.bincount(grey, weights=counts, minlength=256)) / num_pixels
    low, high = np.searchsorted(shares, (0.01, 0.99))
    if num_values >= _MANY and num_levels < _FEW:
        notes.append(f"shown in few grey levels ({num_levels} of {num_values} values)")
    elif num_values >= _MANY and high - low < _NARROW:
        notes.append(f"shown in few grey levels (nearly all of it in {low} to {high} of 255)")
