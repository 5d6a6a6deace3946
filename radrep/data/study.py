"""The study: as a source yields it (raw) and as a prepared folder stores it, one row each."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

PROJECTIONS = ("frontal", "lateral", "unknown")
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
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
        name: Its name in the source, for messages and the left-out list.
        read: Reads the pixels as uint8 (h, w), black 0, given a short side in pixels below which
            they must not be shrunk. Raises DataError with a reason. Can be pickled.
        projection: "frontal", "lateral" or "unknown".
        find: Raises DataError with a reason if the file is missing, without opening it; None
            where there is no file.
    """

    name: str
    read: Callable[[int], np.ndarray]
    projection: str = "unknown"
    find: Callable[[], object] | None = None


@dataclass(frozen=True)
class SourceStudy:
    """One study as a raw download has it: images unread, sections as raw text.

    Attributes:
        id: Its id in the source.
        patient_id: The patient, or None where unknown.
        split: "train", "val" or "test".
        images: Every view, in the source's order.
        sections: Raw text by section name ("findings", "impression", "indication", "comparison").
        report: The whole raw report, where the source has one.
        labels: Findings in a table of the source: 1 present, 0 absent, -1 uncertain; others are
            left out.
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
class Image:
    """One prepared image: its name in the source, its projection, the SHA-256 of its PNG file.

    Its pixels are read by `radrep.data.store`.
    """

    name: str
    projection: str
    sha256: str


@dataclass(frozen=True)
class Study:
    """One row of a prepared data set.

    Attributes:
        id: Unique in the data set.
        patient_id: The patient, or None where unknown.
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
