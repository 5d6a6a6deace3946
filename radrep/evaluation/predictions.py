"""Reports of other programs and the references that they are scored against, matched by id.

Files are JSON, JSONL, CSV or TSV, plain or gzip, recognised by their content:

    {"id": "report", ...}                          and {"id": {"report": ..., ...}, ...}
    [{"id": ..., "report": ...}, ...]              and the same as {"predictions": [...]}
    {"train": [...], "val": [...], "test": [...]}  R2Gen's annotation.json
    {"id": ..., "report": ...} per line            JSONL
    id,report                                      a table with a header
    "the lungs are clear ."                        a text per line or row, or a list of texts

The last, as R2Gen's testers write it, has no ids: its texts are in the order of the references. The
second is that of ReXrank (https://rexrank.ai), with `section_findings`, `model_prediction`, ...
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import itemgetter
from pathlib import Path

from radrep.data.manifest import read_shards
from radrep.data.store import PreparedStudies
from radrep.data.text import TARGETS, target_text
from radrep.errors import DataError
from radrep.evaluation.report_files import (
    ID_COLUMNS,
    KEY,
    NUMBERS,
    PREDICTED,
    REFERENCE,
    TEXTS,
    WHOLE,
    ColumnNames,
    ReportFile,
    Row,
    are_numbered,
    cell_id,
    cell_text,
    plain,
    read_file,
)
from radrep.preparation.sources.cells import EXPORT_AGAIN, is_rounded
from radrep.sections import SECTIONS, TWO_SECTIONS

# Columns in the order of preference, by their plain names: small letters and digits.
_PREDICTED_IDS = (KEY, "studyid", "dicomid", "imageid", "uid", "id", "subjectid")
_HEADING = re.compile(r"\b(findings|impression)\s*:", re.IGNORECASE)
# A study of R2Gen's MIMIC-CXR, prepared, has one image, and both in its id.
_MIMIC_ID = re.compile(r"s(?P<studyid>\d+)_(?P<dicomid>.+)")
_SHOWN = 10  # ids in a message
_PLACE = "place in the file"  # in place of ids

_Ids = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Predictions:
    """Reports of another program."""

    path: Path
    source: str  # the form recognised: "CSV table", "ReXrank JSON", ...
    kind: str  # column of the ids
    reports: Mapping[str, str]  # by id, in the order of the file, "" where there is none
    notes: tuple[str, ...]
    truths: tuple[str, ...] = ()  # the references in the same file, where it has no ids
    numbers: tuple[str, ...] = ()  # of its rows there, which may be ids all the same


@dataclass(frozen=True)
class References:
    """Raw references of one split, and reports of the others if available."""

    path: Path
    source: str  # the form: "R2Gen annotation.json", "prepared folder", ...
    split: str | None  # None without splits
    ids: tuple[str, ...]  # in order, `reports` beside them
    reports: tuple[str, ...]
    train_reports: tuple[str, ...]  # raw, repeated ones too
    val_reports: tuple[str, ...]
    ids_by_kind: Mapping[str, tuple[str, ...]]  # every kind of id, `ids` among them
    without_text: Mapping[str, frozenset[str]]  # ids of studies that lack the target
    notes: tuple[str, ...]
    rows: tuple[int, ...]  # places of `ids` among the rows of the split
    num_rows: int


def read_predictions(
    path: Path, *, target: str = "findings", columns: ColumnNames | None = None
) -> Predictions:
    """Read reports of another program; target names the section where a column does.

    Raises:
        DataError: If the file is unreadable, lacks ids or reports, or an id has different reports.
    """
    columns = columns or ColumnNames()
    file = read_file(path).together()
    file = file if columns.id else file.in_order()
    texts, notes = _read_texts(file, None, PREDICTED, target, columns.text)
    notes += file.notes
    # "id" late: it may be the number of the row.
    wanted = (plain(columns.id),) if columns.id else _PREDICTED_IDS
    truths: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    if columns.id is None and file.columns.keys() <= {*TEXTS, *NUMBERS}:
        ids = {_PLACE: tuple(map(str, range(1, len(texts) + 1)))}
        if file.columns.keys() & {*REFERENCE}:
            truths = tuple(_read_texts(file, None, REFERENCE, target, None)[0])
        numbers = next((file.numbers(None, name) for name in NUMBERS if name in file.columns), ())
    else:
        ids = _read_ids(file, None, wanted)
    kind, kept = _distinct_rows(path, ids, texts, notes)
    texts = [texts[row] for row in kept]
    if num := sum(not text.strip() for text in texts):
        notes.append(f"{num} of {len(texts)} predictions are empty; they are scored as such")
    if num := sum(bool(_HEADING.search(text)) for text in texts):
        notes.append(
            f"{num} of {len(texts)} predictions contain a heading such as 'Findings:'; "
            "they are scored as they are"
        )
    reports = dict(zip(_take(ids, kept)[kind], texts, strict=True))
    return Predictions(path, file.form, kind, reports, tuple(notes), truths, numbers)


def read_references(
    path: Path,
    *,
    split: str | None = None,
    target: str = "findings",
    columns: ColumnNames | None = None,
) -> References:
    """Read references: a prepared folder, R2Gen's annotation.json or another file of reports.

    A study without the target text is left out. Only of a file whose keys are splits, as R2Gen's
    are, every row is scored: published scores count empty references too. Without a split it is
    test, or val where there is no test study.

    Raises:
        DataError: If it cannot be read, lacks split, ids or reports, or an id has different ones.
    """
    prepared, named = path.is_dir(), plain(columns.id) if columns and columns.id else ""
    file = _prepared_file(path, target) if prepared else read_file(path).by_split()
    file = file if named in file.columns else file.in_order()
    sizes = {part: len(rows) for part, rows in file.parts.items()}
    name, notes = _choose_split(path, sizes, split)
    texts, more = _read_texts(file, name, REFERENCE, target, None)
    more += file.notes
    ids = {_PLACE: tuple(map(str, range(1, len(texts) + 1)))}
    if named or prepared or not file.columns.keys() <= {*TEXTS, *NUMBERS}:
        own = (named,) if named in file.columns and not prepared else ID_COLUMNS
        ids = _read_ids(file, name, own)
    kind, kept = _distinct_rows(path, ids, texts, more)
    empty = {row for row in kept if not texts[row].strip()}
    if file.by_key and empty:
        more.append(f"{len(empty)} of {len(kept)} references are empty; they are scored as such")
        empty = set()
    scored = [row for row in kept if row not in empty]
    if empty:
        more.append(f"{len(empty)} of {len(kept)} studies have no {target} and are left out")
    if not scored:
        of = f" of the split '{name}'" if name else ""
        raise DataError(f"{path}: no reference{of} has a text for the target '{target}'")
    # The other parts of a file give vocabularies, for which repeated and empty reports count.
    train, val = (
        tuple(
            text
            for text in _read_texts(file, part, REFERENCE, target, None)[0]
            if text or not prepared
        )
        if sizes.get(part)
        else ()
        for part in ("train", "val")
    )
    ids_by_kind = _take(ids, scored)
    return References(
        path=path,
        source=file.form,
        split=name,
        ids=ids_by_kind[kind],
        reports=tuple(texts[row] for row in scored),
        train_reports=train,
        val_reports=val,
        ids_by_kind=ids_by_kind,
        without_text={k: frozenset(v) for k, v in _take(ids, sorted(empty)).items()},
        notes=(*notes, *more),
        rows=tuple(scored),
        num_rows=len(texts),
    )


def align(
    predictions: Predictions, references: References
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a prediction for each reference, in their order, and notes.

    Ids are compared with each kind of id of the references, then in their `_common_spelling`.

    Raises:
        DataError: If the ids differ; it lists them.
    """
    given, tried = predictions.reports, []
    if predictions.kind == _PLACE:
        given = dict(zip(predictions.numbers, given.values(), strict=False))
        kinds = (k for k, ids in references.ids_by_kind.items() if {*ids} <= given.keys())
        if next(kinds, _PLACE) == _PLACE:
            return _align_by_place(predictions, references)
    spellings: tuple[Callable[[str], str], ...] = (str, _common_spelling)
    for spell, (kind, ids) in product(spellings, references.ids_by_kind.items()):
        texts = {spell(id_): text for id_, text in given.items()}
        wanted = {spell(id_): id_ for id_ in ids}
        known = {*wanted, *map(spell, references.without_text.get(kind, ()))}
        missing = [id_ for spelled, id_ in wanted.items() if spelled not in texts]
        extra = [id_ for id_ in given if spell(id_) not in known]
        unique = len(wanted) == len(ids) and len(texts) == len(given)
        if unique and not missing and not extra:
            notes = []
            if spell is not str:
                notes.append(
                    "ids are matched as '123.0' = 's123' = '0123' = '123' and 'a/b' = 'a_b'"
                )
            if ids != references.ids:
                notes.append(f"the predictions are matched by the {kind} of the references")
            if num := len(texts) - len(wanted):
                notes.append(f"{num} predictions are for studies without the target text")
            return tuple(texts[spelled] for spelled in wanted), tuple(notes)
        tried.append((len(wanted) - len(missing), kind, len(wanted), missing, extra))
    if are_numbered([*given]) and len(given) in (references.num_rows, len(references.ids)):
        return _align_by_place(predictions, references)
    _, kind, num_wanted, missing, extra = max(tried, key=itemgetter(0))
    part = f", {references.split}" if references.split else ""
    lines = [
        f"the ids of {predictions.path} ({predictions.kind}) are not those of {references.path} "
        f"({references.source}{part}, {kind}); choose another column with --id-column:"
    ]
    if missing:
        lines.append(f"  {len(missing)} of {num_wanted} have no prediction: {_listed(missing)}")
    if extra:
        lines.append(f"  {len(extra)} of {len(given)} have no reference: {_listed(extra)}")
    if num_wanted < len(references.ids):
        lines.append(f"  the {len(references.ids)} references have {num_wanted} different {kind}")
    raise DataError("\n".join(lines))


