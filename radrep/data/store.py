"""The studies of a prepared folder: Arrow shards, one row per study, its images as PNG files.

OUT/train-00000.arrow   at most 512 studies of the split, in the source's order
OUT/prepared.json       which shards there are, and more (radrep.data.manifest)
"""

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radrep.data.arrow import decode_png, find_misfit, open_shards
from radrep.data.manifest import ShardRecord, read_shards
from radrep.data.study import HELD_OUT, Image, Study
from radrep.data.text import target_text
from radrep.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

_ADDED = {"order"}  # columns that shards of an older radrep lack
_MAY_LACK = {"patient_id", "order"}  # columns in which some study has nothing
_OF_IMAGES = ("images", "names", "projections", "sha256", "difference_hashes")
_HASH_BYTES = 32
_OF_VALIDATION = 10  # one in ten of a fold's other patients chooses the checkpoint


@cache
def study_features() -> "Features":
    """The columns of a shard of studies."""
    # A second to import, which the processes that only resize images need not wait for.
    from datasets import Features, Image, List, Value

    text = Value("string")
    return Features(
        {
            "id": text,
            "patient_id": text,
            "split": text,
            "source": text,
            "report": text,
            "sections": List({"name": text, "text": text}),
            "labels": List({"name": text, "value": Value("int8")}),
            "order": Value("int64"),
            "images": List(Image(decode=False)),
            "names": List(text),
            "projections": List(text),
            "sha256": List(text),
            "difference_hashes": List(Value("binary")),
        }
    )


def study_row(study: Study, files: Sequence[bytes], hashes: Sequence[bytes]) -> dict[str, Any]:
    """A study as a row, with the PNG file and the difference hash (32 bytes) of each image."""
    return {
        "id": _whole(study.id),
        "patient_id": None if study.patient_id is None else _whole(study.patient_id),
        "split": study.split,
        "source": study.source,
        "report": _whole(study.report),
        "sections": [{"name": _whole(k), "text": _whole(v)} for k, v in study.sections.items()],
        "labels": [{"name": _whole(k), "value": v} for k, v in study.labels.items()],
        "order": study.order,
        "images": [{"bytes": file, "path": None} for file in files],
        "names": [_whole(image.name) for image in study.images],
        "projections": [image.projection for image in study.images],
        "sha256": [image.sha256 for image in study.images],
        "difference_hashes": list(hashes),
    }


def open_studies(prepared: Path, shards: Sequence[ShardRecord]) -> "Dataset":
    """The studies of shards, each column of the type that it is written with, nothing missing.

    Raises DataError, as `open_shards` does.
    """
    data = open_shards(prepared, shards)
    if lacking := {*study_features()} - {*data.column_names} - _ADDED:
        raise DataError(
            f"{prepared}: its shards have no {', '.join(sorted(lacking))}; prepare it again"
        )
    if problem := _find_misfit(data.data.table):
        raise DataError(f"{prepared}: its shards are not as radrep writes them: {problem}")
    return data


def _find_misfit(table: Any) -> str:
    """What is not as radrep writes it in an Arrow table of studies; "" for nothing."""
    import pyarrow.compute as pc

    # An image has no path, and a label may be unknown.
    if problem := find_misfit(
        table, study_features(), may_lack=_MAY_LACK, partly=("images", "labels")
    ):
        return problem
    lengths = [pc.list_value_length(table.column(name)) for name in _OF_IMAGES]
    if any(length != lengths[0] for length in lengths):
        return "studies have more images than names of them, or fewer"
    for name, fits in (
        ("sha256", lambda v: pc.match_substring_regex(v, "^[0-9a-f]{64}$")),
        ("difference_hashes", lambda v: pc.equal(pc.binary_length(v), _HASH_BYTES)),
    ):
        if not all(
            pc.all(fits(c.flatten()), min_count=0).as_py() for c in table.column(name).chunks
        ):
            return f"{name} is none of an image"
    return ""


