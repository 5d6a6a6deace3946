"""DICOM files to grey pixels as a viewer shows them: uint8 (h, w).

The stored pixels pass, in the order of PS3.3 and PS3.4, the rescale slope and intercept or the
modality LUT, then the VOI LUT or window, computed once for each grey level and applied as a table.
pydicom is imported by the functions: it takes half a second, which PNG and JPEG need not wait for.
"""

import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from radrep.errors import DataError

# No radiograph, header included, inflates to more bytes.
_MAX_INFLATED = 2**28
_TAGS = ("StudyInstanceUID", "PatientID", "ViewPosition")
_NEEDED = ("Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PhotometricInterpretation")


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these 132 bytes is DICOM."""
    return head[128:132] == b"DICM"


def read_header(file: BinaryIO, name: str) -> Any:
    """Read the data set without the pixels; DataError unless it holds one that can be decoded."""
    from pydicom import dcmread

    _check_inflated(file, name)
    file.seek(0)
    header = dcmread(file, stop_before_pixels=True)
    if "Rows" not in header:
        raise _no_picture(header, name)
    for keyword in _NEEDED:
        if header.get(keyword) is None:
            raise DataError(f"{name}: a DICOM file without {keyword}, so its pixels mean nothing")
    photometric, num_samples = header.PhotometricInterpretation, header.SamplesPerPixel
    is_grey = num_samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")
    is_colour = num_samples == 3 and photometric.startswith(("RGB", "YBR"))
    if not is_grey and not (is_colour and header.BitsAllocated == 8):
        raise DataError(
            f"{name}: DICOM pixels are {photometric}, {num_samples} x {header.BitsAllocated} bits; "
            "radrep reads MONOCHROME1, MONOCHROME2 and 8-bit colour"
        )
    num_frames = int(header.get("NumberOfFrames") or 1)
    if num_frames != 1:
        raise DataError(f"{name}: a DICOM file with {num_frames} frames; radrep reads single ones")
    _check_codec(header, name)
    return header


def read_pixels(file: BinaryIO, name: str) -> tuple[np.ndarray, bool]:
    """Read the picture of a file that `read_header` has accepted.

    Return pixels, uint8 (h, w), and whether they are MONOCHROME1, white 0: to be inverted after
    resizing, which rounds up and would make an image and its negative differ.
    """
    from pydicom import dcmread
    from pydicom.pixels import pixel_array
    from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit

    file.seek(0)
    dataset = dcmread(file)
    if "PixelData" not in dataset:
        raise _no_picture(dataset, name)
    _check_end(dataset, name)
    syntax = dataset.file_meta.TransferSyntaxUID
    # Other plug-ins round otherwise, and pixels must not depend on what else is installed.
    by_pillow = syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) and dataset.BitsStored == 8
    stored = pixel_array(dataset, decoding_plugin="pillow" if by_pillow else "")
    if stored.ndim == 3:  # colour, which pydicom has turned into RGB
        return np.array(Image.fromarray(stored).convert("L")), False
    negative = dataset.PhotometricInterpretation == "MONOCHROME1"  # the least value is shown white
    return _show(dataset, stored, name, around=255 if negative else 0), negative


def _no_picture(dataset: Any, name: str) -> DataError:
    kind = dataset.get("Modality", "unknown")
    return DataError(f"{name}: a DICOM file without a picture (modality {kind})")


def _check_inflated(file: BinaryIO, name: str) -> None:
    """Refuse a deflated data set that would fill the memory: pydicom inflates it whole."""
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    file.seek(132)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(file.read(), _MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise DataError(
            f"{name}: a deflated DICOM file of more than {_MAX_INFLATED / 1e6:.0f} MB; not opened, "
            "since such a file can fill the memory"
        )


def _check_codec(header: Any, name: str) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise DataError(f"{name}: a DICOM file without a transfer syntax")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:  # video, for example
        raise DataError(f"{name}: DICOM compressed as {syntax.name} cannot be read") from error
    # Pillow offers itself for this one, but reads only 8 of its 12 bits.
    in_vain = syntax == JPEGExtended12Bit and header.BitsStored != 8
    plugins = set(decoder.available_plugins) - ({"pillow"} if in_vain else set())
    if syntax.is_encapsulated and not plugins:
        raise DataError(
            f"{name}: DICOM compressed as {syntax.name}, which needs a plug-in. Install it with: "
            "pip install 'radrep[dicom]'"
        )


def _check_end(dataset: Any, name: str) -> None:
    """Refuse JPEG and JPEG-LS that is cut off: pylibjpeg fills the rest without a warning."""
    from pydicom.encaps import generate_frames
    from pydicom.uid import JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in JPEGTransferSyntaxes and syntax not in JPEGLSTransferSyntaxes:
        return
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    # The mark of the end, which cannot occur within the pixels; some writers pad after it.
    if b"\xff\xd9" not in frame[-1024:]:
        raise DataError(f"{name}: broken image file (its {syntax.name} pixels are cut off)")


def _show(dataset: Any, stored: np.ndarray, name: str, around: int) -> np.ndarray:
    """Map stored grey pixels, (h, w), to what a viewer shows, uint8 (h, w), padding to `around`."""
    least, greatest = int(stored.min()), int(stored.max())
    if greatest - least >= 2**16:
        raise DataError(
            f"{name}: DICOM pixels from {least} to {greatest}; radrep reads up to 16 bits"
        )
    levels = np.arange(least, greatest + 1)
    index = np.subtract(stored, least, dtype=np.intp)
    padding = _padding(dataset, levels)
    inside = stored[~padding[index]] if padding.any() else stored
    if inside.size == 0:
        raise DataError(f"{name}: blank, every pixel is padding")
    values = _rescale(dataset, levels)
    exposed = values[int(inside.min()) - least : int(inside.max()) - least + 1]
    shown = _display(dataset, values, exposed)
    if not np.isfinite(shown).all():
        raise DataError(f"{name}: its rescaling or window is not a number")
    grey = np.rint(np.clip(shown, 0.0, 1.0) * 255.0).astype(np.uint8)
    grey[padding] = around
    return grey[index]


def _padding(dataset: Any, levels: np.ndarray) -> np.ndarray:
    """Which levels mark what lies around the exposed field, bool."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(levels.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return (levels >= min(value, limit)) & (levels <= max(value, limit))


