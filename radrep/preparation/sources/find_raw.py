"""Finds a raw download under the folder names that its authors, R2Gen and PhysioNet use."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from radrep.data.manifest import PREPARED
from radrep.errors import DataError

_ROOTS = ("data", "data/raw", "downloads", ".")
_WGET = "physionet.org/files"  # wget -r makes physionet.org/files/mimic-cxr-jpg/2.1.0


@dataclass(frozen=True)
class Download:
    """How to recognise a raw data set; title, examples and content are for messages."""

    title: str
    names: re.Pattern[str]  # the beginning of its folders' names, lower case without marks
    examples: tuple[str, ...]  # such names
    holds: Callable[[Path], bool]  # whether a folder of such a name has what is needed
    content: str  # what is needed
    holds_unnamed: Callable[[Path], bool] | None = None  # the same for any name, where it differs
    inner: tuple[str, ...] = ("*",)  # globs of the folders below it that may hold it instead


def find_raw(download: Download, command: str, out: Path) -> list[Path]:
    """Return the folders below the working folder that hold a download, the best first.

    Never `out` or anything else that radrep made. DataError if there is none.
    """
    roots = [root for root in map(Path, _ROOTS) if root.is_dir()]
    found: dict[str, Path] = {}
    incomplete = []
    parents = [place for root in roots for place in (root, root / _WGET)]
    for folder in (named for place in parents for named in named_folders(place, download.names)):
        if _is_prepared(folder, out):
            continue
        hit = folder if download.holds(folder) else _find_inside(folder, download)
        if hit:
            found.setdefault(os.path.realpath(hit), hit)
        else:
            incomplete.append(str(folder))
    for root in roots:
        if (download.holds_unnamed or download.holds)(root) and not _is_prepared(root, out):
            found.setdefault(os.path.realpath(root), root)
    if found:
        return list(found.values())
    searched = ", ".join(str(root.resolve()) for root in roots)
    without = f" ({', '.join(incomplete)}: without it)" if incomplete else ""
    raise DataError(
        f"no {download.title} found in {searched}. Searched for a folder named "
        f"{', '.join(download.examples)} or the like that holds {download.content}{without}. "
        f"Give the folder of the download: {command} --raw DIR"
    )


def named_folders(parent: Path, names: re.Pattern[str]) -> Iterator[Path]:
    """The folders in a folder whose names match, whatever their case and marks."""
    try:
        children = sorted(parent.iterdir())
    except OSError:
        return
    for child in children:
        if names.match(re.sub(r"[\W_]+", "", child.name.casefold())) and child.is_dir():
            yield child


def folders_beside(raw: Path, names: re.Pattern[str]) -> Iterator[Path]:
    """The parents of a download, and the matching folders beside it and beside its parent."""
    raw = raw.resolve()
    # Also beside the physionet.org that wget made.
    wget = [path.parent for path in raw.parents if path.name == "physionet.org"]
    places = [*raw.parents[:2], *wget]
    yield from (raw.parent, *wget)
    for place in (each for parent in places for each in (parent, parent / _WGET)):
        for folder in named_folders(place, names):
            if folder.resolve() != raw:
                yield folder
                yield from sorted(filter(Path.is_dir, folder.glob("*")), reverse=True)


def refuse_outer(raw: Path, download: Download) -> None:
    """DataError if not `raw` but a folder in it holds a download."""
    if inner := _find_inside(raw, download):
        raise DataError(f"{raw} has no {download.content}, but {inner} has: give that folder")


def _find_inside(folder: Path, download: Download) -> Path | None:
    inner = (path for glob in download.inner for path in sorted(folder.glob(glob))[::-1])
    return next((path for path in inner if download.holds(path)), None)


def _is_prepared(folder: Path, out: Path) -> bool:
    return folder.resolve() == out.resolve() or (folder / PREPARED).exists()
