"""Image files to grey pixels: PNG, JPEG, TIFF, BMP, WebP, JPEG 2000, GIF and DICOM, by content.

Every command reads images by `read_image`: uint8 (h, w) with black 0.
"""

import io
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from radrep.data.dicom import DicomPicture, check_scans, find_tags, is_dicom
from radrep.data.file_kinds import HEAD_BYTES, describe, picture_format
from radrep.errors import DataError, ImageWarning

MIN_SIDE = 32
# The largest digital radiographs have 20 million, a film scanned at 600 dpi has 86.
MAX_PIXELS = 100_000_000
_MAX_PIPED = 1_000_000_000  # bytes, all in memory
_MAX_SECONDS = 20  # of processor time; a film of 100 million pixels takes 1 to 5
# A blank image saved as JPEG is not quite constant.
_NARROW = 32  # grey levels that show little of a film
_BLANK_RANGE = 2
# How deep radiography detectors digitise; a 16-bit file often holds fewer bits.
_DEPTHS = (8, 10, 12, 14, 16)
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # of TIFF
_COMPRESSION, _JPEG_IN_TIFF = 259, (6, 7)
_STRIPS = (273, 324)  # or tiles: a JPEG each


def read_image(path: str | Path, short_side: int | None = None) -> np.ndarray:
    """Read one radiograph as grey pixels.

    PNG, JPEG and others: EXIF rotation is undone, colour becomes luminance, transparent parts
    become black, 16-bit grey is scaled from the least of 8, 10, 12, 14 and 16 bits that holds it.
    DICOM: rescale slope and intercept or modality LUT; then VOI LUT, or window, or, for more than
    8 bits without either, least to greatest pixel; MONOCHROME1 is inverted; padding becomes black.
    What was chosen where a header is wrong, and a picture of few grey levels, is an ImageWarning.

    With `short_side`, shrunk as by `fit_short_side`: large JPEG are decoded at an eighth, a quarter
    or half of their size, which takes less than half the time and changes a pixel by about 1 of
    255. Raises DataError with a reason for every file that is not one whole radiograph.
    """
    return read_image_sizes(path, [short_side])[0]


def read_image_sizes(path: str | Path, short_sides: Sequence[int | None]) -> list[np.ndarray]:
    """Read one radiograph at several sizes, each as `read_image` does; the file is opened once."""
    return read_image_and_view(path, short_sides)[0]


def read_image_and_view(
    path: str | Path, short_sides: Sequence[int | None]
) -> tuple[list[np.ndarray], str]:
    """As `read_image_sizes`, with the ViewPosition of a DICOM file, "" of others."""
    path = Path(path)
    with _open(path) as file:
        images = [_decode(file, str(path), short_side) for short_side in short_sides]
        return images, find_tags(file)[2]


def _open(path: Path) -> BinaryIO:
    """A file to be read from any place in it: what comes through a pipe is read whole."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; give an image file")
    try:
        file = path.open("rb")
        if file.seekable():
            return file
        with file:
            data = file.read(_MAX_PIPED + 1)
    except FileNotFoundError:
        raise DataError(f"{path} not found") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(data) > _MAX_PIPED:
        raise DataError(f"{path}: more than {_MAX_PIPED:,} bytes came through the pipe")
    return io.BytesIO(data)


def decode_image(data: bytes, name: str, short_side: int | None = None) -> np.ndarray:
    """Read one radiograph from a file's bytes, as `read_image` does; `name` is for messages."""
    return _decode(io.BytesIO(data), name, short_side)


def fit_short_side(image: np.ndarray, size: int = 256) -> np.ndarray:
    """Shrink pixels, uint8 (h, w), to a short side of `size`; a smaller image stays unchanged."""
    return (
        image if min(image.shape) <= size else resize(image, *short_side_shape(image.shape, size))
    )


def short_side_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Height and width (h, w) scaled to a short side of `size`."""
    # The long side is rounded down, as torchvision does in the published preprocessing.
    height, width = shape
    return size * height // min(shape), size * width // min(shape)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize pixels, uint8 (h, w), to (height, width) by antialiased bilinear interpolation."""
    if image.shape == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def difference_hash(pixels: np.ndarray, side: int = 8) -> int:
    """A perceptual hash (dHash) that resizing, recompressing or brightening hardly changes.

    The image is shrunk to `side` rows of `side` + 1 pixels; each of the `side` * `side` bits is 1
    where a pixel is darker than its right neighbour, row by row, the first bit the highest.
    Radiographs are much alike: of 4,726 images of IU X-Ray, 66 pairs have the same 64 bits, one of
    which is one image twice. Of 256 bits (side 16), two different ones differ by 14 or more.
    Halving or recompressing an image changes 2 of 64 bits at most, or 12 of 256.
    """
    levels = Image.fromarray(pixels).convert("F")
    small = np.asarray(levels.resize((side + 1, side), Image.Resampling.BILINEAR))
    # Half a grey level apart, so that noise does not decide what is black all over.
    bits = small[:, :-1] + 0.5 < small[:, 1:]
    return int("".join(np.where(bits.ravel(), "1", "0")), 2)


