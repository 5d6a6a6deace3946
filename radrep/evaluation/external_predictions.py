"""Reports that outside systems wrote, and the references that they are scored against."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from radrep.data.manifest import read_shards
from radrep.data.store import PreparedStudies
from radrep.data.text import TARGETS
from radrep.errors import DataError
from radrep.evaluation.report_columns import (
    predicted_columns,
    read_ids,
    read_texts,
    reference_columns,
    tell_apart,
)
from radrep.evaluation.report_files import ReportFile, read_report_file

# A study of R2Gen's MIMIC-CXR, prepared, has one image, and both in its id.
_MIMIC_ROW = re.compile(r"s(\d+)_(.+)")
_HEADING = re.compile(r"\b(findings|impression)\s*:", re.IGNORECASE)

_Ids = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Predictions:
    """Reports that an outside system wrote.

    Attributes:
        path: The file.
        source: What was recognised, for the user: "CSV table", "ReXrank JSON", ...
        reports: Report by id, in the order of the file; "" where the system wrote nothing. The ids
            are of the first kind that tells all rows apart.
        ids_by_kind: Every kind of id that each row has ("id", "study_id", "dicom_id", ...; "key"
            for the keys of JSON), in the order of `reports`.
        notes: What the user should know.
    """

    path: Path
    source: str
    reports: Mapping[str, str]
    ids_by_kind: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ReferenceSet:
    """References of one split, and the texts of the others where the file has them.

    Attributes:
        path: The file or folder.
        source: What was recognised, for the user: "R2Gen annotation.json", "prepared folder", ...
        split: The split, None where the file has none.
        ids: The ids of the split in order.
        reports: Its raw references.
        train_ids: Ids of the training part; empty where there is none.
        train_reports: Raw reports of the training part, repeated ones too.
        val_reports: Raw reports of the validation part.
        ids_by_kind: Every kind of id by which a reference may be named, `ids` among them.
        without_text: Ids by kind of the studies of the split that lack the target text.
        notes: What the user should know.
    """

    path: Path
    source: str
    split: str | None
    ids: tuple[str, ...]
    reports: tuple[str, ...]
    train_ids: tuple[str, ...]
    train_reports: tuple[str, ...]
    val_reports: tuple[str, ...]
    ids_by_kind: Mapping[str, tuple[str, ...]]
    without_text: Mapping[str, frozenset[str]]
    notes: tuple[str, ...]


def read_predictions(path: Path, *, target: str = "findings") -> Predictions:
    """Read the reports of an outside system, in any form of `radrep.evaluation.report_files`.

    Args:
        path: The file.
        target: The section that the system was to write, for files with a column of that name.

    Raises:
        DataError: If the file cannot be read, has no column of ids or of reports, or several that
            may be meant, or gives one id different reports.
    """
    _check_target(target)
    file = read_report_file(path).together()
    texts, notes = read_texts(file, None, predicted_columns(target), target)
    ids = read_ids(file, None)
    kind, kept = tell_apart(path, ids, texts)
    if len(kept) < len(texts):
        notes.append(f"{path.name}: {len(texts) - len(kept)} repeated rows are counted once")
    ids, texts = _take(ids, kept), [texts[row] for row in kept]
    num_empty = sum(not text.strip() for text in texts)
    if num_empty:
        notes.append(f"{num_empty} of {len(texts)} predictions are empty; they are scored as such")
    num_headed = sum(bool(_HEADING.search(text)) for text in texts)
    if num_headed:
        notes.append(
            f"{num_headed} of {len(texts)} predictions have a heading such as 'Findings:' in them; "
            "they are scored as they are"
        )
    reports = dict(zip(ids[kind], texts, strict=True))
    return Predictions(path, file.form, reports, ids, tuple(notes))


def read_references(
    path: Path, *, split: str | None = None, target: str = "findings"
) -> ReferenceSet:
    """Read references: a prepared folder, R2Gen's annotation.json or another file of reports.

    A study without the target text is left out. Only of a file whose keys are splits, as R2Gen's
    are, every row is scored: published figures count empty references too.

    Args:
        path: The folder or the file.
        split: "train", "val" or "test"; by default test, or val where there is no test study.
        target: The section to score, "findings", "impression" or "both".

    Raises:
        DataError: If it cannot be read, has no such split, no column of ids or of reports, or
            several that may be meant, or gives one id different reports.
    """
    _check_target(target)
    if path.is_dir():
        return _read_prepared(path, split, target)
    return _read_file(read_report_file(path).by_split(), split, target)


def _read_file(file: ReportFile, split: str | None, target: str) -> ReferenceSet:
    path, columns = file.path, reference_columns(target)
    sizes = {part: len(rows) for part, rows in file.parts.items()}
    name, notes = _choose_split(path, sizes, split)
    texts, more = read_texts(file, name, columns, target)
    ids = read_ids(file, name)
    kind, kept = tell_apart(path, ids, texts)
    if len(kept) < len(texts):
        more.append(f"{path.name}: {len(texts) - len(kept)} repeated references are counted once")
    empty = [row for row in kept if not texts[row].strip()]
    if file.by_key and empty:
        more.append(f"{len(empty)} of {len(kept)} references are empty; they are scored as such")
        empty = []
    left_out = set(empty)
    scored = [row for row in kept if row not in left_out]
    more += _note_left_out(len(empty), len(kept), target)
    if not scored:
        raise DataError(f"{path}: no reference has a text for the target '{target}'")
    # Their other parts give vocabularies, for which repeated and empty reports count.
    others = {
        part: read_texts(file, part, columns, target)[0] if sizes.get(part) else []
        for part in ("train", "val")
    }
    return ReferenceSet(
        path=path,
        source=file.form,
        split=name,
        ids=_take(ids, scored)[kind],
        reports=tuple(texts[row] for row in scored),
        train_ids=next(iter(read_ids(file, "train").values())) if others["train"] else (),
        train_reports=tuple(others["train"]),
        val_reports=tuple(others["val"]),
        ids_by_kind=_take(ids, scored),
        without_text={other: frozenset(found) for other, found in _take(ids, empty).items()},
        notes=(*notes, *more),
    )


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise DataError(f"the target '{target}' is not one of {', '.join(TARGETS)}")


def _take(ids: _Ids, rows: Sequence[int]) -> _Ids:
    return {kind: tuple(found[row] for row in rows) for kind, found in ids.items()}


def _choose_split(
    path: Path, sizes: Mapping[str | None, int], split: str | None
) -> tuple[str | None, list[str]]:
    """The split to score, and notes."""
    if None in sizes:
        note = f"{path.name} has no splits, so all its {sizes[None]} rows are the split '{split}'"
        return None, [note] if split else []
    if split is not None:
        if not sizes.get(split):
            found = ", ".join(f"{name} ({size})" for name, size in sizes.items())
            raise DataError(f"{path}: the split '{split}' has no study; there are {found}")
        return split, []
    if sizes.get("test"):
        return "test", []
    if sizes.get("val"):
        return "val", [f"{path.name} has no test study, so the validation split is scored"]
    found = ", ".join(str(name) for name in sizes)
    raise DataError(f"{path} has no test study; say which split is scored ({found})")


def _note_left_out(num: int, total: int, target: str) -> list[str]:
    if not num:
        return []
    return [f"{num} of {total} studies have no {target} and are left out"]


def _read_prepared(path: Path, split: str | None, target: str) -> ReferenceSet:
    sizes: Counter[str | None] = Counter()
    for shard in read_shards(path):
        sizes[shard.split] += shard.studies
    if not sizes:
        raise DataError(f"{path} has no study")
    name, notes = _choose_split(path, sizes, split)
    parts = {
        part: _read_part(path, part, target) if sizes[part] else []
        for part in dict.fromkeys((str(name), "train", "val"))
    }
    studies = parts[str(name)]
    scored = [(id_, text) for id_, text in studies if text]
    if not scored:
        raise DataError(f"{path}: no study of the split '{name}' has the target '{target}'")
    ids, reports = zip(*scored, strict=True)
    bare = tuple(id_ for id_, text in studies if not text)
    train = [(id_, text) for id_, text in parts["train"] if text]
    return ReferenceSet(
        path=path,
        source="prepared folder",
        split=name,
        ids=ids,
        reports=reports,
        train_ids=tuple(id_ for id_, _ in train),
        train_reports=tuple(text for _, text in train),
        val_reports=tuple(text for _, text in parts["val"] if text),
        ids_by_kind=_kinds(ids),
        without_text={kind: frozenset(found) for kind, found in _kinds(bare).items()},
        notes=(*notes, *_note_left_out(len(bare), len(studies), target)),
    )


def _read_part(path: Path, split: str, target: str) -> list[tuple[str, str]]:
    """The id and the raw text, "" if it has none, of every study of a split."""
    studies = PreparedStudies(path, split)
    return list(zip(studies.ids, studies.texts(target), strict=True))


def _kinds(ids: tuple[str, ...]) -> _Ids:
    """The ids of prepared studies, and those that the ids of R2Gen's MIMIC-CXR are made of."""
    rows = [_MIMIC_ROW.fullmatch(id_) for id_ in ids]
    pairs = [(row[1], row[2]) for row in rows if row]
    if not pairs or len(pairs) < len(ids):
        return {"id": ids}
    return {
        "id": ids,
        "study_id": tuple(study for study, _ in pairs),
        "dicom_id": tuple(dicom for _, dicom in pairs),
    }
