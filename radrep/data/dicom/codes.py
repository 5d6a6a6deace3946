"""Stored codes to pixel values: which bits count, with what sign, and which codes are padding."""

from typing import Any

import numpy as np

from radrep.data.dicom.elements import number, numbers
from radrep.data.dicom.pixels import PixelLayout

_OVERLAYS = range(0x6000, 0x6100, 2)  # groups
_ROWS_COMPARED = 64
_MANY_CODES = 16  # on either side of where the sign begins


def find_padding(dataset: Any, layout: PixelLayout, num_codes: int) -> np.ndarray:
    """Which codes mark what lies around the exposed field, bool (codes).

    Of either sign, since writers put 63536 for -2000 and -1 for 65535; of several values the first.
    """
    is_padding = np.zeros(num_codes, dtype=bool)
    bounds = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = number(dataset, keyword)
        if value is None or not -num_codes / 2 <= _narrow(value, num_codes) < num_codes:
            continue
        code = round(_narrow(value, num_codes)) % num_codes
        bounds.append(code - num_codes if layout.signed and code >= num_codes // 2 else code)
    if bounds and numbers(dataset, "PixelPaddingValue"):
        is_padding[np.arange(min(bounds), max(bounds) + 1) % num_codes] = True
    return is_padding


def find_values(
    dataset: Any,
    layout: PixelLayout,
    pixels: np.ndarray,
    present: np.ndarray,
    notes: list[str],
) -> np.ndarray:
    """The value of each code, int (codes).

    Args:
        dataset: Where overlays are declared.
        layout: Bits and sign by the header.
        pixels: The codes of the picture, (h, w).
        present: Which codes occur in the picture outside its padding, bool (codes).
        notes: Gets a note where the header contradicts the pixels.
    """
    codes = np.arange(len(present))
    size = len(present).bit_length() - 1
    depth = min(layout.depth, size)
    declared = _interpret(codes, size, signed=layout.signed)
    if depth == size and _is_torn(declared, pixels, present, size, signed=layout.signed):
        notes.append(
            f"its pixels are {'un' * layout.signed}signed, against its header (PixelRepresentation "
            f"{int(layout.signed)})"
        )
        return _interpret(codes, size, signed=not layout.signed)
    if depth == size or _fits(declared, present, depth, signed=layout.signed):
        return declared
    shift = (layout.high_bit or 0) + 1 - depth
    masked = _interpret(codes, depth, signed=layout.signed)
    # DCMTK: the bits below HighBit. Signed values without a bit above theirs are not extended.
    is_shifted = not layout.signed or bool(codes[present].max() >= 2**depth)
    if 0 < shift <= size - depth and is_shifted:
        return _interpret(codes >> shift, depth, signed=layout.signed)
    if _has_embedded_overlay(dataset):
        return masked
    found = f"BitsStored {depth}, PixelRepresentation {int(layout.signed)}"
    # Bits that do not belong to a value tear the picture: it is smoothest without them.
    rows = pixels[:: max(1, len(pixels) // _ROWS_COMPARED)]
    swapped = _interpret(codes.astype(f"<u{size // 8}").byteswap(), size, signed=layout.signed)
    if _fits(swapped, present, depth, signed=layout.signed) and (
        _roughness(swapped, rows) / np.ptp(swapped[present])
        < 0.5 * _roughness(declared, rows) / np.ptp(declared[present])
    ):
        notes.append(f"its pixels are in the other byte order, against its header ({found})")
        return swapped
    candidates = {"": masked, f"all {size} bits of its pixels are used": declared}
    other = _interpret(codes, size, signed=not layout.signed)
    if _fits(other, present, depth, signed=not layout.signed):
        candidates[f"its pixels are {'un' * layout.signed}signed"] = other
    note = min(candidates, key=lambda key: _roughness(candidates[key], rows))
    if note:
        notes.append(f"{note}, against its header ({found})")
    return candidates[note]


def _is_torn(
    declared: np.ndarray, pixels: np.ndarray, present: np.ndarray, size: int, *, signed: bool
) -> bool:
    """Whether a picture is far smoother with its pixels of the other sign.

    A few bright pixels, such as marks, do not count.
    """
    half = len(present) // 2
    if min(present[:half].sum(), present[half:].sum()) < _MANY_CODES:
        return False
    # Signed values leave a gap in the middle of the codes; black beside white need not.
    if not signed and (size == 8 or present[half - half // 4 : half + half // 4].any()):
        return False
    other = _interpret(np.arange(len(present)), size, signed=not signed)
    rows = pixels[:: max(1, len(pixels) // _ROWS_COMPARED)]
    return _roughness(other, rows) < 0.5 * _roughness(declared, rows)


def _roughness(table: np.ndarray, rows: np.ndarray) -> float:
    """How much neighbours in these rows of a picture differ in all."""
    return float(np.abs(np.diff(table[rows])).sum())


def _narrow(value: float, num_codes: int) -> float:
    """A negative value of 8-bit pixels that was written as one of 16 bits."""
    return value - 2**16 if num_codes < 2**16 and value >= 2**16 - num_codes / 2 else value


def _interpret(codes: np.ndarray, depth: int, *, signed: bool) -> np.ndarray:
    values = codes.astype(np.int64) & (2**depth - 1)
    return values - (values >> (depth - 1) << depth) if signed else values


def _fits(values: np.ndarray, present: np.ndarray, depth: int, *, signed: bool) -> bool:
    least = -(2 ** (depth - 1)) if signed else 0
    inside = (values >= least) & (values < least + 2**depth)
    return bool(inside[present].all())


def _has_embedded_overlay(dataset: Any) -> bool:
    """Whether unused bits of the pixels hold graphics: declared, but without data of their own."""
    return any(
        (group << 16 | 0x0102) in dataset and (group << 16 | 0x3000) not in dataset
        for group in _OVERLAYS
    )
