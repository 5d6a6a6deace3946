"""What all sources share: their protocol, the lazy study, drawn splits."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from radrep.data.study import SourceStudy
from radrep.errors import DataError


def _count_nothing() -> None:
    pass


class Source(Protocol):
    """A raw download (or a generator) that yields studies in a fixed order.

    Attributes:
        name: Short, for the manifest: "iu_xray".
        layout: The recognised layout, in words for the user.
        notes: What the user should know before training on it, such as splits that leak.
    """

    name: str
    layout: str
    notes: tuple[str, ...]

    def fingerprint(self, advance: Callable[[], None] = _count_nothing) -> str:
        """A hash of the tables and of the names and sizes of all other files; opens no image.

        Args:
            advance: Called after the files of each study, where that takes long.
        """

    def expected_counts(self) -> dict[str, int] | None:
        """Studies per split of a complete download, or None where no number is published.

        Where only the total is published, it stands under "all".
        """

    def expected_images(self) -> dict[str, int] | None:
        """Images per split of a complete download, in the same form."""

    def splits(self) -> frozenset[str]:
        """The splits that may have a study; reading may stop when all of them have enough."""

    def __len__(self) -> int:
        """Number of studies."""

    def __iter__(self) -> Iterator[SourceStudy]:
        """Yield every study, also those that cannot be used (`SourceStudy.refusal`)."""


@dataclass(frozen=True)
class LazyStudy:
    """A study whose report and images are read by `read`."""

    id: str
    split: str
    read: Callable[[], SourceStudy]


@runtime_checkable
class OutlinedSource(Protocol):
    """A source with one file per report, which need not all be opened."""

    def outlines(self) -> Iterator[LazyStudy]:
        """Yield every study in order, unread."""


def outline_studies(source: Source) -> Iterator[LazyStudy]:
    """The studies of a source, unread where the source allows it."""
    if isinstance(source, OutlinedSource):
        yield from source.outlines()
        return
    for study in source:
        yield LazyStudy(study.id, study.split, partial(_known, study))


def _known(study: SourceStudy) -> SourceStudy:
    return study


def split_by_hash(key: str, train: float, val: float) -> str:
    """Draw a split from a hash of a name (a patient's), so that others do not change it.

    Args:
        key: The name.
        train: Share of names in "train".
        val: Share of names in "val"; the rest is "test".
    """
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
