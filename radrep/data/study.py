"""The study: as a source yields it (raw) and as a prepared folder stores it, one row each."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

PROJECTIONS = ("frontal", "lateral", "unknown")
SPLITS = ("train", "val", "test")
HELD_OUT = "heldout"  # of a fold inside the training split
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# What may stand beside the name of a split: "Training set", "stage_2_train_images".
_BESIDE_SPLIT = frozenset(
    ("", "set", "data", "dataset", "split", "stage", "image", "images", "img", "imgs", "files")
    + (
        "cases",
        "studies",
        "folder",
        "png",
        "jpg",
        "jpeg",
        "dicom",
        "dicoms",
        "dcm",
        "xray",
        "xrays",
    )
)
_FRONTAL = {"frontal", "front", "pa", "ap", "posteroanterior", "anteroposterior"}
_LATERAL = {"lateral", "lat", "ll", "rl", "l"}


@lru_cache(maxsize=256)
def split_named(name: str) -> str:
    """The split that a name stands for, such as "Training set"; "" for none."""
    words = [word.removesuffix("set") for word in re.split(r"[\W\d_]+", name.casefold())]
    found = {SPLIT_NAMES.get(word, "") for word in words if word not in _BESIDE_SPLIT}
    return found.pop() if len(found) == 1 else ""


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

    `read` gives the pixels as uint8 (h, w), black 0, not shrunk below a short side, and can be
    pickled; `find` does not open the file. Both raise DataError with a reason.
    """

    name: str  # in the source, for messages and the left-out list
    read: Callable[[int], np.ndarray]
    projection: str = "unknown"
    find: Callable[[], object] | None = None  # None where there is no file


@dataclass(frozen=True)
class SourceStudy:
    """One study as a raw download has it: images unread, otherwise as in `Study`."""

    id: str
    patient_id: str | None
    split: str
    images: tuple[SourceImage, ...]
    sections: Mapping[str, str]
    report: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)
    refusal: str | None = None  # why it cannot be used, where the source itself knows
    order: int | None = None  # see `Study`


@dataclass(frozen=True)
class Image:
    """One prepared image: its name in the source, its projection, the SHA-256 of its PNG file."""

    name: str
    projection: str
    sha256: str


@dataclass(frozen=True)
class Study:
    """One row of a prepared data set.

    Sections are raw text by name ("findings", "impression", "indication", "comparison"); labels
    are those that a table of the source names: 1 present, 0 absent, -1 uncertain.
    """

    id: str  # unique in the data set
    patient_id: str | None  # None where unknown
    split: str
    images: tuple[Image, ...]  # every view, in the source's order
    sections: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    report: str = ""  # the whole raw one; empty where the source has only sections
    labels: Mapping[str, int] = field(default_factory=dict)
    order: int | None = None  # higher for a later study of the patient; None where not known
