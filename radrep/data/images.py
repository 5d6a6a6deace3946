"""Image files to grey pixels: PNG, JPEG and DICOM, told apart by content and not by ending.

One way in for every command: what `radrep prepare` stores and what `radrep generate` is given come
through `read_image`, uint8 (h, w) with black 0.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from radrep.errors import DataError

MIN_SIDE = 32
# Pillow's own bound for a decompression bomb; the largest digital radiographs have 20 million.
MAX_PIXELS = 178_956_970
# A blank film saved as JPEG is not quite constant.
_BLANK_RANGE = 2
# How deep radiography detectors digitise; a 16-bit file often holds fewer bits.
_DEPTHS = (8, 10, 12, 14, 16)


def read_image(path: str | Path, short_side: int | None = None) -> np.ndarray:
    """Read one radiograph as grey pixels.

    PNG and JPEG: EXIF rotation is undone, colour becomes luminance, transparent parts become
    black (the background of a film), 16-bit grey is scaled from the least of 8, 10, 12, 14 and
    16 bits that holds it. DICOM: rescale slope and intercept or modality LUT; then VOI LUT, or
    window, or, for more than 8 bits without either, least to greatest pixel; MONOCHROME1 is
    inverted; pixels that the file marks as padding become black.

    Returns:
        Pixels, uint8 (h, w), black 0.

    Raises:
        DataError: If the file is missing, of another kind, broken, blank (one grey all over),
            smaller than 32 pixels or larger than 178 million, or a DICOM file that has no
            picture, several frames, or a compression that no installed plug-in reads.
    """
    path = Path(path)
    is_dicom = _is_dicom(path)
    try:
        with warnings.catch_warnings():
            # What Pillow and pydicom warn of (odd metadata, size) is either mended or refused here.
            warnings.simplefilter("ignore")
            pixels = _read_dicom(path) if is_dicom else _read_picture(path)
    except DataError:
        raise
    except Exception as error:  # decoders raise nearly anything on broken input
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: broken image file ({reason})") from error
    if min(pixels.shape) < MIN_SIDE:
        height, width = pixels.shape
        raise DataError(f"{path}: {width} x {height} pixels, smaller than {MIN_SIDE}")
    least, greatest = int(pixels.min()), int(pixels.max())
    if greatest - least <= _BLANK_RANGE:
        raise DataError(f"{path}: blank, every pixel is {least} to {greatest} of 255")
    return pixels


def fit_short_side(image: np.ndarray, size: int = 256) -> np.ndarray:
    """Shrink an image so that its short side is `size`; a smaller image stays as it is.

    Args:
        image: Pixels, uint8 (h, w).
        size: Length of the short side in pixels.

    Returns:
        Pixels, uint8 (h', w'), aspect kept.
    """
    return image if min(image.shape) <= size else resize(image, *short_side_shape(image, size))


def short_side_shape(image: np.ndarray, size: int) -> tuple[int, int]:
    """Height and width of an image (h, w) scaled to a short side of `size`."""
    height, width = image.shape
    # The long side is rounded down, as torchvision does in the published preprocessing.
    short = min(height, width)
    return size * height // short, size * width // short


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize pixels, uint8 (h, w), to (height, width) by antialiased bilinear interpolation."""
    if image.shape == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _is_dicom(path: Path) -> bool:
    """Tell DICOM from PNG and JPEG by the first bytes; refuse what is none of them."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; give an image file")
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except FileNotFoundError:
        raise DataError(f"{path} not found") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{path} cannot be read: {error}") from error
    if not head:
        raise DataError(f"{path}: an empty file (0 bytes)")
    if head[128:] == b"DICM":
        return True
    if not head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        raise DataError(f"{path}: not a PNG, JPEG or DICOM file (it begins with {head[:12]!r})")
    return False


def _check_size(path: Path, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{path}: {width} x {height} pixels by its header, more than {MAX_PIXELS:,}; "
            "not opened, since such a file can fill the memory"
        )


def _read_picture(path: Path) -> np.ndarray:
    try:
        opened = Image.open(path, formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: broken image file (its header cannot be read)") from error
    with opened as picture:
        _check_size(path, picture.height, picture.width)
        picture.load()
        return _grey(ImageOps.exif_transpose(picture))


def _grey(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I"):  # 16-bit grey: "I;16", or "I" in older versions of Pillow
        deep = np.asarray(picture)
        depth = next(bits for bits in _DEPTHS if deep.max() < 2**bits)
        return _to_uint8(deep / (2**depth - 1))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    return np.array(picture.convert("L"))


def _to_uint8(levels: np.ndarray) -> np.ndarray:
    """Grey levels from 0 to 1 as 0 to 255; what lies beyond is clipped."""
    return np.rint(np.clip(levels, 0.0, 1.0) * 255.0).astype(np.uint8)


def _read_dicom(path: Path) -> np.ndarray:
    # Half a second to import, which reading PNG and JPEG need not wait for.
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, pixel_array

    dataset = dcmread(path)
    _check_dicom(path, dataset)
    stored = pixel_array(dataset)
    photometric = dataset.PhotometricInterpretation
    if photometric.startswith(("RGB", "YBR")) and stored.dtype == np.uint8:
        return np.array(Image.fromarray(stored).convert("L"))
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(
            f"{path}: DICOM pixels are {photometric}, {stored.dtype}; "
            "radrep reads MONOCHROME1, MONOCHROME2 and 8-bit colour"
        )
    padding = _padding(dataset, stored)
    grey = _to_uint8(_displayed(dataset, apply_modality_lut(stored, dataset), ~padding))
    if photometric == "MONOCHROME1":  # the least value is shown white
        grey = 255 - grey
    grey[padding] = 0
    return grey


def _check_dicom(path: Path, dataset: Any) -> None:
    """Refuse a DICOM file that does not hold one picture which can be decoded here."""
    from pydicom.pixels import get_decoder

    if "PixelData" not in dataset:
        kind = dataset.get("Modality", "unknown")
        raise DataError(f"{path}: a DICOM file without a picture (modality {kind})")
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    if num_frames != 1:
        raise DataError(f"{path}: a DICOM file with {num_frames} frames; radrep reads single ones")
    _check_size(path, dataset.Rows, dataset.Columns)
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        readable = get_decoder(syntax).is_available
    except NotImplementedError as error:  # video, for example
        raise DataError(f"{path}: DICOM compressed as {syntax.name} cannot be read") from error
    if not readable:
        raise DataError(
            f"{path}: DICOM compressed as {syntax.name}, which needs a plug-in. Install it with: "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        )


def _padding(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Where the stored pixels are padding around the exposed field, bool (h, w)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def _displayed(dataset: Any, values: np.ndarray, exposed: np.ndarray) -> np.ndarray:
    """Map pixel values to what a viewer shows, 0 to 1, before any inversion.

    Args:
        dataset: The DICOM data set.
        values: Pixels after rescaling, (h, w).
        exposed: Where pixels are not padding, bool (h, w).

    Returns:
        Grey levels, float (h, w), from 0 to 1 inside the window.
    """
    if dataset.get("VOILUTSequence"):
        from pydicom.pixels import apply_voi

        shown = apply_voi(np.rint(values).astype(np.int64), dataset)
        return shown / (2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    center, width = _first(dataset, "WindowCenter"), _first(dataset, "WindowWidth")
    if center is not None and width is not None:
        function = (dataset.get("VOILUTFunction") or "LINEAR").upper()
        return _window(values.astype(np.float64), center, width, function)
    if dataset.BitsStored <= 8 and values.min() >= 0 and values.max() <= 255:
        return values / 255.0
    inside = values[exposed] if exposed.any() else values
    least, greatest = float(inside.min()), float(inside.max())
    return (values - least) / max(greatest - least, 1.0)


def _first(dataset: Mapping[str, Any], keyword: str) -> float | None:
    """The first value of an element that may have several or none."""
    value = dataset.get(keyword)
    if value is None or isinstance(value, (float, int)):
        return value
    values = list(value)
    return float(values[0]) if values else None


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """The three windows of DICOM PS3.3 C.11.2, from 0 to 1.

    pydicom's own returns them in the range of the stored values, which a negative rescale slope
    turns over.
    """
    if function == "SIGMOID":
        # Beyond 50 the exponential only changes what rounds to 0 or 255 all the same.
        steepness = -4.0 * (values - center) / max(width, 1e-6)
        return 1.0 / (1.0 + np.exp(np.clip(steepness, -50.0, 50.0)))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1.0
    return (values - center) / max(width, 1e-6) + 0.5
