"""Raw images by their paths below a folder, whatever their file endings on this disk."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from radrep.data.image_io import read_image
from radrep.data.study import SourceImage
from radrep.errors import DataError

# Of several files of one image, the quickest to read is taken.
_ENDINGS = (".jpg", ".jpeg", ".png", ".dcm")
# Raised when the same DICOM file would be read to other pixels than before.
DICOM_VERSION = 3
_DICOM_ENDINGS = (".dcm", ".dicom")


def tree_image(images: Path, name: str, projection: str) -> SourceImage:
    """The image of a path below `images`, unread."""
    return found_image(name, partial(locate, images, name), projection)


def found_image(name: str, find: Callable[[], Path], projection: str) -> SourceImage:
    """An image whose file `find` returns; it raises DataError if there is none."""
    return SourceImage(name, partial(_read, find), projection, find)


def existing(path: Path | None, problem: str) -> Path:
    """A path, or DataError with this problem where there is none."""
    if path is None:
        raise DataError(problem)
    return path


def _read(find: Callable[[], Path], short_side: int) -> np.ndarray:
    return read_image(find(), short_side)


def locate(images: Path, name: str) -> Path:
    """Return the file of an image path below `images`; DataError if none or not below."""
    relative = os.path.normpath(name)
    if os.path.isabs(relative) or relative.split(os.sep)[0] in ("..", ".") or "\0" in relative:
        raise DataError(f"image path {name!r} leads out of {images}; not read")
    path = images / relative
    # os.path and not Path: a name too long for the disk only counts as missing.
    if os.path.exists(path):
        return path
    others = path.parent.iterdir() if os.path.isdir(path.parent) else ()
    same = [other for other in others if other.stem == path.stem]
    if not same:
        raise DataError(f"{path} not found, nor the same name with another ending")
    return min(same, key=_preference)


def describe_image(images: Path, name: str) -> str:
    """Name and size of an image, for a fingerprint; does not open it."""
    try:
        path = locate(images, name)
        version = f" {DICOM_VERSION}" if path.suffix.lower() in _DICOM_ENDINGS else ""
        return f"{name} {path.suffix} {path.stat().st_size}{version}"
    except (DataError, OSError):
        return f"{name} absent"


def _preference(path: Path) -> tuple[int, str]:
    ending = path.suffix.lower()
    return (_ENDINGS.index(ending) if ending in _ENDINGS else len(_ENDINGS), path.name)
