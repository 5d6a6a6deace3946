"""Every row of the DICOM table in .github/docs/data.md is drawn, plain and compressed, and read."""

import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radrep.data.image_io import decode_image, resize
from radrep.errors import DataError, ImageWarning
from tests.data.dicom.drawing import (
    BASELINE,
    BIG,
    DEEP,
    GREY,
    IMPLICIT,
    LITTLE,
    RLE,
    draw,
    encode,
    item,
)

DOCS = Path(__file__).parents[3] / ".github" / "docs" / "data.md"
NATIVE, COMPRESSED = ("native",), ("RLE", "lossless JPEG")
BOTH = ("native", "RLE")
VALUES = DEEP.astype(float)


def windowed(center: float, width: float, values: np.ndarray = VALUES) -> np.ndarray:
    """LINEAR of PS3.3 C.11.2.1.2.1."""
    return _grey((values - (center - 0.5)) / (width - 1) + 0.5)


def exactly(center: float, width: float, values: np.ndarray = VALUES) -> np.ndarray:
    """LINEAR_EXACT."""
    return _grey((values - center) / width + 0.5)


def _grey(share: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


@dataclass
class Drawing:
    """One file: what is in it and what is to come of it.

    Attributes:
        elements: Header elements, as `draw` takes them.
        pixels: Stored codes.
        expected: The picture, or what its refusal matches.
        note: What its one warning matches, "" if it has none.
        forms: How the pixels are stored.
        options: Further arguments of `draw`.
        edit: What happens to the file then.
    """

    elements: dict[str, Any] = field(default_factory=dict)
    pixels: np.ndarray = field(default_factory=lambda: DEEP)
    expected: np.ndarray | str = field(default_factory=lambda: GREY)
    note: str = ""
    forms: tuple[str, ...] = BOTH
    options: dict[str, Any] = field(default_factory=dict)
    edit: Callable[[bytes], bytes] = bytes

    def read(self, form: str) -> np.ndarray:
        file = self.edit(draw(self.pixels, form, self.elements, **self.options))
        return decode_image(file, "a.dcm")


def lut(entries: np.ndarray, first: int, depth: int, **more: Any) -> dict[str, Any]:
    """A lookup table as the item of a sequence."""
    described = [len(entries) % 2**16, first % 2**16, depth]
    return {"LUTDescriptor": described, "LUTData": entries.tobytes()} | more


def window(center: Any, width: Any, **more: Any) -> dict[str, Any]:
    return {"WindowCenter": center, "WindowWidth": width} | more


def presented(entries: np.ndarray, more: dict[str, Any]) -> dict[str, Any]:
    """A presentation LUT beside other elements."""
    return {"PresentationLUTSequence": [lut(entries, 0, 12)]} | more


def signed(pixels: np.ndarray, offset: int) -> np.ndarray:
    """Codes of values less an offset, in two's complement."""
    return (pixels.astype(np.int64) - offset).astype(np.int16).view(np.uint16)


def framed(pixels: np.ndarray, code: int) -> np.ndarray:
    """Pixels with five rows of padding."""
    with_padding = pixels.copy()
    with_padding[:5] = code
    return with_padding


def around(picture: np.ndarray, rows: int = 5) -> np.ndarray:
    """The picture of least to greatest below black rows."""
    values = picture[rows:].astype(float)
    shown = _grey((values - values.min()) / np.ptp(values))
    return np.vstack([np.zeros((rows, picture.shape[1]), np.uint8), shown])


CURVE = np.minimum(4095, np.arange(4096) ** 2 // 4095).astype(np.uint16)  # up to 4095
CURVED = _grey(CURVE[DEEP] / 4095)
RAMP = np.arange(4096).astype(np.uint16)
FALLING = RAMP[::-1].copy()
SS_12, SS_16 = {"PixelRepresentation": 1}, {"PixelRepresentation": 1, "BitsStored": 16}
SPIKED = RAMP // 16
SPIKED[DEEP[9, 9]] = 65535
WINDOWED = np.clip((VALUES - 1999.5) / 3999 + 0.5, 0, 1)  # center 2000, width 4000
PRESENTED = _grey(CURVE[np.rint(WINDOWED * 4095).astype(int)] / 4095)
GREY_RGB = np.dstack([GREY] * 3)
PLANES = np.ascontiguousarray(np.moveaxis(GREY_RGB, -1, 0)).reshape(*GREY.shape, 3)
PALETTE = {
    f"{colour}PaletteColorLookupTable{part}": value
    for colour in ("Red", "Green", "Blue")
    for part, value in (
        ("Descriptor", [256, 0, 16]),
        ("Data", (np.arange(256) * 257).astype("<u2").tobytes()),
    )
}
OVERLAY = {"6000,0100": 16, "6000,0102": 12}
WITH_GRAPHICS = DEEP | np.where(np.add.outer(np.arange(48), np.arange(39)) % 11 == 0, 0x1000, 0)
WITH_GRAPHICS = WITH_GRAPHICS.astype(np.uint16)
# Values of 14 bits, of which 12 are declared.
WIDE = (GREY.astype(np.uint16) * 64).astype(np.uint16)
MARKED = DEEP.copy()
MARKED[0, 0] = 65535
JPEG = encode(GREY, "JPEG", quality=95)
JPEG_GREY = decode_image(JPEG, "a.jpg")
EIGHT = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}


def jpeg(**options: Any) -> Drawing:
    """The picture in baseline JPEG."""
    frame = item(b"") + item(JPEG + b"\0" * (len(JPEG) % 2)) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    settings = {"value": frame, "length": 2**32 - 1, "declared": BASELINE} | options
    return Drawing(pixels=GREY, expected=JPEG_GREY, forms=NATIVE, options=settings)


def without_prefix(file: bytes) -> bytes:
    return file[:128] + file[132:]


DRAWINGS: dict[str, Drawing] = {
    "preamble-missing": Drawing(options={"start": b"", "meta": False}, forms=BOTH),
    "preamble-missing-implicit": Drawing(
        options={"start": b"", "meta": False, "written": IMPLICIT}, forms=NATIVE
    ),
    "preamble-missing-meta": Drawing(options={"start": b""}),
    "preamble-short": Drawing(options={"start": b"DICM"}),
    "prefix-missing": Drawing(edit=without_prefix),
    "syntax-missing": Drawing(options={"declared": None}, forms=(*BOTH, "lossless JPEG")),
    "syntax-missing-implicit": Drawing(
        options={"declared": None, "written": IMPLICIT}, forms=NATIVE
    ),
    "syntax-implicit-for-explicit": Drawing(
        options={"declared": IMPLICIT, "written": LITTLE}, forms=NATIVE
    ),
    "syntax-explicit-for-implicit": Drawing(
        options={"declared": LITTLE, "written": IMPLICIT}, forms=NATIVE
    ),
    "syntax-big-for-little": Drawing(options={"declared": BIG}, forms=NATIVE),
    "syntax-little-for-big": Drawing(options={"declared": LITTLE, "written": BIG}, forms=NATIVE),
    "syntax-padded": Drawing(options={"declared": LITTLE + " "}, forms=NATIVE),
    "syntax-other-codec": Drawing(options={"declared": BASELINE}, forms=COMPRESSED),
    "syntax-native-for-compressed": Drawing(options={"declared": LITTLE}, forms=COMPRESSED),
    "syntax-compressed-for-native": Drawing(options={"declared": RLE}, forms=NATIVE),
    "syntax-private": Drawing(options={"declared": "1.2.3.4.5"}, expected="cannot be read"),
    "delimiter-missing": Drawing(options={"end": b""}, forms=COMPRESSED),
    "offsets-missing": Drawing(options={"offsets": None}, forms=COMPRESSED),
    "offsets-wrong": Drawing(options={"offsets": struct.pack("<2L", 0, 7777)}, forms=COMPRESSED),
    "fragments": Drawing(options={"fragments": 3}, forms=COMPRESSED),
    "items-missing": jpeg(value=JPEG + b"\0" * (len(JPEG) % 2), length=None),
    "jpeg-padded": jpeg(value=item(JPEG + bytes(300)), length=2**32 - 1),
    "cut-header": Drawing(
        edit=lambda file: file[: file.index(b"(\0\x10\0US") + 9], expected="cut off.*modality CR"
    ),
    "sequence-endless": Drawing(
        edit=lambda file: file.replace(
            b"\xe0\x7f\x10\0O", b"\x28\0\x10\x30SQ\0\0\xff\xff\xff\xff" + b"\xe0\x7f\x10\0O", 1
        ),
        expected="a sequence in its header has no end; modality CR",
    ),
    "cut-pixels": Drawing(edit=lambda file: file[:-400], expected="cut off"),
    "cut-jpeg": jpeg(value=item(JPEG)[:-200], end=b""),
    "pixels-missing": Drawing(
        edit=lambda file: file[: file.index(b"\xe0\x7f\x10\0")],
        expected=r"without a picture \(modality CR\)",
    ),
    "pixels-few": Drawing(
        options={"value": DEEP.tobytes()[:-100]}, forms=NATIVE, expected="bytes of pixels, but"
    ),
    "pixels-more": Drawing(options={"value": DEEP.tobytes() + bytes(6)}, forms=NATIVE),
    "pixels-twice": Drawing(
        options={"value": DEEP.tobytes() * 2}, forms=NATIVE, expected="bytes of pixels, but"
    ),
    "pixels-float": Drawing(
        edit=lambda file: file.replace(b"\xe0\x7f\x10\0OW", b"\xe0\x7f\x08\0OF"),
        forms=NATIVE,
        expected="floating point",
    ),
    "rows-text": Drawing({"Rows": ("IS", b"48"), "Columns": ("DS", b" 39.0")}),
    "rows-unknown": Drawing({"Rows": ("UN", b"\x30\0"), "Columns": ("UL", b"\x27\0\0\0")}),
    "rows-missing": Drawing({"Rows": None}, expected="without Rows"),
    "rows-swapped": Drawing(
        {"Rows": 39, "Columns": 48}, forms=("lossless JPEG",), expected="is 39 x 48 pixels, but"
    ),
    "rows-zero": Drawing({"Rows": 0}, expected="smaller than 32"),
    "frames-one": Drawing({"NumberOfFrames": "1 "}),
    "frames-none": Drawing({"NumberOfFrames": "0"}),
    "frames-empty": Drawing({"NumberOfFrames": ""}),
    "frames-several": Drawing({"NumberOfFrames": "2"}, expected="2 frames"),
    "samples-missing": Drawing({"SamplesPerPixel": None}),
    "samples-wrong": Drawing({"SamplesPerPixel": 3}, expected="MONOCHROME2, 3 x 16 bits"),
    "photometric-case": Drawing({"PhotometricInterpretation": "Monochrome2"}),
    "photometric-spaces": Drawing({"PhotometricInterpretation": " MONOCHROME_2\0"}),
    "photometric-missing": Drawing(
        {"PhotometricInterpretation": None}, expected="without PhotometricInterpretation"
    ),
    "photometric-unknown": Drawing({"PhotometricInterpretation": "GREY"}, expected="are GREY"),
    "palette": Drawing({"PhotometricInterpretation": "PALETTE COLOR"} | PALETTE, pixels=GREY),
    "palette-missing": Drawing(
        {"PhotometricInterpretation": "PALETTE COLOR"}, pixels=GREY, expected="without the palette"
    ),
    "planar-missing": Drawing(pixels=GREY_RGB),
    "planar-wrong": Drawing({"PlanarConfiguration": 0}, pixels=PLANES, forms=NATIVE),
    "planar-wrong-for-pixels": Drawing({"PlanarConfiguration": 1}, pixels=GREY_RGB, forms=NATIVE),
    "planar-wrong-ybr": Drawing(
        {"PlanarConfiguration": 0, "PhotometricInterpretation": "YBR_FULL"},
        pixels=np.stack([GREY, GREY * 0 + 128, GREY * 0 + 128]).reshape(*GREY.shape, 3),
        forms=NATIVE,
    ),
    "colour-422-whole": Drawing(
        {"PhotometricInterpretation": "YBR_FULL_422"},
        pixels=np.dstack([GREY, GREY * 0 + 128, GREY * 0 + 128]),
        forms=NATIVE,
    ),
    "colour-deep": Drawing(pixels=np.dstack([DEEP] * 3), expected="RGB, 3 x 16 bits"),
    "allocated-missing": Drawing({"BitsAllocated": None}),
    "allocated-twelve": Drawing({"BitsAllocated": 12}),
    "allocated-less-than-stored": Drawing({"BitsAllocated": 8, "BitsStored": 12}),
    "allocated-16-for-jpeg-of-8": Drawing(
        {"BitsAllocated": 16}, pixels=GREY, forms=("lossless JPEG",)
    ),
    "allocated-32": Drawing(
        {"BitsAllocated": 32, "BitsStored": 32},
        options={"value": DEEP.astype("<u4").tobytes()},
        forms=NATIVE,
    ),
    "allocated-32-deep": Drawing(
        {"BitsAllocated": 32, "BitsStored": 32},
        options={"value": (DEEP.astype("<u4") * 99).tobytes()},
        forms=NATIVE,
        expected="up to 16 bits",
    ),
    "stored-missing": Drawing({"BitsStored": None, "HighBit": None}),
    "stored-above-allocated": Drawing({"BitsStored": 17}, pixels=GREY, forms=("lossless JPEG",)),
    "stored-less-than-pixels": Drawing(
        {"BitsStored": 12}, pixels=WIDE, note="all 16 bits of its pixels are used"
    ),
    "high-bit-missing": Drawing({"HighBit": None}),
    "high-bit-wrong": Drawing({"HighBit": 15} | window(2000, 2000), expected=windowed(2000, 2000)),
    "high-bit-shifted": Drawing(
        {"HighBit": 15} | window(2000, 2000),
        pixels=(DEEP << 4).astype(np.uint16),
        expected=windowed(2000, 2000),
    ),
    "high-bit-shifted-signed": Drawing(
        SS_12 | {"HighBit": 15} | window(-48, 2000),
        (signed(DEEP, 2048) << 4).astype(np.uint16),
        windowed(-48, 2000, VALUES - 2048),
    ),
    "high-bit-wrong-signed": Drawing(
        SS_12 | {"HighBit": 15} | window(-48, 2000),
        signed(DEEP, 2048),
        windowed(-48, 2000, VALUES - 2048),
    ),
    "high-bit-wrong-not-extended": Drawing(
        SS_12 | {"HighBit": 15} | window(-48, 2000),
        signed(DEEP, 2048) & 0xFFF,
        windowed(-48, 2000, VALUES - 2048),
    ),
    "high-bit-shifted-window": Drawing(
        {"HighBit": 15} | window(600, 1300), (DEEP << 4).astype(np.uint16), windowed(600, 1300)
    ),
    "sign-missing": Drawing({"PixelRepresentation": None}),
    "sign-wrong": Drawing(pixels=signed(DEEP, 2048), note="its pixels are signed"),
    "sign-wrong-16": Drawing(
        {"BitsStored": 16}, signed(DEEP, 2048), note="its pixels are signed, against its header"
    ),
    "sign-wrong-8": Drawing(
        {"PixelRepresentation": 1}, pixels=GREY, note="its pixels are unsigned, against its header"
    ),
    "sign-not-extended": Drawing(
        SS_12 | window(-48, 2000),
        pixels=signed(DEEP, 2048) & 0xFFF,
        expected=windowed(-48, 2000, VALUES - 2048),
    ),
    "order-swapped": Drawing(pixels=DEEP.byteswap(), note="in the other byte order"),
    "burnt-in": Drawing({"BurnedInAnnotation": "YES"}, note="text is burnt into the pixels"),
    "overlay-in-pixels": Drawing(OVERLAY, pixels=WITH_GRAPHICS),
    "overlay-not-declared": Drawing(pixels=WITH_GRAPHICS),
    "overlay-apart": Drawing({"6000,0100": 1, "6000,0102": 0, "6000,3000": b"\xff" * 234}),
    "padding": Drawing({"PixelPaddingValue": 4095}, framed(DEEP, 4095), around(GREY)),
    "padding-us-for-ss": Drawing(
        SS_16 | {"PixelPaddingValue": 2**16 - 2000},
        framed(signed(DEEP, 1000), 2**16 - 2000),
        around(GREY),
    ),
    "padding-ss-for-us": Drawing(
        {"PixelPaddingValue": ("SS", b"\xff\xff"), "BitsStored": 16},
        framed(DEEP, 65535),
        around(GREY),
    ),
    "padding-beyond-stored": Drawing(
        {"PixelPaddingValue": 65535}, framed(DEEP, 65535), around(GREY)
    ),
    "padding-8-bit": Drawing(
        {"PixelPaddingValue": ("SS", b"\xff\xff"), "PhotometricInterpretation": "MONOCHROME1"},
        framed(255 - np.maximum(GREY, 1), 255),
        np.vstack([GREY[:5] * 0, np.maximum(GREY, 1)[5:]]),
    ),
    "padding-several": Drawing({"PixelPaddingValue": [4095, 7]}, framed(DEEP, 4095), around(GREY)),
    "padding-text": Drawing(
        {"PixelPaddingValue": ("DS", b"4095,0")}, framed(DEEP, 4095), around(GREY)
    ),
    "padding-no-number": Drawing({"PixelPaddingValue": ("LO", b"none")}),
    "padding-range": Drawing(
        {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4090},
        framed(DEEP, 4092),
        around(GREY),
    ),
    "padding-range-signed": Drawing(
        SS_16 | {"PixelPaddingValue": 2**16 - 2000, "PixelPaddingRangeLimit": ("SS", b"\xd4\xf8")},
        framed(signed(DEEP, 1000), 2**16 - 1900),
        around(GREY),
    ),
    "padding-all": Drawing(
        {"PixelPaddingValue": 9}, DEEP * 0 + 9, expected="every pixel is padding"
    ),
    "modality-lut": Drawing({"ModalityLUTSequence": [lut(FALLING, 0, 12)]}, expected=255 - GREY),
    "modality-lut-ss": Drawing(
        {
            "ModalityLUTSequence": [
                lut(FALLING * 16, 0, 16, LUTData=("SS", (FALLING * 16).tobytes()))
            ]
        },
        expected=255 - GREY,
    ),
    "modality-lut-first-us": Drawing(
        SS_12 | {"ModalityLUTSequence": [lut(FALLING, -2048, 12)]},
        signed(DEEP, 2048),
        255 - GREY,
    ),
    "modality-lut-first-ss": Drawing(
        {
            "BitsStored": 16,
            "ModalityLUTSequence": [
                lut(FALLING, 0, 12, LUTDescriptor=("SS", struct.pack("<3H", 4096, 40000, 12)))
            ],
        },
        (DEEP + 40000).astype(np.uint16),
        255 - GREY,
    ),
    "modality-lut-65536": Drawing(
        {"ModalityLUTSequence": [lut(FALLING, 0, 12, LUTDescriptor=[0, 0, 12])]},
        expected=255 - GREY,
    ),
    "modality-lut-bytes": Drawing(
        {"ModalityLUTSequence": [lut(np.arange(255, -1, -1).astype(np.uint8), 0, 8)]},
        GREY,
        255 - GREY,
    ),
    "modality-lut-count": Drawing(
        {"ModalityLUTSequence": [lut(FALLING, 0, 12, LUTDescriptor=[256, 0, 12])]},
        expected=255 - GREY,
    ),
    "modality-lut-empty": Drawing(
        {"ModalityLUTSequence": [{"LUTDescriptor": [4096, 0, 12]}]},
        expected="its modality LUT has no data",
    ),
    "slope": Drawing(
        {"RescaleSlope": "2", "RescaleIntercept": "-1000"} | window(3000, 4000),
        expected=windowed(3000, 4000, VALUES * 2 - 1000),
    ),
    "slope-negative": Drawing(
        {"RescaleSlope": "-1", "RescaleIntercept": "4095"}, expected=255 - GREY
    ),
    "slope-negative-8-bit": Drawing(
        {"RescaleSlope": "-1", "RescaleIntercept": "255"},
        pixels=GREY // 2,
        expected=255 - GREY // 2,
    ),
    "slope-tiny": Drawing({"RescaleSlope": "1e-05"}),
    "slope-comma": Drawing(
        {"RescaleSlope": "0,5", "RescaleIntercept": "-100,0"} | window(900, 1000),
        expected=windowed(900, 1000, VALUES * 0.5 - 100),
    ),
    "slope-several": Drawing(
        {"RescaleSlope": "0.5\\7", "RescaleIntercept": "-100\\3"} | window(900, 1000),
        expected=windowed(900, 1000, VALUES * 0.5 - 100),
    ),
    "slope-binary": Drawing(
        {"RescaleSlope": ("FD", struct.pack("<d", 0.5))} | window(1000, 1000),
        expected=windowed(1000, 1000, VALUES * 0.5),
    ),
    "slope-zero": Drawing(
        {"RescaleSlope": "0", "RescaleIntercept": "0"}, note="its RescaleSlope is not used"
    ),
    "slope-text": Drawing({"RescaleSlope": "US"}, note=r"RescaleSlope is not used \('US'\)"),
    "slope-nan": Drawing({"RescaleSlope": "nan"}, note="RescaleSlope is not used"),
    "intercept-text": Drawing({"RescaleIntercept": "n/a"}, note="RescaleIntercept is not used"),
    "slope-huge": Drawing({"RescaleSlope": "1e308"}, expected="its rescaling is not a number"),
    "voi-lut": Drawing({"VOILUTSequence": [lut(CURVE, 0, 12)]} | window(10, 20), expected=CURVED),
    "voi-lut-16-for-12": Drawing({"VOILUTSequence": [lut(CURVE, 0, 16)]}, expected=CURVED),
    "voi-lut-8-for-12": Drawing({"VOILUTSequence": [lut(CURVE, 0, 8)]}, expected=CURVED),
    "voi-lut-bytes-in-words": Drawing(
        {"VOILUTSequence": [lut((CURVE >> 4).astype(np.uint16), 0, 8)]},
        expected=(CURVE[DEEP] >> 4).astype(np.uint8),
    ),
    "voi-lut-ss": Drawing(
        {"VOILUTSequence": [lut(CURVE, 0, 16, LUTData=("SS", (CURVE * 16).tobytes()))]},
        expected=CURVED,
    ),
    "voi-lut-first-us": Drawing(
        {
            "RescaleSlope": "1",
            "RescaleIntercept": "-1024",
            "VOILUTSequence": [lut(CURVE, -1024, 12)],
        },
        expected=CURVED,
    ),
    "voi-lut-beside": Drawing(
        {"VOILUTSequence": [lut(CURVE, 9000, 12)]}, note="its VOI LUT leaves no picture"
    ),
    "voi-lut-spike": Drawing(
        {"VOILUTSequence": [lut(SPIKED, 0, 16)]},
        expected=np.where(DEEP[9, 9] == DEEP, 255, GREY).astype(np.uint8),
        note=r"one entry of its VOI LUT is not counted \(65535, others to 255\)",
    ),
    "voi-lut-empty": Drawing({"VOILUTSequence": [{}]}, note="its VOI LUT has no data", forms=BOTH),
    "voi-lut-none": Drawing({"VOILUTSequence": []}),
    "window": Drawing(window("2000", "2000"), expected=windowed(2000, 2000)),
    "window-several": Drawing(window("2000\\10", "2000\\20\\30"), expected=windowed(2000, 2000)),
    "window-comma": Drawing(window("2000,0", "2000,0"), expected=windowed(2000, 2000)),
    "window-spaces": Drawing(window("  2000.0 ", " +2E3"), expected=windowed(2000, 2000)),
    "window-binary": Drawing(
        window(("US", struct.pack("<H", 2000)), ("FL", struct.pack("<f", 2000))),
        expected=windowed(2000, 2000),
    ),
    "window-unknown-vr": Drawing(
        window(("UN", b"2000"), ("LO", b"2000")), expected=windowed(2000, 2000)
    ),
    "window-empty": Drawing(window("", " ")),
    "window-alone": Drawing({"WindowCenter": "2000"}),
    "window-text": Drawing(
        window("WINDOW1", "WINDOW1"), note=r"window is not used \(center 'WINDOW1'"
    ),
    "window-zero": Drawing(window("2000", "0"), note="window is not used"),
    "window-negative": Drawing(window("2000", "-4096"), note="window is not used"),
    "window-second": Drawing(
        window("1\\2000", "0\\2000"), expected=windowed(2000, 2000), note="window is not used"
    ),
    "window-below-1": Drawing(
        {"RescaleSlope": "0.0001"} | window("0.2", "0.2"),
        expected=exactly(0.2, 0.2, VALUES * 0.0001),
    ),
    "window-of-1": Drawing(
        {"RescaleSlope": "0.0005"} | window("1", "1"),
        expected=exactly(1, 1, VALUES * 0.0005),
    ),
    "window-left-over": Drawing(
        window("1", "1"), note=r"leaves no picture and is not used \(center 1, width 1\)"
    ),
    "window-left-over-8-bit": Drawing(
        window("0", "1"),
        pixels=GREY // 2 + np.uint8(20),
        expected=_grey((GREY // 2 - 0.0) / 127),
        note="leaves no picture and is not used",
    ),
    "window-full": Drawing(
        window("2048", "4096"), DEEP // 2, _grey((DEEP // 2) / float(DEEP.max() // 2))
    ),
    "window-full-signed": Drawing(
        window("0", "8192")
        | {"RescaleSlope": "2", "RescaleIntercept": "0"}
        | {"PixelRepresentation": 1},
        signed(DEEP // 2, 1000),
        _grey((DEEP // 2) / float(DEEP.max() // 2)),
    ),
    "window-beside": Drawing(window("9000", "2000"), note="leaves no picture and is not used"),
    "function-exact": Drawing(
        window("2000", "20", VOILUTFunction="linear_exact "),
        (GREY // 12 + np.uint16(1990)),
        exactly(2000, 20, GREY // 12 + 1990.0),
    ),
    "function-sigmoid": Drawing(
        window("2000", "1000", VOILUTFunction="SIGMOID"),
        expected=_grey(1 / (1 + np.exp(-4 * (VALUES - 2000) / 1000))),
    ),
    "function-unknown": Drawing(
        window("2000", "2000", VOILUTFunction="GAUSS"),
        expected=windowed(2000, 2000),
        note="VOI LUT Function is unknown",
    ),
    "shape-identity": Drawing({"PresentationLUTShape": "IDENTITY"}),
    "shape-inverse": Drawing(
        {"PresentationLUTShape": "INVERSE"}, expected=255 - GREY, note="inverted by its Present"
    ),
    "shape-inverse-1": Drawing(
        {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
        expected=255 - GREY,
    ),
    "shape-identity-1": Drawing(
        {"PresentationLUTShape": "IDENTITY", "PhotometricInterpretation": "MONOCHROME1"},
        expected=255 - GREY,
        note="inverted as MONOCHROME1",
    ),
    "shape-unknown": Drawing({"PresentationLUTShape": "LIN OD"}),
    "presentation-lut": Drawing(presented(CURVE, window(2000, 4000)), expected=PRESENTED),
    "presentation-lut-inverse": Drawing(
        presented(CURVE[::-1].copy(), window(2000, 4000)),
        expected=_grey(CURVE[::-1][np.rint(WINDOWED * 4095).astype(int)] / 4095),
        note="inverted by its Presentation LUT Shape, INVERSE \\(a table\\)",
    ),
    "presentation-lut-inverse-1": Drawing(
        presented(FALLING, {"PhotometricInterpretation": "MONOCHROME1"}), expected=255 - GREY
    ),
    "presentation-lut-1": Drawing(
        presented(RAMP, {"PhotometricInterpretation": "MONOCHROME1"}),
        expected=255 - GREY,
        note="inverted as MONOCHROME1",
    ),
    "presentation-lut-empty": Drawing(
        {"PresentationLUTSequence": [{"LUTDescriptor": [4096, 0, 12]}]},
        note="Presentation LUT has no data",
    ),
    "groups-shared": Drawing(
        {
            "SharedFunctionalGroupsSequence": [
                {
                    "PixelValueTransformationSequence": [
                        {"RescaleSlope": "2", "RescaleIntercept": "-1000"}
                    ],
                    "FrameVOILUTSequence": [window(3000, 4000)],
                }
            ]
        },
        expected=windowed(3000, 4000, VALUES * 2 - 1000),
    ),
    "groups-per-frame": Drawing(
        {
            "NumberOfFrames": "1",
            "SharedFunctionalGroupsSequence": [
                {"PixelValueTransformationSequence": [{"RescaleSlope": "-1"}]}
            ],
            "PerFrameFunctionalGroupsSequence": [
                {"FrameVOILUTSequence": [window(-2000, 20, VOILUTFunction="LINEAR_EXACT")]}
            ],
        },
        (GREY // 12 + np.uint16(1990)),
        exactly(-2000, 20, -(GREY // 12 + 1990.0)),
    ),
    "groups-beside": Drawing(
        window(500, 100)
        | {"SharedFunctionalGroupsSequence": [{"FrameVOILUTSequence": [window(2000, 2000)]}]},
        expected=windowed(2000, 2000),
    ),
    "groups-spacing": Drawing(
        {
            "PerFrameFunctionalGroupsSequence": [
                {"PixelMeasuresSequence": [{"PixelSpacing": "0.3\\0.2"}]}
            ]
        },
        expected=resize(GREY, 72, 39),
    ),
    "groups-empty": Drawing(
        {
            "SharedFunctionalGroupsSequence": [{"FrameVOILUTSequence": []}],
            "PerFrameFunctionalGroupsSequence": [{}],
        }
    ),
    "spacing": Drawing({"PixelSpacing": "0.3\\0.2"}, expected=resize(GREY, 72, 39)),
    "spacing-imager": Drawing({"ImagerPixelSpacing": "0.2\\0.4"}, expected=resize(GREY, 48, 78)),
    "spacing-comma": Drawing({"PixelSpacing": "0,3\\0,2"}, expected=resize(GREY, 72, 39)),
    "spacing-useless": Drawing({"PixelSpacing": "0.2", "ImagerPixelSpacing": "0\\0.2"}),
    "spacing-absurd": Drawing({"PixelSpacing": "9\\0.2"}, note="taken for squares"),
    "aspect": Drawing({"PixelAspectRatio": "3\\2"}, expected=resize(GREY, 72, 39)),
    "aspect-beside-spacing": Drawing({"PixelAspectRatio": "3\\2", "PixelSpacing": "0.2\\0.2"}),
    "few-levels": Drawing(
        window("2000", "300"),
        expected=windowed(2000, 300),
        note=r"few grey levels \(\d of 86 values\)",
    ),
    "outlier": Drawing(
        {"BitsStored": 16},
        MARKED,
        _grey(MARKED / 65535),
        note=r"few grey levels \(nearly all of it in 1 to 15 of 255\)",
    ),
    "saturated": Drawing(
        window("3950", "300"), expected=windowed(3950, 300), note=r"the darkest grey level \(9"
    ),
}
DRAWINGS["cut-jpeg"].expected = "cut off"


def table_rows() -> list[str]:
    """Names of the rows of the table in the documentation."""
    section = DOCS.read_text(encoding="utf-8").split("\n## DICOM\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE)


def test_every_row_of_the_table_has_a_drawing_and_every_drawing_a_row():
    rows = table_rows()
    assert len(rows) == len(set(rows))
    assert set(rows) - set(DRAWINGS) == set()
    assert set(DRAWINGS) - set(rows) == set()
    kinds = {form for drawing in DRAWINGS.values() for form in drawing.forms}
    assert kinds == {"native", "RLE", "lossless JPEG"}


@pytest.mark.parametrize(
    ("row", "form"), [(row, form) for row, drawing in DRAWINGS.items() for form in drawing.forms]
)
def test_the_table_of_attributes_holds(row, form):
    drawing = DRAWINGS[row]
    if isinstance(drawing.expected, str):
        with pytest.raises(DataError, match=drawing.expected) as caught:
            drawing.read(form)
        assert str(caught.value).startswith("a.dcm: ")
        assert str(caught.value).isprintable()
        return
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        pixels = drawing.read(form)
    assert pixels.shape == drawing.expected.shape
    assert np.abs(pixels.astype(int) - drawing.expected).max() <= 1
    found = [(note.category, str(note.message)) for note in notes]
    assert len(found) == bool(drawing.note), found
    for category, text in found:
        assert category is ImageWarning
        assert text.startswith("a.dcm: ")
        assert re.search(drawing.note, text)
        assert "\n" not in text
