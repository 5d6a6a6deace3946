"""The file that each name in a table means, though the table was made on another machine."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow
import pyarrow.compute

from radrep.preparation.sources.cells import IMAGE_ENDINGS
from radrep.preparation.sources.folder.files import count_groups, is_image, pack, unpack, unpack_all

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:", re.IGNORECASE)
_PLAIN = re.compile(r"(?:[\w-][\w.+-]*/)*[\w-][\w.+-]*", re.ASCII)
# Also ".dcm.png", and the ".0" that pandas gives a name that is a number.
_KNOWN_ENDINGS = "|".join(map(re.escape, (*IMAGE_ENDINGS, ".nii", ".npy", ".gz", ".0")))
_ENDINGS = re.compile(rf"(?<=[^/])(?:{_KNOWN_ENDINGS})+\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Matches:
    """Places of names among files, int32 (n,), -1 for none or several."""

    places: np.ndarray
    num_without_zeros: int = 0  # names that lost the zeros before them
    example: str = ""  # the first of these


def match_files(names: pyarrow.Array, files: pyarrow.Array) -> Matches:
    """Find the file of each name: its path from the folder, or the longest end of it that is there.

    Capitals, forms of Unicode, endings of images, slashes, drives and schemes may differ. An end
    is enough only where no other name has it and the folders before it are not known as others,
    so that a missing image is not taken for another.
    """
    places = np.full(len(names), -1, dtype=np.int32)
    if not len(names) or not len(files):
        return Matches(places)
    wanted, found = ([_same(text) for text in unpack_all(texts)] for texts in (names, files))
    images = np.array([is_image(name) for name in found])
    _match_keys(wanted, found, images, list(range(len(wanted))), places)
    missing = np.flatnonzero(places < 0)
    if len(missing):
        loose_names, loose_files = (
            [_folded_stem(path) for path in paths] for paths in (wanted, found)
        )
        lengths = _longest_ends(loose_names, loose_files, places)
        for length in np.unique(lengths[lengths > 0]).tolist():
            rows = np.flatnonzero(lengths == length).tolist()
            several = _several_longer(loose_names, length)
            whole = {name for name in loose_names if name.count("/") == length - 1}
            rows = [
                n
                for n in rows
                if (end := _end(loose_names[n], length)) not in several
                and (end == loose_names[n] or end not in whole)
            ]
            ends = [_end(path, length) for path in found]
            _match_keys([_end(path, length) for path in wanted], ends, images, rows, places)
        _refuse_other_folders(loose_names, loose_files, missing.tolist(), places)
        missing = np.flatnonzero(places < 0)
        _match_zeros(loose_names, loose_files, images, missing.tolist(), places)
    late = missing[places[missing] >= 0]
    return Matches(places, len(late), unpack(names, int(late[0])) if len(late) else "")


def _match_keys(
    wanted: list[str], found: list[str], images: np.ndarray, rows: list[int], places: np.ndarray
) -> None:
    """Fill the places of some names that are those of one file, the nearest spelling first."""
    everything = np.ones(len(found), bool)
    for key, chosen in (
        (str, everything),
        (_without_ending, images),
        (_folded_stem, images),
        (_folded_stem, everything),
    ):
        rows = [n for n in rows if places[n] < 0]
        if rows:
            _match_unique(wanted, found, np.flatnonzero(chosen), rows, key, places)


def _refuse_other_folders(
    names: list[str], files: list[str], rows: list[int], places: np.ndarray
) -> None:
    """Take back the places of names whose folders are not those of the file.

    A table may have its own folders. But p2/5 is not p1/5, and where it names the file's folder
    for other images, or the files have the folder that it names, another one is another place.
    """
    named, there = (
        {folder for path in set(map(_folder, paths)) for folder in path.split("/")}
        for paths in (names, files)
    )
    for n in rows:
        name, file = names[n], files[places[n]]
        if places[n] < 0 or _is_end(name, file):
            continue
        first, second = (set(path.split("/")[:-1]) for path in (name, file))
        own, other = first - second, second - first
        alike = {*map(_without_numbers, own)} & {*map(_without_numbers, other)} - {""}
        if alike or own & there or other & named:
            places[n] = -1


class _Numbers:
    """Paths of which the last part is a number, by their ends without the zeros before it."""

    def __init__(self, paths: Iterable[tuple[str, int]]) -> None:
        self._whole: dict[str, set[int]] = defaultdict(set)
        self._ends: dict[str, set[int]] = defaultdict(set)
        for path, place in paths:
            if key := _without_zeros(path):
                self._whole[key].add(place)
                for end in _ends(key):
                    self._ends[end].add(place)

    def agreeing(self, path: str) -> set[int]:
        """Places of the paths of this number whose folders are those of a path, or end as they."""
        key = _without_zeros(path)
        longer = self._ends.get(key, set())
        return longer.union(*(self._whole.get(end, ()) for end in _ends(key)))


def _match_zeros(
    names: list[str], files: list[str], images: np.ndarray, rows: list[int], places: np.ndarray
) -> None:
    """Fill the places of names that are numbers and lack the zeros before a file's name.

    Only in the same folders, where no other name is or may be this file and no other file this
    name.
    """
    rows = [n for n in rows if _without_zeros(names[n]) == names[n]]
    if not rows:
        return
    first = {name: n for n, name in reversed(list(enumerate(names)))}
    known_names = _Numbers(first.items())
    known_files = _Numbers((files[place], place) for place in np.flatnonzero(images).tolist())
    taken = set(places.tolist())
    for n in rows:
        if len(chosen := known_files.agreeing(names[n])) == 1:
            place = chosen.pop()
            is_free = place not in taken and _without_zeros(files[place]) != files[place]
            if is_free and known_names.agreeing(files[place]) == {first[names[n]]}:
                places[n] = place


def _match_unique(
    wanted: list[str],
    found: list[str],
    chosen: np.ndarray,
    rows: list[int],
    key: Callable[[str], str],
    places: np.ndarray,
) -> None:
    """Fill the places of names whose key is that of exactly one of the chosen files."""
    keys = pack(key(found[place]) for place in chosen.tolist())
    codes, counts = count_groups(keys)
    once = np.flatnonzero(counts[codes] == 1)
    hits = _index(pack(key(wanted[n]) for n in rows), keys.take(pyarrow.array(once)))
    rows_hit = np.array(rows)[hits >= 0]
    places[rows_hit] = chosen[once[hits[hits >= 0]]]


def _longest_ends(names: list[str], files: list[str], places: np.ndarray) -> np.ndarray:
    """The number of parts of the longest end of each missing name that a file has, int (n,)."""
    lengths = np.zeros(len(names), int)
    rows = np.flatnonzero(places < 0)
    deepest = max(path.count("/") for path in files) + 1
    for length in range(1, deepest + 1):
        rows = np.array([n for n in rows.tolist() if names[n].count("/") + 1 >= length], int)
        if not len(rows):
            break
        hits = _index(
            pack(_end(names[n], length) for n in rows.tolist()),
            pack(_end(path, length) for path in files),
        )
        rows = rows[hits >= 0]
        lengths[rows] = length
    return lengths


def _several_longer(names: list[str], length: int) -> set[str]:
    """The ends of names that differ before it."""
    first: dict[str, str] = {}
    several = set()
    for name in names:
        if name.count("/") >= length:
            end = _end(name, length)
            if first.setdefault(end, name) != name:
                several.add(end)
    return several


def _index(values: pyarrow.Array, known: pyarrow.Array) -> np.ndarray:
    """The first place of each value among the known ones, (n,), -1 for none."""
    found = pyarrow.compute.index_in(values, known)
    return found.fill_null(-1).to_numpy(zero_copy_only=False)


def _end(path: str, length: int) -> str:
    return "/".join(path.rsplit("/", length)[-length:])


def _ends(path: str) -> Iterator[str]:
    """A path and every end of it."""
    while path:
        yield path
        path = path.partition("/")[2]


def _is_end(first: str, second: str) -> bool:
    """Whether one of two paths is the end of the other."""
    return f"/{first}".endswith(f"/{second}") or f"/{second}".endswith(f"/{first}")


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _without_numbers(name: str) -> str:
    """A name with its numbers left open; empty if it has none."""
    pattern = re.sub(r"\d+", "0", name)
    return pattern if "0" in pattern else ""


def _same(name: str) -> str:
    """A name as a path from a folder: composed letters, slashes, no root, scheme or drive."""
    if _PLAIN.fullmatch(name):
        return name
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
    """A path whose name is a number, without the zeros that spreadsheets take away; else empty."""
    folder, mark, stem = path.rpartition("/")
    number = stem.lstrip("0") if stem.isdecimal() else ""
    return f"{folder}{mark}{number}" if number else ""


def _without_ending(path: str) -> str:
    return _ENDINGS.sub("", path)
