"""The files of a folder source: found, told apart, and matched with the names in a table."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from radrep.data.dicom import is_dicom
from radrep.data.image_io import PICTURE_HEADS
from radrep.errors import DataError
from radrep.preparation.sources.find_raw import PREPARED_MARKS

if TYPE_CHECKING:
    import pyarrow

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")

_DIGITS = re.compile(r"0*(\d+)", re.ASCII)
# What lies at a path, told apart by a letter.
FILE, FOLDER, LINK, SPECIAL = "f", "d", "l", "s"
_CHUNK = 65_536

_PREPARED = tuple(FILE + name for name in PREPARED_MARKS)


def list_files(root: Path) -> Iterator[tuple[str, str]]:
    """Every file below a folder, by its path from there, in natural order: a2 before a10.

    Hidden files are passed over. Links, and pipes, sockets and devices, are told of but never
    followed or read, so that nothing outside is read, nothing twice, and nothing without an end.

    Yields:
        The path and what it is: FILE, LINK, SPECIAL, or a FOLDER that has the name of an image.

    Raises:
        DataError: If a folder cannot be read.
    """
    waiting = [("", iter(_scan(root, "")))]
    while waiting:
        folder, entries = waiting[-1]
        entry = next(entries, None)
        if entry is None:
            waiting.pop()
            continue
        kind, path = entry[0], os.path.join(folder, entry[1:])
        if kind == FOLDER:
            waiting.append((path, iter(_scan(root, path))))
        if kind != FOLDER or path.lower().endswith(IMAGE_ENDINGS):
            yield path, kind


def tell_kind(path: Path) -> str | None:
    """Tell "dicom" and "picture" by a file's first bytes or its name; None if it is neither."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        head = b""  # reading it as an image will say why
    if is_dicom(head):
        return "dicom"
    is_picture = head.startswith(PICTURE_HEADS) or path.name.lower().endswith(IMAGE_ENDINGS)
    return "picture" if is_picture else None


class CompactStrings:
    """Texts of any number and any characters, put into one Arrow array as they come."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._chunks: list[pyarrow.Array] = []
        self._texts: list[bytes] = []
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Put a text at the end."""
        # Names of files need not be UTF-8; Python stands in for other bytes with surrogates.
        self._texts.append(text.encode("utf-8", "surrogatepass"))
        if len(self._texts) == _CHUNK:
            self._flush()

    def pack(self) -> "pyarrow.Array":
        """All of them, in UTF-8."""
        import pyarrow

        self._flush()
        return pyarrow.concat_arrays(self._chunks)

    def _flush(self) -> None:
        import pyarrow

        self._chunks.append(pyarrow.array(self._texts, pyarrow.large_binary()))
        self._texts = []


def unpack(texts: "pyarrow.Array", place: int) -> str:
    """One of the texts."""
    return texts[place].as_py().decode("utf-8", "surrogatepass")


def count_groups(keys: "pyarrow.Array") -> tuple[np.ndarray, np.ndarray]:
    """Number the different keys in the order in which they come first.

    Returns:
        The number of each key, int32 (n,), and how often each number is there, int64.
    """
    codes = keys.dictionary_encode().indices.to_numpy()
    return codes, np.bincount(codes)


def match_files(names: "pyarrow.Array", files: "pyarrow.Array") -> np.ndarray:
    """Find the files that are meant by names in a table.

    A name may be the path from the folder, or end in the name of a file that is there once; either
    may have another ending.

    Args:
        names: n names.
        files: Paths from the folder.

    Returns:
        Places in `files`, int32 (n,), -1 where there is none, or several.
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
    return CompactStrings(key(unpack(paths, place)) for place in range(len(paths))).pack()


def _scan(root: Path, path: str) -> list[str]:
    """The names in a folder below the root, in natural order, each after a letter for its kind."""
    found = []
    try:
        with os.scandir(root / path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    found.append(LINK + entry.name)
                elif entry.is_dir():
                    found.append(FOLDER + entry.name)
                else:
                    found.append((FILE if entry.is_file() else SPECIAL) + entry.name)
    except OSError as error:
        raise DataError(f"{root / path} cannot be read: {error}") from error
    # What radrep prepared, or is preparing, below the raw images is none of them.
    if path and any(mark in found for mark in _PREPARED):
        return []
    return sorted(found, key=_natural)


def _path(name: str) -> str:
    return os.path.normpath(name.replace("\\", "/"))


def _stem(name: str) -> str:
    return os.path.splitext(_path(name))[0]


def _natural(entry: str) -> tuple[str, str]:
    # A longer number is a greater one. As text, since there may be a million of these.
    name = entry[1:].casefold()
    return _DIGITS.sub(lambda match: f"{chr(len(match[1]))}{match[1]}", name), entry