def _rescale(dataset: Any, levels: np.ndarray) -> np.ndarray:
    if dataset.get("ModalityLUTSequence"):
        return _look_up(dataset, dataset.ModalityLUTSequence[0], levels)
    slope, intercept = _first(dataset, "RescaleSlope"), _first(dataset, "RescaleIntercept")
    return levels * (1.0 if slope is None else slope) + (intercept or 0.0)


def _display(dataset: Any, values: np.ndarray, exposed: np.ndarray) -> np.ndarray:
    """Map rescaled values to grey, 0 to 1 inside the window; `exposed` are those of no padding."""
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        return _look_up(dataset, table, np.rint(values)) / (2.0 ** table.LUTDescriptor[2] - 1)
    center, width = _first(dataset, "WindowCenter"), _first(dataset, "WindowWidth")
    # A window without width, which the standard forbids, counts as none.
    if center is not None and width is not None and width > 0:
        return _window(values, center, width, (dataset.get("VOILUTFunction") or "LINEAR").upper())
    if dataset.BitsStored <= 8 and values.min() >= 0 and values.max() <= 255:
        return values / 255.0
    least, greatest = float(exposed.min()), float(exposed.max())
    return (values - least) / max(greatest - least, 1.0)


def _look_up(dataset: Any, table: Any, values: np.ndarray) -> np.ndarray:
    """Apply a DICOM lookup table, clamped at its ends; pydicom's own wraps around."""
    num_entries, first, _ = table.LUTDescriptor
    num_entries = num_entries or 2**16  # which the 16 bits of this element cannot hold
    entries = table.LUTData
    if isinstance(entries, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        # Two a word where 8 bits are enough, in the order of the file.
        width = 1 if len(entries) < 2 * num_entries else 2
        entries = np.frombuffer(entries, f"{order}u{width}", count=num_entries)
    return np.asarray(entries)[np.clip(values - first, 0, num_entries - 1).astype(np.intp)]


def _first(dataset: Any, keyword: str) -> float | None:
    """The first value of an element that may have several or none."""
    value = dataset.get(keyword)
    if value is None or isinstance(value, (float, int)):
        return value
    return float(value[0]) if len(value) else None


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """The three windows of DICOM PS3.3 C.11.2, from 0 to 1.

    pydicom's own returns the range of the stored values, which a negative rescale slope inverts.
    """
    if function == "SIGMOID":
        # Beyond 50 the exponential only changes what rounds to 0 or 255 all the same.
        steepness = -4.0 * (values - center) / max(width, 1e-6)
        return 1.0 / (1.0 + np.exp(np.clip(steepness, -50.0, 50.0)))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1.0
    return (values - center) / max(width, 1e-6) + 0.5


def read_tags(path: Path) -> tuple[str, str, str]:
    """StudyInstanceUID, PatientID and ViewPosition of a DICOM file, "" where absent."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            header = read_header(file, str(path))
            study, patient, view = (str(header.get(tag) or "").strip() for tag in _TAGS)
    except Exception:  # pydicom raises nearly anything; reading it as an image gives the reason
        return "", "", ""
    return study, patient, view
