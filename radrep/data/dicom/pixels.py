"""What the stored pixels of a DICOM file are, and the decoding of them."""

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from radrep.data.dicom.elements import integer, number, text
from radrep.data.dicom.file import DicomFile
from radrep.data.dicom.tables import read_table
from radrep.errors import DataError

_GREY = ("MONOCHROME1", "MONOCHROME2")
# Frames of JPEG by their SOF marker: the transfer syntaxes that may hold them, likeliest first.
_JPEG = "1.2.840.10008.1.2.4."
_JPEG_SYNTAXES = {
    0xC0: (_JPEG + "50", _JPEG + "51"),
    0xC1: (_JPEG + "51",),
    0xC3: (_JPEG + "70", _JPEG + "57"),
    0xF7: (_JPEG + "80", _JPEG + "81"),
}
_J2K_SYNTAXES = tuple(_JPEG + end for end in ("91", "90", "92", "93", "201", "202", "203"))
_RLE = "1.2.840.10008.1.2.5"
_LITTLE, _BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_SCAN = 0xDAFF  # the mark FF DA of JPEG, as a little-endian number
_MAX_SCANS = 200  # cameras and programs write at most 20 or so
_END_OF_CODE = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000
_JP2 = b"\0\0\0\x0cjP  "  # how a file of JPEG 2000 begins, not a bare code stream


@dataclass(frozen=True)
class PixelLayout:
    """The Image Pixel module, completed where the common practice of viewers completes it."""

    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    signed: bool

    @property
    def is_grey(self) -> bool:
        """Whether a pixel is one grey value."""
        return self.photometric in _GREY

    @property
    def depth(self) -> int:
        """Bits of a stored value: BitsStored, or all that are allocated."""
        allocated = self.bits_allocated or 16
        stored = self.bits_stored or 0
        return stored if 0 < stored <= allocated else allocated


@dataclass(frozen=True)
class Stored:
    """Decoded pixels: grey ones as unsigned codes, uint8 or uint16 (h, w); colour as luminance."""

    pixels: np.ndarray
    layout: PixelLayout


def read_layout(dataset: Any, name: str) -> PixelLayout:
    """The layout of one picture; DataError if it is none that radrep reads."""
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    for keyword, value in (("Rows", rows), ("Columns", columns)):
        if value is None:
            raise _meaningless(name, keyword)
    photometric = "".join(text(dataset, "PhotometricInterpretation").replace("_", "").split())
    photometric = photometric.replace("YBR", "YBR_").replace("FULL422", "FULL_422")
    if not photometric:
        raise _meaningless(name, "PhotometricInterpretation")
    allocated = integer(dataset, "BitsAllocated")
    samples = integer(dataset, "SamplesPerPixel")
    if samples is None:
        samples = 3 if photometric.startswith(("RGB", "YBR")) else 1
    is_grey = samples == 1 and photometric in (*_GREY, "PALETTECOLOR")
    is_colour = samples == 3 and photometric.startswith(("RGB", "YBR"))
    if not is_grey and not (is_colour and (allocated or 8) == 8):
        raise DataError(
            f"{name}: DICOM pixels are {photometric}, {samples} x {allocated} bits; "
            "radrep reads MONOCHROME1, MONOCHROME2, palettes and 8-bit colour"
        )
    num_frames = integer(dataset, "NumberOfFrames") or 1
    if num_frames != 1:
        raise DataError(f"{name}: a DICOM file with {num_frames} frames; radrep reads single ones")
    assert rows is not None
    assert columns is not None
    return PixelLayout(
        rows=rows,
        columns=columns,
        samples=samples,
        photometric=photometric,
        bits_allocated=allocated,
        bits_stored=integer(dataset, "BitsStored"),
        high_bit=integer(dataset, "HighBit"),
        signed=(number(dataset, "PixelRepresentation") or 0) == 1,
    )