def _decode(file: BinaryIO, name: str, short_side: int | None) -> np.ndarray:
    is_negative = False
    notes: list[str] = []
    try:
        with warnings.catch_warnings(), _time_limit(name):
            # What Pillow and pydicom warn of (odd metadata, size) is either mended or refused here.
            warnings.simplefilter("ignore")
            file.seek(0)
            head = file.read(HEAD_BYTES)
            if is_dicom(head):
                dicom = DicomPicture(file, name)
                _check_size(name, *dicom.shape)
                pixels, is_negative = dicom.read()
                notes = dicom.notes
            elif format := picture_format(head):
                pixels = _read_picture(file, name, format, short_side)
                low, high = np.percentile(pixels[::4, ::4], (1, 99)).round().astype(int)
                # One bright mark can leave the rest of 16 bits black.
                if high - low < _NARROW and np.ptp(pixels) > _BLANK_RANGE:
                    notes.append(f"nearly all of it is in {low} to {high} of 255 grey levels")
            else:
                raise DataError(f"{name}: {describe(head)}")
    except DataError:
        raise
    except Exception as error:  # decoders raise nearly anything on broken input
        text = " ".join(str(error).split()) or type(error).__name__
        reason = "".join(c if c.isprintable() else "?" for c in text)
        raise DataError(f"{name}: broken image file ({reason})") from error
    for note in notes:
        warnings.warn(f"{name}: {note}", ImageWarning, stacklevel=4)
    if short_side is not None:
        pixels = fit_short_side(pixels, short_side)
    if is_negative:
        pixels = 255 - pixels
    least, greatest = int(pixels.min()), int(pixels.max())
    if greatest - least <= _BLANK_RANGE:
        raise DataError(f"{name}: blank, every pixel is {least} to {greatest} of 255")
    return pixels


@contextmanager
def _time_limit(name: str) -> Iterator[None]:
    """Raise DataError after so much processor time, where Python is the one to notice.

    Signals reach the main thread alone, and no decoder before it comes back to Python.
    """
    if not hasattr(signal, "setitimer") or current_thread() is not main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise DataError(f"{name}: reading it takes more than {_MAX_SECONDS} s; not opened further")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, _MAX_SECONDS, 1)  # again, should a decoder go on
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _check_size(name: str, height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise DataError(f"{name}: {width} x {height} pixels, smaller than {MIN_SIDE}")
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{name}: {width} x {height} pixels by its header, more than {MAX_PIXELS:,}; "
            "not opened, since such a file can fill the memory"
        )


def _read_picture(file: BinaryIO, name: str, format: str, short_side: int | None) -> np.ndarray:
    file.seek(0)
    if format == "JPEG":
        check_scans(file.read(), name)
    try:
        opened = Image.open(file, formats=[format])
    except Image.DecompressionBombError as error:  # Pillow's own bound, which lies above ours
        raise DataError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: broken image file (its header cannot be read)") from error
    with opened as picture:
        width, height = picture.size
        _check_size(name, height, width)
        num_pages = getattr(picture, "n_frames", 1)
        if num_pages != 1:
            raise DataError(
                f"{name}: a {format} file of {num_pages} pictures; radrep reads single ones"
            )
        # The brightness alone of a colour JPEG, and at the least scale that is not too small.
        # Asking for twice the short side would cost a third more time and bring 4 dB, where the
        # worst of ours is 49 dB away from all the pixels resized.
        scaled = picture.draft("L", None if short_side is None else (short_side, short_side))
        # 16-bit grey of a TIFF may run from white to black, which Pillow leaves as it is.
        tags = getattr(picture, "tag_v2", {})
        if tags.get(_COMPRESSION) in _JPEG_IN_TIFF:
            file.seek(0)
            check_scans(file.read(), name, max(len(tags.get(key, ())) for key in _STRIPS))
        inverted = picture.mode.startswith("I") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        film: Image.Image = picture
        if short_side is not None and scaled and picture.size != (width, height):
            # The scaled pixels at the right and lower edge may reach beyond the picture. To count
            # them whole would stretch it, by up to 100 grey levels at the edges of bones.
            shape = short_side_shape((height, width), short_side)
            film = picture.convert("L").resize(shape[::-1], Image.Resampling.BILINEAR, scaled[1])
        grey = _grey(ImageOps.exif_transpose(film), name)
    return 255 - grey if inverted else grey


def _grey(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode == "F":
        raise DataError(f"{name}: floating point pixels, of which no one knows what is black")
    if picture.mode.startswith("I"):  # 16-bit grey: "I;16", or "I" in older versions of Pillow
        deep = np.asarray(picture)
        least, greatest = int(deep.min()), int(deep.max())
        if least < 0 or greatest >= 2**16:
            raise DataError(
                f"{name}: pixels from {least} to {greatest}; radrep reads 8 and 16 bits, unsigned"
            )
        depth = next(bits for bits in _DEPTHS if greatest < 2**bits)
        shown = np.rint(np.arange(greatest + 1) / (2**depth - 1) * 255.0).astype(np.uint8)
        return shown[deep]
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        alpha = np.asarray(layer.getchannel("A"))
        # One transparency all over, mostly 0, was written by mistake and hides or darkens the film.
        if alpha.min() == alpha.max():
            return np.array(layer.convert("RGB").convert("L"))
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    return np.array(picture.convert("L"))