def _align_by_place(
    predictions: Predictions, references: References
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts without ids, in the order of the references, those without the target text or not."""
    texts, ids, num_rows = [*predictions.reports.values()], references.ids, references.num_rows
    if len(texts) not in (len(ids), num_rows):
        count = f"{len(ids)} references of {references.split or 'all'}"
        if num_rows != len(ids):
            count += f" (or {num_rows} studies with those that have no text)"
        raise DataError(
            f"{predictions.path} has no ids and {len(texts)} texts, and {references.path} has "
            f"{count}: without ids there must be as many, in the same order. Add a column of ids"
        )
    rows = references.rows if len(texts) != len(ids) else range(len(ids))
    truths = predictions.truths
    for id_, row, reference in zip(ids, rows, references.reports, strict=True) if truths else ():
        theirs, ours = (set(re.findall(r"[a-z]+", t.casefold())) for t in (truths[row], reference))
        if len(theirs - ours) > len(theirs & ours):
            raise DataError(
                f"{predictions.path} has no ids and its row {row + 1} is beside another reference "
                f"than that of {id_}: its order is not that of {references.path}. Add ids"
            )
    proof = ", to which the references beside them fit" if truths else ""
    return tuple(texts[row] for row in rows), (
        f"{predictions.path.name} has no ids: its {len(texts)} texts are taken in the order of "
        f"{references.path}{proof}",
    )


def _common_spelling(id_: str) -> str:
    """An id without pandas' ".0", MIMIC's "s", Excel's lost zeros and CheXpert Plus' slashes."""
    return re.sub(r"^s?0*(\d+)(\.0)?$", r"\1", id_).replace("/", "_")


def _read_texts(
    file: ReportFile, split: str | None, preferred: Sequence[str], target: str, named: str | None
) -> tuple[list[str], list[str]]:
    """The text of each row, "" where it is missing, and notes."""
    sections = SECTIONS if target in ("both", TWO_SECTIONS) else (target,)
    if target not in (known := (*TARGETS, TWO_SECTIONS)):
        raise DataError(f"the target '{target}' is not one of {', '.join(known)}")
    in_sections = [sections, tuple(f"section{name}" for name in sections)]
    candidates = [*((name,) for name in preferred), *in_sections, *((name,) for name in WHOLE)]
    if named is not None:
        candidates = [(plain(named),)]
    present = [columns for columns in candidates if set(columns) <= file.columns.keys()]
    if not present:
        raise DataError(
            f"{file.path} ({file.form}) has no column {named or 'of reports'}; "
            f"its columns are {', '.join(file.columns.values())}. Choose one with --text-column"
        )
    chosen, *rest = present
    texts = []
    for place, row in enumerate(file.parts[split]):
        cells: dict[str, str] = {}
        for name in chosen:
            text = cell_text(row.get(name))
            if text is None:
                raise DataError(
                    f"{file.where(split, place)}: {file.written(name)} is {row[name]!r}; "
                    "expected text"
                )
            cells[name.removeprefix("section")] = text
        texts.append(target_text(cells, target) if len(cells) > 1 else cells.popitem()[1])
    notes = [] if named else file.note_unread(split, chosen, rest, strict=preferred == PREDICTED)
    if chosen[0] in WHOLE and target != "findings":
        notes.append(
            f"{file.path.name} does not name the section of {file.written(*chosen)}; it is scored "
            f"as it is, for the target '{target}'"
        )
    return texts, notes


def _read_ids(file: ReportFile, split: str | None, wanted: Sequence[str]) -> _Ids:
    """The columns of ids that have one in every row, the preferred one first."""
    found = {
        file.columns[name]: tuple(cell_id(row.get(name)) for row in file.parts[split])
        for name in wanted
        if name in file.columns
    }
    if not found:
        raise DataError(
            f"{file.path} ({file.form}) has no column of ids ({', '.join(wanted)}); its "
            f"columns are {', '.join(file.columns.values())}. Choose one with --id-column"
        )
    filled = {k: ids for k, ids in found.items() if all(ids) and not any(map(is_rounded, ids))}
    if not filled:
        kind, ids = next(iter(found.items()))
        place = next(place for place, id_ in enumerate(ids) if not id_ or is_rounded(id_))
        problem = f"it has no {kind}"
        if ids[place]:
            problem = f"{kind} is {ids[place]!r}, rounded by a spreadsheet; {EXPORT_AGAIN}"
        raise DataError(f"{file.where(split, place)}: {problem}")
    return filled


def _distinct_rows(
    path: Path, ids: _Ids, texts: Sequence[str], notes: list[str]
) -> tuple[str, list[int]]:
    """The first kind of id that distinguishes the rows, and the rows, repeated ones once."""
    places: dict[object, int] = {}
    for place, row in enumerate(zip(*ids.values(), texts, strict=True)):
        places.setdefault(row, place)
    kept = list(places.values())
    if len(kept) < len(texts):
        notes.append(f"{path.name}: {len(texts) - len(kept)} repeated rows are counted once")
    for kind, found in ids.items():
        if len({found[row] for row in kept}) == len(kept):
            return kind, kept
    kind, found = next(iter(ids.items()))
    counts = Counter(found[row] for row in kept)
    several = [id_ for id_, count in counts.items() if count > 1]
    raise DataError(f"{path}: {len(several)} {kind} have different reports: {_listed(several)}")


def _listed(ids: Sequence[str]) -> str:
    more = f", and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more


def _take(ids: _Ids, rows: Sequence[int]) -> _Ids:
    return {kind: tuple(found[row] for row in rows) for kind, found in ids.items()}


def _choose_split(
    path: Path, sizes: Mapping[str | None, int], split: str | None
) -> tuple[str | None, list[str]]:
    """The split to score, and notes."""
    if None in sizes:
        note = f"{path.name} has no splits, so all its {sizes[None]} rows are the split '{split}'"
        return None, [note] if split else []
    found = ", ".join(f"{name} ({size})" for name, size in sizes.items())
    if split is not None and not sizes.get(split):
        raise DataError(f"{path}: the split '{split}' has no study; there are {found}")
    if split is not None or sizes.get("test"):
        return split or "test", []
    if sizes.get("val"):
        return "val", [f"{path.name} has no test study, so the validation split is scored"]
    raise DataError(f"{path} has no test study; choose with --split one of {found}")


def _prepared_file(path: Path, target: str) -> ReportFile:
    """A prepared folder as a file of reports, with the ids that those of R2Gen's MIMIC-CXR hold."""
    columns = {"id": "id", "studyid": "study_id", "dicomid": "dicom_id", "reference": "reference"}
    parts: dict[str | None, list[Row]] = {}
    for split in dict.fromkeys(shard.split for shard in read_shards(path)):
        studies = PreparedStudies(path, split)
        parts[split] = [
            {"id": id_, "reference": text, **(found.groupdict() if found else {})}
            for id_, text in zip(studies.ids, studies.texts(target), strict=True)
            for found in [_MIMIC_ID.fullmatch(id_)]
        ]
    if not any(parts.values()):
        raise DataError(f"{path} has no study")
    return ReportFile(path, "prepared folder", columns, parts, by_key=False)
