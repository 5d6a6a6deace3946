"""The study: what a source yields, what the prepared folder holds, one row each."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Protocol, runtime_checkable

import numpy as np

PROJECTIONS = ("frontal", "lateral", "unknown")
SPLITS = ("train", "val", "test")
_FRONTAL = {"frontal", "front", "pa", "ap", "posteroanterior", "anteroposterior"}
_LATERAL = {"lateral", "lat", "ll", "rl", "l"}


@lru_cache(maxsize=256)
def projection_of(view: str) -> str:
    """The projection that a table's view or DICOM's ViewPosition stands for."""
    words = set(re.split(r"[\W\d_]+", view.casefold()))
    frontal, lateral = bool(words & _FRONTAL), bool(words & _LATERAL)
    if frontal == lateral:
        return "unknown"
    return "frontal" if frontal else "lateral"


@dataclass(frozen=True)
class SourceImage:
    """One image as a raw download has it.

    Attributes:
        name: What the source calls it, used in messages and in the left-out list.
        read: Reads the pixels as uint8 (h, w), black 0, given the short side in pixels that is
            wanted of them: they may come smaller than the file has them, but not smaller than that.
            Raises DataError with a reason. It can be pickled, so that worker processes may call it.
        projection: "frontal", "lateral" or "unknown".
        find: Raises DataError with a reason if the file is not there, without opening it; None
            where there is no file to look for.
    """

    name: str
    read: Callable[[int], np.ndarray]
    projection: str = "unknown"
    find: Callable[[], object] | None = None


@dataclass(frozen=True)
class SourceStudy:
    """One study as a raw download has it: images unread, sections as raw text.

    Attributes:
        id: What the source calls it.
        patient_id: The patient, or None when the source does not say.
        split: "train", "val" or "test".
        images: Every view, in the source's order.
        sections: Raw text by section name ("findings", "impression", "indication", "comparison").
        report: The whole raw report where the source has one, so that nothing of it is lost.
        labels: Findings that a table of the source names: 1 present, 0 absent, -1 uncertain; those
            it says nothing of are not there.
        refusal: Why the study cannot be used, where the source itself knows (no report, ...).
    """

    id: str
    patient_id: str | None
    split: str
    images: tuple[SourceImage, ...]
    sections: Mapping[str, str]
    report: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)
    refusal: str | None = None


@dataclass(frozen=True)
class LazyStudy:
    """A study of which nothing but its place is known yet.

    Attributes:
        id: What the source calls it.
        split: "train", "val" or "test".
        read: Reads the rest.
    """

    id: str
    split: str
    read: Callable[[], SourceStudy]


def _count_nothing() -> None:
    pass


class Source(Protocol):
    """A raw download (or a generator) that yields studies in a fixed order.

    Attributes:
        name: Short, for the manifest: "iu_xray".
        layout: What was recognised, in words for the user.
        notes: What the user should know before training on it, such as splits that leak.
    """

    name: str
    layout: str
    notes: tuple[str, ...]

    def fingerprint(self, advance: Callable[[], None] = _count_nothing) -> str:
        """A hash that changes when what the source yields changes.

        Of its tables, and of the names and sizes of what else it reads; images are not opened.

        Args:
            advance: Called for each study whose files are looked at, where that takes long.
        """

    def expected_counts(self) -> dict[str, int] | None:
        """Studies a split that a complete download has, or None where no number is published.

        Where only their total is, it stands under "all".
        """

    def expected_images(self) -> dict[str, int] | None:
        """The same of images."""

    def splits(self) -> frozenset[str]:
        """The splits that may have a study: when all of them have enough, none need be read."""

    def __len__(self) -> int:
        """Number of studies, read without opening images."""

    def __iter__(self) -> Iterator[SourceStudy]:
        """Yield every study; what cannot be used is decided by the caller."""


@runtime_checkable
class OutlinedSource(Protocol):
    """A source whose reports lie in files of their own, which nobody need read in vain."""

    def outlines(self) -> Iterator[LazyStudy]:
        """Yield every study in order, unread."""


def outline_studies(source: Source) -> Iterator[LazyStudy]:
    """The studies of a source, unread as far as it can leave them unread."""
    if isinstance(source, OutlinedSource):
        yield from source.outlines()
        return
    for study in source:
        yield LazyStudy(study.id, study.split, partial(_known, study))


def _known(study: SourceStudy) -> SourceStudy:
    return study


@dataclass(frozen=True)
class Image:
    """One prepared image; its pixels are read apart, see `radrep.data.store`.

    Attributes:
        name: What the source calls it.
        projection: "frontal", "lateral" or "unknown".
        sha256: Of its file's bytes, in hexadecimal: equal images have equal ones.
    """

    name: str
    projection: str
    sha256: str


@dataclass(frozen=True)
class Study:
    """One row of a prepared data set.

    Attributes:
        id: Unique in the data set.
        patient_id: The patient, or None when the source does not say.
        split: "train", "val" or "test".
        images: Every view, in the source's order.
        sections: Raw text by section name ("findings", "impression", "indication", "comparison").
        source: Name of the source.
        report: The whole raw report, empty where the source has only sections.
        labels: Findings that a table of the source names: 1 present, 0 absent, -1 uncertain.
    """

    id: str
    patient_id: str | None
    split: str
    images: tuple[Image, ...]
    sections: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    report: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)
