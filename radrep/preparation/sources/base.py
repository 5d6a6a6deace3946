"""What all sources share: their base class, the lazy study, drawn splits."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from radrep.data.study import SPLITS, SourceStudy
from radrep.errors import DataError


@dataclass(frozen=True)
class LazyStudy:
    """A study whose report and images are read by `read`."""

    id: str
    split: str
    read: Callable[[], SourceStudy]


class Source(Protocol):
    """A raw download (or a generator) that yields studies in a fixed order."""

    name: str  # short, for the manifest: "iu_xray"
    layout: str  # the recognised layout, in words for the user
    notes: tuple[str, ...] = ()  # what to know before training on it, such as splits that leak
    warnings: tuple[str, ...] = ()  # what makes it unfit for training until it is mended
    split_hint: str = "Is the download complete, or did --limit or --views leave them out?"
    # Of a complete download, by split or, where only the total is published, under "all".
    expected_counts: Mapping[str, int] | None = None  # of studies
    expected_images: Mapping[str, int] | None = None
    splits: frozenset[str] = frozenset(SPLITS)  # those that may have a study

    def fingerprint(self, advance: Callable[[], None] = lambda: None) -> str:
        """Hash the tables and the names and sizes of all other files; opens no image.

        `advance` is called after the files of each study, where that takes long.
        """

    def __len__(self) -> int:
        """Number of studies."""

    def __iter__(self) -> Iterator[SourceStudy]:
        """Yield every study, also those that cannot be used (`SourceStudy.refusal`)."""

    def outlines(self) -> Iterator[LazyStudy]:
        """Yield every study in order, unread where the source has one file per report."""
        for study in self:
            yield LazyStudy(study.id, study.split, lambda study=study: study)  # type: ignore[misc]


def split_by_hash(key: str, train: float, val: float) -> str:
    """Draw a split with these shares from a hash of a name: other names do not change it."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    if place < train:
        return "train"
    return "val" if place < train + val else "test"


def check_folder(raw: Path, content: str) -> Path:
    """`raw`, which must be a folder that can be read."""
    if not raw.is_dir():
        problem = "is a file" if raw.exists() else "not found"
        raise DataError(f"{raw} {problem}; give {content}")
    try:
        os.listdir(raw)
    except OSError as error:
        raise DataError(f"{raw} cannot be read: {error}") from error
    return raw