def read_stored(file: DicomFile, layout: PixelLayout, name: str) -> Stored:
    """Decode the pixels; DataError if they are cut off or nothing here can decode them."""
    _check_codec(file.declared, layout, name)
    value, is_cut = file.read_value(name)
    is_frame = file.length is None or (
        # JPEG and the like, put in without the items that encapsulate.
        _is_encapsulated(file.declared) and bool(_syntaxes_of(value))
    )
    syntax, layout = _encoding(file, layout, value if is_frame else None, name)
    if is_frame:
        _check_end(value, syntax, is_cut, name)
        if value.startswith(b"\xff\xd8"):
            check_scans(value, name)
        if value.startswith(_JP2):
            _check_boxes(value, name)
        _check_frame_size(value, layout, name)
    else:
        value, layout = _fit_native(value, layout, is_cut, name)
    stored = _decode(file, layout, value, syntax, is_frame)
    if layout.is_grey:
        return Stored(_as_codes(stored, layout, name), layout)
    if layout.photometric == "PALETTECOLOR":
        stored = _apply_palette(file.dataset, stored, name)
    return Stored(np.array(Image.fromarray(stored).convert("L")), layout)


def _meaningless(name: str, keyword: str) -> DataError:
    return DataError(f"{name}: a DICOM file without {keyword}, so its pixels mean nothing")


def _is_encapsulated(syntax: str) -> bool:
    return syntax.startswith((_JPEG, _RLE))


def _syntaxes_of(frame: bytes) -> tuple[str, ...]:
    """The transfer syntaxes whose frames begin as this one; none if it is of an unknown kind."""
    if frame.startswith((b"\xff\x4f\xff\x51", _JP2)):
        return _J2K_SYNTAXES
    if frame.startswith(b"\xff\xd8"):
        return _JPEG_SYNTAXES.get(_find_sof(frame)[0], ())
    if len(frame) >= 64 and struct.unpack_from("<L", frame)[0] in range(1, 16):
        return (_RLE,) if struct.unpack_from("<L", frame, 4)[0] == 64 else ()
    return ()


def _find_sof(frame: bytes) -> tuple[int, int, tuple[int, int]]:
    """Marker, bits, and rows and columns of the frame header of JPEG; all 0 without one."""
    place = 2
    while place + 5 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) or marker == 0xF7:
            size = frame[place + 5 : place + 9].ljust(4, b"\0")
            return marker, frame[place + 4], struct.unpack(">HH", size)
        place += 1 if marker == 0xFF else 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return 0, 0, (0, 0)


def check_scans(jpeg: bytes, name: str, num_pictures: int = 1) -> None:
    """Refuse a progressive JPEG whose picture is described again and again, in a few bytes each."""
    if (num_scans := _count_scans(jpeg)) > _MAX_SCANS * num_pictures:
        raise DataError(
            f"{name}: a JPEG of {num_scans:,} scans, more than {_MAX_SCANS}; not opened, since "
            "such a file can take hours"
        )


