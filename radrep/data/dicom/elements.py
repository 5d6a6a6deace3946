"""Numbers and texts of DICOM elements, whatever value representation they were written with."""

import math
from typing import Any

import numpy as np

# Value representations (VR) of PS3.5, and the NumPy types of those that hold binary numbers.
_BINARY = {
    "US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "UV": "u8", "SV": "i8",
    "FL": "f4", "FD": "f8", "OW": "u2", "OL": "u4", "OF": "f4", "OD": "f8",
}  # fmt: skip
# Functional groups that decide what is shown.
_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence")
_MAX_TEXT = 64  # the longest UID or LO
_DIGITS = frozenset(b"0123456789+-.,eE\\ ")


def texts(dataset: Any, keyword: str) -> list[str]:
    """The values of an element as text, stripped; none where it is missing or empty."""
    content = _content(dataset, keyword)
    if content is None or not content[1]:
        return []
    vr, value, order = content
    if vr in _BINARY:
        return [str(number) for number in _unpack(value, _BINARY[vr], order).tolist()]
    found = [printable(part.strip(" \0\t\r\n")) for part in _decode(value).split("\\")]
    return found if any(found) else []


def printable(text: str) -> str:
    """A text from a file as it may stand in a message: short and without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_TEXT])


def text(dataset: Any, keyword: str) -> str:
    """The first value of an element in capitals; "" where it is missing or empty."""
    return next(iter(texts(dataset, keyword)), "").upper()


def numbers(dataset: Any, keyword: str) -> list[float]:
    """The values of an element as numbers; NaN for each that is none.

    A decimal comma is read as a point: it cannot occur in a DS otherwise (as fo-dicom reads it).
    """
    found = []
    for value in texts(dataset, keyword):
        try:
            number = float(value.replace(",", "."))
        except ValueError:
            number = math.nan
        found.append(number if math.isfinite(number) else math.nan)
    return found


def number(dataset: Any, keyword: str) -> float | None:
    """The first value of an element; None where it is missing, empty or no finite number."""
    first = next(iter(numbers(dataset, keyword)), math.nan)
    return None if math.isnan(first) else first


def integer(dataset: Any, keyword: str) -> int | None:
    """The first value of an element, rounded; None where it is missing, empty or no number."""
    first = number(dataset, keyword)
    return None if first is None else round(first)


def raw_bytes(dataset: Any, keyword: str) -> tuple[bytes, str]:
    """The bytes of an element as they stand in the file, and their order, "<" or ">"."""
    content = _content(dataset, keyword)
    return (content[1], content[2]) if content else (b"", "<")


def items(dataset: Any, keyword: str) -> list[Any]:
    """The items of a sequence; none where it is missing, empty or no sequence."""
    try:
        return list(dataset.get(keyword) or [])
    except Exception:  # pydicom raises nearly anything on what is no sequence
        return []


def merge_groups(dataset: Any) -> None:
    """Set elements of the one frame's functional groups in the data set itself.

    Enhanced objects hold there what others hold at the top; there it counts, as for dcm4che.
    """
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in items(dataset, groups)[:1]:
            for macro in _MACROS:
                for item in items(group, macro)[:1]:
                    for tag in tuple(item.keys()):  # iterating over it would convert
                        dataset[tag] = item.get_item(tag)


def _content(dataset: Any, keyword: str) -> tuple[str, bytes, str] | None:
    """VR, bytes and byte order of an element before pydicom converts it, which may fail."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement

    tag = tag_for_keyword(keyword)
    element = None if tag is None else dataset.get_item(tag)
    if not isinstance(element, RawDataElement):
        return None
    value = element.value or b""
    vr = element.VR
    if vr in (None, "UN", "OB"):  # implicit, or not known to who wrote it
        is_text = vr is not None and value and _DIGITS.issuperset(value)
        vr = "DS" if is_text else dictionary_VR(element.tag)[:2]
    if vr in _BINARY and len(value) % np.dtype(_BINARY[vr]).itemsize and _DIGITS.issuperset(value):
        vr = "DS"
    return vr, value, "<" if element.is_little_endian else ">"


def _decode(value: bytes) -> str:
    # Of the character sets that DICOM knows these two are nearly all; only identifiers need them.
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _unpack(value: bytes, kind: str, order: str) -> np.ndarray:
    dtype = np.dtype(order + kind)
    return np.frombuffer(value, dtype, count=len(value) // dtype.itemsize)