def _whole(text: str) -> str:
    """The text with half surrogate pairs, which are no characters, replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(frozen=True)
class StoredStudy:
    """A study and the PNG files of its images, decoded when they are asked for."""

    study: Study
    _files: Any  # an Arrow list of structs, nothing of which is copied yet

    def image(self, number: int) -> np.ndarray:
        """The pixels of one of its images, uint8 (h, w), black 0."""
        return decode_png(self._files[number]["bytes"].as_py(), self.study.id)


def order_patients(patients: Iterable[str]) -> list[str]:
    """Each patient once, ordered by a hash of the id: by no study, report or label."""
    return sorted(set(patients), key=lambda patient: hashlib.sha256(patient.encode()).digest())


@dataclass(frozen=True)
class Fold:
    """Which patients of the training split are held out, `number` from 0 of `of` folds.

    Of the other patients one in ten are "val", which chooses the checkpoint, and the rest "train";
    nothing is ever chosen by "heldout". Patients are ordered by a hash of their id, so their fold
    depends on no study, report or label, and is the same for every recipe.
    """

    number: int
    of: int

    def part(self, name: str, patients: Sequence[str]) -> np.ndarray:
        """Which studies are "train", "val" or "heldout", given the patient of each, bool (n,)."""
        order = order_patients(patients)
        held_out = set(order[self.number :: self.of])
        others = [patient for patient in order if patient not in held_out]
        val = set(others[:: min(_OF_VALIDATION, max(len(others), 1))])
        parts = {HELD_OUT: held_out, "val": val, "train": set(others) - val}
        if name not in parts:
            raise DataError(
                f"a fold has the parts {', '.join(parts)}, got '{name}': cross-validation stays "
                "inside the training split and never opens the others"
            )
        if not all(parts.values()):
            raise DataError(
                f"{len(order)} patients of the training split are too few for {self.of} folds"
            )
        return np.array([patient in parts[name] for patient in patients], bool)


class PreparedStudies(Sequence[Study]):
    """Studies of one split, read from disk when they are asked for.

    With a `target`, only studies that have this text (see `target_text`); the others are counted by
    `num_without_text`. With a `fold`, `split` is one of its parts of the training split.
    `shard_sizes` are the studies of each shard, in order.
    """

    def __init__(
        self, prepared: Path, split: str, *, target: str | None = None, fold: Fold | None = None
    ) -> None:
        shards = read_shards(prepared, split if fold is None else "train")
        if not shards:
            raise DataError(f"{prepared}: the split '{split}' has no study")
        self.prepared = prepared
        self.split = split
        self._data = open_studies(prepared, shards)
        self._light = [c for c in _light_columns() if c in self._data.column_names]
        ends = np.cumsum([shard.studies for shard in shards])
        if ends[-1] != len(self._data):
            raise DataError(
                f"{prepared}: the split '{split}' has {len(self._data)} studies and should have "
                f"{ends[-1]}; remove the folder and prepare it again"
            )
        chosen = np.ones(len(self._data), bool)
        if fold is not None:
            chosen = fold.part(split, self._patients())
        kept = chosen
        if target is not None:
            kept = chosen & [bool(text) for text in self._section_texts(target)]
        self._rows = np.flatnonzero(kept)
        self.num_without_text = int(chosen.sum() - kept.sum())
        self.shard_sizes = np.diff(np.searchsorted(self._rows, ends), prepend=0).tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """A study, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.open(index).study

    def __iter__(self) -> Iterator[Study]:
        kept = np.zeros(len(self._data), bool)
        kept[self._rows] = True
        row = 0
        for batch in self._data.select_columns(self._light).iter(1000):
            for values in zip(*batch.values(), strict=True):  # much faster than row by row
                if kept[row]:
                    yield _to_study(dict(zip(batch, values, strict=True)))
                row += 1

    def open(self, index: int) -> StoredStudy:
        """A study whose images can be read, all from one row."""
        row = self._data.data.fast_slice(int(self._rows[index]), 1)
        light = {name: row.column(name)[0].as_py() for name in self._light}
        return StoredStudy(_to_study(light), row.column("images")[0])

    def read_images(self, index: int) -> list[np.ndarray]:
        """All images of a study as pixels, uint8 (h, w) each, black 0."""
        stored = self.open(index)
        return [stored.image(number) for number in range(len(stored.study.images))]

    @property
    def ids(self) -> list[str]:
        """The id of every study."""
        every = self._data.select_columns(["id"])[:]["id"]
        return [every[row] for row in self._rows]

    @cached_property
    def priors(self) -> Mapping[int, int]:
        """By index, the patient's study before it of those here; empty where no order is known."""
        return self.find_priors(range(len(self)))

    def find_priors(self, usable: Container[int]) -> Mapping[int, int]:
        """The same, of studies that are usable as the one before."""
        if not _ADDED.issubset(self._data.column_names):
            return {}
        rows = self._data.select_columns(["patient_id", "order"])[:]
        known = sorted(
            (rows["patient_id"][row], rows["order"][row], index)
            for index, row in enumerate(self._rows.tolist())
            if rows["patient_id"][row] is not None and rows["order"][row] is not None
        )
        found: dict[int, int] = {}
        for _, studies in groupby(known, key=itemgetter(0)):
            before = None
            for _, same_time in groupby(studies, key=itemgetter(1)):
                indices = [index for *_, index in same_time]
                if before is not None:
                    found |= dict.fromkeys(indices, before)
                before = next((index for index in indices if index in usable), before)
        return found

    def texts(self, target: str) -> list[str]:
        """The raw text of every study, see `target_text`; that of a split fits into memory."""
        every = list(self._section_texts(target))
        return [every[row] for row in self._rows]

    def _patients(self) -> list[str]:
        """The patient of every row; a study without one counts as a patient of its own."""
        rows = self._data.select_columns(["id", "patient_id"])[:]
        pairs = zip(rows["id"], rows["patient_id"], strict=True)
        return [f"study {id_}" if patient is None else patient for id_, patient in pairs]

    def _section_texts(self, target: str) -> Iterator[str]:
        for rows in self._data.select_columns(["sections"]).iter(1000):
            for row in rows["sections"]:
                yield target_text(_named(row, "text"), target)


@cache
def _light_columns() -> tuple[str, ...]:
    """All columns but the images themselves and their hashes."""
    return tuple(name for name in study_features() if name not in ("images", "difference_hashes"))


def _named(pairs: Sequence[Mapping[str, Any]], value: str) -> dict[str, Any]:
    return {pair["name"]: pair[value] for pair in pairs}


def _to_study(row: Mapping[str, Any]) -> Study:
    return Study(
        **{name: row[name] for name in ("id", "patient_id", "split", "source", "report")},
        images=tuple(map(Image, row["names"], row["projections"], row["sha256"])),
        sections=_named(row["sections"], "text"),
        labels=_named(row["labels"], "value"),
        order=row.get("order"),
    )
