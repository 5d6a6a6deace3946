"""The file that each name in a table means, though the table was made on another machine."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow
import pyarrow.compute

from radrep.preparation.sources.cells import IMAGE_ENDINGS
from radrep.preparation.sources.folder.files import count_groups, is_image, pack, unpack

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:", re.IGNORECASE)
# Also ".dcm.png", and the ".0" that pandas gives a name that is a number.
_ENDINGS = re.compile(
    rf"(?:{'|'.join(map(re.escape, (*IMAGE_ENDINGS, '.nii', '.npy', '.gz', '.0')))})+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Matches:
    """Places of names among files, int32 (n,), -1 for none or several."""

    places: np.ndarray
    num_without_zeros: int = 0  # names that lost the zeros before them
    example: str = ""  # the first of these


def match_files(names: pyarrow.Array, files: pyarrow.Array) -> Matches:
    """Find the file of each name: its path from the folder, or the longest end of it that is there.

    Capitals, forms of Unicode, endings of images, slashes, drives and schemes may differ. An end
    is enough only where no other name has it, so that a missing image is not taken for another.
    """
    places = np.full(len(names), -1, dtype=np.int32)
    if not len(names) or not len(files):
        return Matches(places)
    wanted = [_same(unpack(names, place)) for place in range(len(names))]
    found = [_same(unpack(files, place)) for place in range(len(files))]
    images = [place for place, name in enumerate(found) if is_image(name)]
    everything = range(len(found))
    deepest = min(max(path.count("/") for path in paths) for paths in (wanted, found)) + 1
    for length in range(deepest, 0, -1):
        _match_ends(wanted, found, everything, str, length, places)
        _match_ends(wanted, found, images, _without_ending, length, places)
        _match_ends(wanted, found, images, _folded_stem, length, places)
        _match_ends(wanted, found, everything, _folded_stem, length, places)
    missing = np.flatnonzero(places < 0)
    _match_ends(wanted, found, images, _without_zeros, 1, places)
    late = missing[places[missing] >= 0]
    return Matches(places, len(late), unpack(names, int(late[0])) if len(late) else "")


def _match_ends(
    names: list[str],
    files: list[str],
    chosen: Sequence[int],
    key: Callable[[str], str],
    length: int,
    places: np.ndarray,
) -> None:
    """Fill the missing places of names whose last parts are, by the key, those of one file."""
    missing = [n for n in np.flatnonzero(places < 0).tolist() if names[n].count("/") + 1 >= length]
    if not missing or not chosen:
        return
    ends = pack(key(_end(files[place], length)) for place in chosen)
    codes, counts = count_groups(ends)
    once = np.flatnonzero(counts[codes] == 1)
    wanted = [key(_end(names[n], length)) for n in missing]
    found = pyarrow.compute.index_in(pack(wanted), ends.take(pyarrow.array(once)))
    hits = found.fill_null(-1).to_numpy(zero_copy_only=False).tolist()
    if max(hits) < 0:
        return
    several = _several_longer(names, key, length)
    for n, end, hit in zip(missing, wanted, hits, strict=True):
        if hit >= 0 and end and end not in several:
            places[n] = chosen[once[hit]]


def _several_longer(names: list[str], key: Callable[[str], str], length: int) -> set[str]:
    """The ends of names that differ before it."""
    first: dict[str, str] = {}
    several = set()
    for name in names:
        if name.count("/") >= length:
            end, whole = key(_end(name, length)), key(name)
            if first.setdefault(end, whole) != whole:
                several.add(end)
    return several


def _end(path: str, length: int) -> str:
    return "/".join(path.rsplit("/", length)[-length:])


def _same(name: str) -> str:
    """A name as a path from a folder: composed letters, slashes, no root, scheme or drive."""
    if match := _SCHEME.match(name):
        name = unquote(name[match.end() :])
    return "/".join(_parts(unicodedata.normalize("NFC", name.strip().replace("\\", "/"))))


def _parts(name: str) -> Iterator[str]:
    for place, part in enumerate(name.split("/")):
        if part not in ("", ".", "..") and not (place <= 1 and _DRIVE.fullmatch(part)):
            yield part


def _folded_stem(path: str) -> str:
    return _without_ending(unicodedata.normalize("NFC", path.casefold()))


def _without_zeros(path: str) -> str:
    """A name that is a number, without the zeros that spreadsheets take away; else empty."""
    stem = _folded_stem(path).rpartition("/")[2]
    return stem.lstrip("0") if stem.isdecimal() else ""


def _without_ending(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    match = next((m for m in _ENDINGS.finditer(name) if m.end() == len(name) and m.start()), None)
    return folder + slash + (name[: match.start()] if match else name)
