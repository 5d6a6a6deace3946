"""DICOM files drawn for tests."""

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

# Grey from 0 to 255, different in each corner, with an odd number of columns.
GREY = (np.add.outer(np.arange(48), np.arange(38, -1, -1)) * 3).astype(np.uint8)
DEEP = GREY.astype(np.uint16) * 16


def write_dicom(path: Path, pixels: np.ndarray, syntax=ExplicitVRLittleEndian, **elements) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Modality = "CR"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.itemsize * 8
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    big = syntax == ExplicitVRBigEndian
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<>"[big])).tobytes()
    dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    dataset.HighBit = dataset.get("BitsStored", 8) - 1
    dataset.save_as(path, enforce_file_format=True)
    return path


def compress(path: Path, syntax: str, frame: bytes | None = None, **options) -> Path:
    """Compress a file, or put a frame that is compressed already in place of its pixels."""
    dataset = pydicom.dcmread(path)
    if frame is None:
        dataset.compress(syntax, generate_instance_uid=False, **options)
    else:
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    return path


def encode(pixels: np.ndarray, format_: str, **options) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format_, **options)
    return encoded.getvalue()


def encode_lossless_jpeg(pixels: np.ndarray, depth: int) -> bytes:
    """JPEG process 14: each pixel less its left neighbour, in Huffman codes of 5 bits each."""

    def segment(mark: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, mark, len(content) + 2) + content

    height, width = pixels.shape
    predicted = np.empty((height, width), np.int64)
    predicted[:, 1:] = pixels[:, :-1]
    predicted[1:, 0] = pixels[:-1, 0]
    predicted[0, 0] = 2 ** (depth - 1)
    bits = ""
    # Differences are of 16 bits, with their carry lost.
    for difference in ((pixels - predicted + 2**15) % 2**16 - 2**15).ravel().tolist():
        length = abs(difference).bit_length()
        if length == 16:  # -32768, which needs no further bits
            bits += "10000"
            continue
        coded = difference if difference > 0 else difference + 2**length - 1
        bits += f"{length:05b}" + (f"{coded:0{length}b}" if length else "")
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return (
        b"\xff\xd8"
        + segment(0xC3, struct.pack(">BHHB", depth, height, width, 1) + b"\1\x11\0")
        + segment(0xC4, b"\0" + bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17)))
        + segment(0xDA, b"\1\1\0" + b"\1\0\0")
        + scan
        + b"\xff\xd9"
    )


def table(entries: np.ndarray, first: int, depth: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 2**16, first, depth]
    item.LUTData = entries.tobytes()
    return item


LITTLE, BIG, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2"
RLE, LOSSLESS, BASELINE = (
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.50",
)
FORMS = {"native": LITTLE, "RLE": RLE, "lossless JPEG": LOSSLESS}
_LONG_VR = ("OB", "OW", "OF", "SQ", "UN", "UT")
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
_UNDEFINED = b"\xff" * 4


def item(content: bytes) -> bytes:
    """An item of a sequence or of encapsulated pixels."""
    return _ITEM + struct.pack("<L", len(content)) + content