def _count_scans(jpeg: bytes) -> int:
    """How often the mark of a scan is there; bytes.count takes seven times as long."""
    content = np.frombuffer(jpeg, np.uint8)
    parts = (content[start : start + (len(content) - start) // 2 * 2] for start in (0, 1))
    return sum(int(np.count_nonzero(part.view("<u2") == _SCAN)) for part in parts)


def _check_boxes(frame: bytes, name: str) -> None:
    """Refuse JP2 whose boxes lead to no picture: pydicom follows one of length 0 for ever."""
    place = len(_JP2) + 4
    while frame[place + 4 : place + 8] != b"jp2c":
        length = int.from_bytes(frame[place : place + 4], "big")
        if length < 8 or place + length >= len(frame):
            raise DataError(
                f"{name}: broken image file (at byte {place} of its JPEG 2000 is a box of {length} "
                "bytes and no picture)"
            )
        place += length


def _check_frame_size(frame: bytes, layout: PixelLayout, name: str) -> None:
    """Refuse a frame of other sides than the header's: decoders would wrap its lines."""
    size = _find_sof(frame)[2] if frame.startswith(b"\xff\xd8") else (0, 0)
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if _syntaxes_of(frame) == _J2K_SYNTAXES and len(frame) >= start + 24:
        columns, rows, left, top = struct.unpack_from(">4L", frame, start + 8)
        size = (rows - top, columns - left)
    if all(size) and size != (layout.rows, layout.columns):
        raise DataError(
            f"{name}: broken image file (its compressed picture is {size[1]} x {size[0]} pixels, "
            f"but Columns and Rows are {layout.columns} x {layout.rows})"
        )


def _encoding(
    file: DicomFile, layout: PixelLayout, frame: bytes | None, name: str
) -> tuple[str, PixelLayout]:
    """The transfer syntax that the pixels are in, whatever is declared, and their layout in it."""
    if frame is None:
        return _LITTLE if file.little_endian else _BIG, layout
    found = _syntaxes_of(frame)
    syntax = file.declared if file.declared in found or not found else found[0]
    if not _is_encapsulated(syntax):
        raise DataError(
            f"{name}: DICOM pixels are compressed, but the file does not name how "
            f"(transfer syntax {syntax or 'missing'})"
        )
    if syntax != file.declared:
        _check_codec(syntax, layout, name)
    depth = _find_sof(frame)[1] if frame.startswith(b"\xff\xd8") else 0
    if syntax == _RLE and found:  # a segment for each byte of a pixel
        depth = 8 * (struct.unpack_from("<L", frame)[0] // layout.samples)
    if depth:
        allocated = 8 if depth <= 8 else 16 if depth <= 16 else depth
        stored = layout.bits_stored or depth
        return syntax, replace(layout, bits_allocated=allocated, bits_stored=stored)
    if layout.bits_allocated is None:
        raise _meaningless(name, "BitsAllocated")
    return syntax, layout


def _check_codec(syntax: str, layout: PixelLayout, name: str) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID, JPEGExtended12Bit

    if not syntax:
        return
    uid = UID(syntax)
    try:
        decoder = get_decoder(uid)
    except NotImplementedError as error:  # video, for example
        raise DataError(f"{name}: DICOM compressed as {uid.name} cannot be read") from error
    # Pillow offers itself for this one, but reads only 8 of its 12 bits.
    in_vain = uid == JPEGExtended12Bit and layout.depth != 8
    plugins = set(decoder.available_plugins) - ({"pillow"} if in_vain else set())
    if uid.is_encapsulated and not plugins:
        raise DataError(
            f"{name}: DICOM compressed as {uid.name}, which needs a plug-in. Install it with: "
            "pip install 'radrep[dicom]'"
        )


def _check_end(frame: bytes, syntax: str, is_cut: bool, name: str) -> None:
    """Refuse frames that are cut off: pylibjpeg fills the rest without a warning."""
    from pydicom.uid import UID

    # The mark of the end, which cannot occur within the pixels; some writers pad after it.
    if syntax != _RLE:
        is_cut = _END_OF_CODE not in frame[-1024:]
    if is_cut:
        raise DataError(f"{name}: broken image file (its {UID(syntax).name} pixels are cut off)")


def _fit_native(
    value: bytes, layout: PixelLayout, is_cut: bool, name: str
) -> tuple[bytes, PixelLayout]:
    """The bytes of the one frame without what follows, and the layout that they are in."""
    num_values = layout.rows * layout.columns * layout.samples
    allocated = layout.bits_allocated
    if allocated not in (1, 8, 16, 32) or (layout.bits_stored or 0) > allocated:
        # Missing or impossible; the number of bytes decides.
        allocated = 8 * (len(value) // max(num_values, 1))
        if allocated not in (8, 16):
            declared = layout.bits_allocated
            raise DataError(
                f"{name}: DICOM pixels of {declared if declared else 'an unknown number of'} bits "
                "(BitsAllocated); radrep reads 8 and 16"
            )
    photometric = layout.photometric
    needed = (num_values * allocated + 7) // 8
    if photometric == "YBR_FULL_422" and len(value) < needed:
        needed = needed * 2 // 3
    elif photometric == "YBR_FULL_422":
        photometric = "YBR_FULL"  # uncompressed, but still named after the JPEG it was
    if is_cut:
        raise DataError(
            f"{name}: broken image file (its pixels are cut off: {len(value):,} bytes of "
            f"{needed:,})"
        )
    # A byte or a few after the pixels are common; another frame or other bits are no picture.
    if not needed <= len(value) < 2 * needed:
        raise DataError(
            f"{name}: broken image file ({len(value):,} bytes of pixels, but {layout.rows} x "
            f"{layout.columns} x {layout.samples} of {allocated} bits are {needed:,})"
        )
    value = value[: needed + needed % 2].ljust(needed + needed % 2, b"\0")
    return value, replace(layout, bits_allocated=allocated, photometric=photometric)


def _decode(
    file: DicomFile, layout: PixelLayout, value: bytes, syntax: str, is_frame: bool
) -> np.ndarray:
    """The pixels by pydicom, from a data set that holds nothing but them."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels import pixel_array
    from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.Rows, dataset.Columns = layout.rows, layout.columns
    dataset.SamplesPerPixel = layout.samples
    is_palette = layout.photometric == "PALETTECOLOR"
    dataset.PhotometricInterpretation = "PALETTE COLOR" if is_palette else layout.photometric
    dataset.BitsAllocated = layout.bits_allocated
    dataset.BitsStored = layout.depth
    dataset.HighBit = layout.depth - 1
    dataset.PixelRepresentation = int(layout.signed)
    if layout.samples > 1:
        dataset.PlanarConfiguration = _planar(file.dataset, value, layout, is_frame)
    dataset.PixelData = encapsulate([value]) if is_frame else value
    dataset["PixelData"].VR = "OB" if is_frame else file.pixel_vr
    dataset["PixelData"].is_undefined_length = is_frame
    # Other plug-ins round otherwise, and pixels must not depend on what else is installed.
    by_pillow = syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) and layout.depth == 8
    plugin = "pillow" if by_pillow else ""
    return pixel_array(dataset, decoding_plugin=plugin, correct_unused_bits=False)


def _planar(dataset: Any, value: bytes, layout: PixelLayout, is_frame: bool) -> int:
    """PlanarConfiguration; where it is missing or wrong, that in which a grey film is grey."""
    planar = int(number(dataset, "PlanarConfiguration") == 1)
    if is_frame or layout.photometric not in ("RGB", "YBR_FULL"):
        return planar
    samples = np.frombuffer(value, np.uint8, count=layout.rows * layout.columns * 3)
    greys = []
    for each in (samples.reshape(-1, 3), samples.reshape(3, -1).T):
        grey = each[:, :1] if layout.photometric == "RGB" else 128
        greys.append(bool((each[:, 1:] == grey).all()))
    return planar if greys[planar] or not any(greys) else 1 - planar


def _apply_palette(dataset: Any, stored: np.ndarray, name: str) -> np.ndarray:
    tables = []
    for colour in ("Red", "Green", "Blue"):
        key = f"{colour}PaletteColorLookupTable"
        table = read_table(dataset, f"{key}Descriptor", f"{key}Data")
        if table is None:
            raise DataError(
                f"{name}: DICOM pixels are PALETTE COLOR, without the palette ({colour.lower()})"
            )
        tables.append(table)
    # By the entries: descriptors say 8 bits of entries that have 16, and the reverse.
    greatest = 255.0 if all(table.entries.max() <= 255 for table in tables) else 65535.0
    channels = [table.look_up(stored, signed=False) for table in tables]
    return np.rint(np.dstack(channels) / greatest * 255.0).astype(np.uint8)


def _as_codes(stored: np.ndarray, layout: PixelLayout, name: str) -> np.ndarray:
    """Grey pixels as the unsigned codes they are stored in, uint8 or uint16."""
    if stored.dtype.itemsize > 2:
        least, greatest = int(stored.min()), int(stored.max())
        narrow = np.iinfo(np.int16 if layout.signed else np.uint16)
        if least < narrow.min or greatest > narrow.max:
            raise DataError(
                f"{name}: DICOM pixels from {least} to {greatest}; radrep reads up to 16 bits"
            )
        stored = stored.astype(narrow.dtype)
    return stored.astype(stored.dtype.newbyteorder("=")).view(f"u{stored.dtype.itemsize}")
