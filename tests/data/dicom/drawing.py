"""DICOM files drawn for tests."""

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
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
    for difference in (pixels - predicted).ravel().tolist():
        length = abs(difference).bit_length()
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
