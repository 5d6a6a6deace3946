"""The files of a folder source, listed and classified; links are followed, but never in circles."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from radrep.data.dicom import is_dicom
from radrep.data.file_kinds import HEAD_BYTES, picture_format
from radrep.data.manifest import GENERATED, PREPARED
from radrep.errors import DataError
from radrep.json_text import load_json
from radrep.preparation.sources.cells import IMAGE_ENDINGS

if TYPE_CHECKING:
    import pyarrow

_DIGITS = re.compile(r"0*(\d+)", re.ASCII)
# Kinds of entries of a folder. A link to what the folder has anyhow is inner, one to a file or
# folder outside is followed, and one that leads around in a circle or nowhere is broken. A folder
# that radrep wrote is made.
FILE, FOLDER, INNER, BROKEN, SPECIAL, MADE = "f", "d", "i", "b", "s", "m"
_RECORDS = {PREPARED: {"recipe", "shards"}, GENERATED: {"settings", "began"}}  # with keys of each
# What prepare leaves beside an output folder below the images.
_UNFINISHED = (".partial", ".partial.lock")


def list_files(root: Path) -> Iterator[tuple[str, str]]:
    """Yield path and kind of every file below a folder, and of folders named as images are.

    In natural order: a2 before a10. Hidden files are skipped, pipes and devices are never read. A
    folder outside is read once, however many links lead to it. Of one that radrep prepare or
    generate wrote only its path comes.
    """
    inside = os.path.realpath(root)
    waiting = [FOLDER]  # the next entry is last
    outside: set[str] = set()  # folders that links led to
    while waiting:
        entry = waiting.pop()
        kind, path = entry[0], entry[1:]
        if path and (kind != FOLDER or is_image(path)):
            yield path, kind
        if kind == FOLDER:
            names = _scan(root, path, inside, outside)
            if path and _is_made(root / path, names):
                yield path, MADE
                continue
            waiting += [name[0] + os.path.join(path, name[1:]) for name in reversed(names)]


def is_image(name: str) -> bool:
    """Whether a name ends as names of images do."""
    return name.casefold().endswith(IMAGE_ENDINGS)


def sniff_format(path: Path) -> str | None:
    """Whether a file is "dicom" or "picture", by its first bytes or its name; None if neither."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        head = b""  # reading it as an image gives the reason
    if is_dicom(head):
        return "dicom"
    is_picture = picture_format(head) or is_image(path.name)
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


def unpack_all(texts: "pyarrow.Array") -> Iterator[str]:
    """The texts of a packed array."""
    return (text.decode("utf-8", "surrogatepass") for text in texts.to_pylist())


def count_groups(keys: "pyarrow.Array") -> tuple[np.ndarray, np.ndarray]:
    """The number of each key in the order of first appearance, (n,), and how often each appears."""
    codes = keys.dictionary_encode().indices.to_numpy()
    return codes, np.bincount(codes)


def _scan(root: Path, path: str, inside: str, outside: set[str]) -> list[str]:
    """Entries of a folder in natural order: the letter of its kind, then the name."""
    try:
        with os.scandir(root / path) as entries:
            shown = [
                entry
                for entry in entries
                if not (entry.name.startswith(".") or entry.name.endswith(_UNFINISHED))
            ]
    except OSError as error:
        raise DataError(f"{root / path} cannot be read: {error}") from error
    # Folders first: a link to a file in one of them is then known as inner.
    shown.sort(key=lambda entry: (not os.path.isdir(entry.path), entry.name))
    found = [_kind(entry, inside, outside) + entry.name for entry in shown]
    return sorted(found, key=_natural)


def _is_made(folder: Path, entries: Iterable[str]) -> bool:
    """Whether radrep wrote a folder with these entries, by a record with its keys."""
    for name in {entry[1:] for entry in entries if entry[0] == FILE} & _RECORDS.keys():
        try:
            record = load_json((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.keys() >= _RECORDS[name]:
            return True
    return False


def _kind(entry: os.DirEntry[str], inside: str, outside: set[str]) -> str:
    if not entry.is_symlink():
        return FOLDER if entry.is_dir() else FILE if entry.is_file() else SPECIAL
    target = os.path.realpath(entry.path)
    try:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError:  # links in a circle
        return BROKEN
    if not is_folder and not is_file:
        return SPECIAL if os.path.exists(target) else BROKEN
    if any(_is_below(target, seen) for seen in (inside, *outside)):
        return INNER
    if is_folder:
        if _is_below(inside, target):  # around the folder itself
            return INNER
        outside.add(target)
    return FOLDER if is_folder else FILE


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _natural(entry: str) -> tuple[str, str]:
    # A longer number is a greater one. As text, since there may be a million of these.
    name = entry[1:].casefold()
    return _DIGITS.sub(lambda match: f"{chr(len(match[1]))}{match[1]}", name), entry