def draw(
    pixels: np.ndarray,
    form: str = "native",
    elements: dict[str, object] | None = None,
    *,
    written: str = LITTLE,
    declared: str | None = "",
    start: bytes = bytes(128) + b"DICM",
    meta: bool = True,
    value: bytes | None = None,
    length: int | None = None,
    fragments: int = 1,
    offsets: bytes | None = b"",
    end: bytes = _END,
) -> bytes:
    """A DICOM file, sound but for what is asked for: pydicom would refuse to write most of it.

    Args:
        pixels: Stored codes, uint8 or uint16, (h, w) or (h, w, 3).
        form: One of `FORMS`: how the pixels are stored.
        elements: By keyword: a number, text, bytes, a pair of VR and bytes, a list of data sets
            (dicts as this one), or None to leave it out.
        written: The transfer syntax of the elements.
        declared: The transfer syntax that is named, by default the right one; None for none.
        start: What stands before the meta group.
        meta: Whether there is a meta group.
        value: Pixel data in place of those drawn.
        length: Its length by the file in place of the right one.
        fragments: How many a compressed frame is split into.
        offsets: The table of offsets before a compressed frame; None for none.
        end: The delimiter behind it.
    """
    depth = 8 * pixels.itemsize
    described = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1",
        "Modality": "CR",
        "SamplesPerPixel": 3 if pixels.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if pixels.ndim == 3 else "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": depth,
        "BitsStored": 12 if depth == 16 else depth,
        "HighBit": 11 if depth == 16 else depth - 1,
        "PixelRepresentation": 0,
    } | (elements or {})
    order = ">" if written == BIG else "<"
    native = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(order)).tobytes()
    if form != "native":
        frame = (
            encode_lossless_jpeg(pixels.astype(int), depth)
            if form == "lossless JPEG"
            else _run_lengths(pixels)
        )
        size = -(-len(frame) // fragments // 2) * 2
        parts = [frame[k : k + size] for k in range(0, len(frame), size)]
        encapsulated = [item(part + b"\0" * (len(part) % 2)) for part in parts]
        table = b"" if offsets is None else item(offsets)
        native, length = table + b"".join(encapsulated) + end, length or 2**32 - 1
    content = native if value is None else value
    kept = sorted((key for key in described if described[key] is not None), key=_tag)
    body = b"".join(_element(key, described[key], written) for key in kept)
    vr = "OW" if form == "native" and depth == 16 else "OB"
    head = _element("PixelData", (vr, b""), written)[:-4]
    body += head + struct.pack(f"{order}L", len(content) if length is None else length) + content
    group = b""
    if meta:
        syntax = FORMS[form] if declared == "" and written == LITTLE else declared or written
        named = {} if declared is None else {"TransferSyntaxUID": syntax}
        named = {"MediaStorageSOPClassUID": "1.2.840.10008.5.1.4.1.1.1"} | named
        group = b"".join(_element(key, value, LITTLE) for key, value in named.items())
        group = _element("FileMetaInformationGroupLength", len(group), LITTLE) + group
    return start + group + body


def _tag(keyword: str) -> int:
    # Of groups that repeat, such as overlays, there are only numbers.
    return tag_for_keyword(keyword) or int(keyword.replace(",", ""), 16)


def _element(keyword: str, value: object, written: str) -> bytes:
    tag = _tag(keyword)
    order = ">" if written == BIG else "<"
    vr = {"US or SS": "US", "US or OW": "OW", "OB or OW": "OW"}.get(
        dictionary_VR(tag), dictionary_VR(tag)
    )
    if isinstance(value, tuple):
        vr, value = value
    if isinstance(value, list) and value and isinstance(value[0], dict):
        content = b"".join(
            item(b"".join(_element(key, entry[key], written) for key in entry)) for entry in value
        )
    elif isinstance(value, list | int) and vr in ("US", "UL", "SS"):
        values = value if isinstance(value, list) else [value]
        kind = {"US": "H", "UL": "L", "SS": "h"}[vr]
        content = struct.pack(f"{order}{len(values)}{kind}", *values)
    else:
        content = value if isinstance(value, bytes) else str(value).encode()
    content += (b"\0" if vr in ("UI", *_LONG_VR) else b" ") * (len(content) % 2)
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if written == IMPLICIT:
        return head + struct.pack("<L", len(content)) + content
    if vr in _LONG_VR:
        return head + vr.encode() + struct.pack(f"{order}HL", 0, len(content)) + content
    return head + vr.encode() + struct.pack(f"{order}H", len(content)) + content


def _run_lengths(pixels: np.ndarray) -> bytes:
    options = {
        "rows": pixels.shape[0],
        "columns": pixels.shape[1],
        "samples_per_pixel": pixels.ndim * 2 - 3,
        "bits_allocated": 8 * pixels.itemsize,
        "bits_stored": 8 * pixels.itemsize,
        "pixel_representation": 0,
        "photometric_interpretation": "RGB" if pixels.ndim == 3 else "MONOCHROME2",
        "number_of_frames": 1,
        "planar_configuration": 0,
    }
    return RLELosslessEncoder.encode(pixels, encoding_plugin="pydicom", **options)
