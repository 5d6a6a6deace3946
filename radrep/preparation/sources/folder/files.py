"""The files of a folder source: listed, classified, and matched with the names in a table."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from radrep.data.dicom import is_dicom
from radrep.data.file_kinds import HEAD_BYTES, picture_format
from radrep.data.manifest import PREPARED
from radrep.errors import DataError

if TYPE_CHECKING:
    import pyarrow

IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".dcm", ".dicom"
)  # fmt: skip

_DIGITS = re.compile(r"0*(\d+)", re.ASCII)
FILE, FOLDER, LINK, SPECIAL = "f", "d", "l", "s"  # kinds of entries of a folder
# What prepare leaves beside an output folder below the images.
_UNFINISHED = (".partial", ".partial.lock")


def list_files(root: Path) -> Iterator[tuple[str, str]]:
    """Yield path and kind of every file below a folder, and of folders named as images are.

    In natural order: a2 before a10. Hidden files are skipped; links, pipes and devices are never
    followed or read: nothing outside is read, nothing twice or without an end.
    """
    waiting = [FOLDER]  # the next entry is last
    while waiting:
        entry = waiting.pop()
        kind, path = entry[0], entry[1:]
        if path and (kind != FOLDER or path.lower().endswith(IMAGE_ENDINGS)):
            yield path, kind
        if kind == FOLDER:
            names = reversed(_scan(root, path))
            waiting += [name[0] + os.path.join(path, name[1:]) for name in names]


def sniff_format(path: Path) -> str | None:
    """Whether a file is "dicom" or "picture", by its first bytes or its name; None if neither."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        head = b""  # reading it as an image gives the reason
    if is_dicom(head):
        return "dicom"
    is_picture = picture_format(head) or path.name.lower().endswith(IMAGE_ENDINGS)
    return "picture" if is_picture else None


def pack(texts: Iterable[str]) -> "pyarrow.Array":
    """Texts as one compact Arrow array."""
    import pyarrow

    # Names of files need not be UTF-8; Python represents other bytes by surrogates.
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return pyarrow.array(encoded, pyarrow.large_binary())


def unpack(texts: "pyarrow.Array", place: int) -> str:
    """Return one text of a packed array."""
    return texts[place].as_py().decode("utf-8", "surrogatepass")


def count_groups(keys: "pyarrow.Array") -> tuple[np.ndarray, np.ndarray]:
    """The number of each key in the order of first appearance, (n,), and how often each appears."""
    codes = keys.dictionary_encode().indices.to_numpy()
    return codes, np.bincount(codes)


def match_files(names: "pyarrow.Array", files: "pyarrow.Array") -> np.ndarray:
    """Return the place in `files` of each name in a table, int32 (n,), -1 for none or several.

    A name may be the path from the folder, or end in a file name that is unique; either may have
    another ending.
    """
    import pyarrow
    import pyarrow.compute

    places = np.full(len(names), -1, dtype=np.int32)
    for key in (_path, _stem, os.path.basename, lambda path: os.path.basename(_stem(path))):
        missing = np.flatnonzero(places < 0)
        if not len(missing):
            break
        keys = _map(key, files)
        codes, counts = count_groups(keys)
        once = np.flatnonzero(counts[codes] == 1)
        wanted = _map(key, names.take(pyarrow.array(missing)))
        found = pyarrow.compute.index_in(wanted, keys.take(pyarrow.array(once)))
        found = found.fill_null(-1).to_numpy(zero_copy_only=False)
        places[missing[found >= 0]] = once[found[found >= 0]]
    return places


def _map(key: Callable[[str], str], paths: "pyarrow.Array") -> "pyarrow.Array":
    return pack(key(unpack(paths, place)) for place in range(len(paths)))


def _scan(root: Path, path: str) -> list[str]:
    """Entries of a folder in natural order: the letter of its kind, then the name."""
    try:
        with os.scandir(root / path) as entries:
            found = [
                _kind(entry) + entry.name
                for entry in entries
                if not (entry.name.startswith(".") or entry.name.endswith(_UNFINISHED))
            ]
    except OSError as error:
        raise DataError(f"{root / path} cannot be read: {error}") from error
    # A prepared folder below the raw images is none of them.
    if path and FILE + PREPARED in found:
        return []
    return sorted(found, key=_natural)


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return LINK
    return FOLDER if entry.is_dir() else FILE if entry.is_file() else SPECIAL


def _path(name: str) -> str:
    return os.path.normpath(name.replace("\\", "/"))


def _stem(name: str) -> str:
    return os.path.splitext(_path(name))[0]


def _natural(entry: str) -> tuple[str, str]:
    # A longer number is a greater one. As text, since there may be a million of these.
    name = entry[1:].casefold()
    return _DIGITS.sub(lambda match: f"{chr(len(match[1]))}{match[1]}", name), entry
