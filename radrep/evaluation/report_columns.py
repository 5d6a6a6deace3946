"""Which columns of a file of reports hold the ids and the texts, and what they hold."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from radrep.data.text import target_text
from radrep.errors import DataError
from radrep.evaluation.report_files import ID_COLUMNS, ReportFile, cell_id, cell_text

# Plain names, see ReportFile.
_PREDICTED = (
    "prediction",
    "predictions",
    "predicted",
    "predictedreport",
    "modelprediction",
    "generated",
    "generatedreport",
    "hypothesis",
    "candidate",
    "caption",
)
_REFERENCE = ("reference", "referencereport", "groundtruth")
_WHOLE = ("report", "reports", "text")
_SHOWN = 10

# A text is that of one column, or of several together.
Columns = tuple[str, ...]
Tiers = Sequence[Sequence[Columns]]


def predicted_columns(target: str) -> Tiers:
    """Columns that may hold predictions of a section; those of an earlier tier are preferred."""
    return [_singles(_PREDICTED), [*_singles(_WHOLE), *_section_columns(target)]]


def reference_columns(target: str) -> Tiers:
    """Columns that may hold references of a section; those of an earlier tier are preferred."""
    return [_singles(_REFERENCE), _section_columns(target), _singles(_WHOLE)]


def read_texts(
    file: ReportFile, split: str | None, tiers: Tiers, target: str
) -> tuple[list[str], list[str]]:
    """Read a text a row, "" where it is missing, and say what is to be known of it.

    Args:
        file: The file.
        split: Which of its parts.
        tiers: The first tier of which the file has a column is read.
        target: "findings", "impression" or "both".

    Returns:
        The texts, and notes.

    Raises:
        DataError: If there is no such column, there are several of one tier that differ, or a
            cell holds no text.
    """
    present = [[found for found in tier if set(found) <= file.columns.keys()] for tier in tiers]
    chosen = next((tier for tier in present if tier), None)
    if chosen is None:
        names = dict.fromkeys(name for tier in tiers for found in tier for name in found)
        raise DataError(
            f"{file.path} ({file.form}) has no column of reports; its columns are "
            f"{', '.join(file.columns.values())}. Known are {', '.join(names)}"
        )
    first, *others = chosen
    texts = _column_texts(file, split, first, target)
    for other in others:
        if _column_texts(file, split, other, target) != texts:
            raise DataError(
                f"{file.path}: either {file.written(*first)} or {file.written(*other)} may be "
                "meant, and they differ; leave one of them"
            )
    notes = []
    passed_over = [found for tier in present[present.index(chosen) + 1 :] for found in tier]
    if passed_over:
        unused = ", ".join(file.written(*found) for found in passed_over)
        notes.append(f"{file.path.name}: {file.written(*first)} is read, {unused} is not")
    if first[0] in _WHOLE and target != "findings":
        notes.append(
            f"{file.path.name} does not say which section {file.written(*first)} is; it is "
            f"scored as it is, for the target '{target}'"
        )
    return texts, notes


def read_ids(file: ReportFile, split: str | None) -> dict[str, tuple[str, ...]]:
    """Read every kind of id that all rows of a part have, the preferred one first.

    Raises:
        DataError: If there is none.
    """
    rows = file.parts[split]
    found = {
        kind: tuple(cell_id(row.get(name)) for row in rows)
        for name, kind in ID_COLUMNS.items()
        if name in file.columns
    }
    if not found:
        raise DataError(
            f"{file.path} ({file.form}) has no column of ids; its columns are "
            f"{', '.join(file.columns.values())}. Known are {', '.join(ID_COLUMNS.values())}"
        )
    filled = {kind: ids for kind, ids in found.items() if all(ids)}
    if not filled:
        kind, ids = next(iter(found.items()))
        raise DataError(f"{_where(file, split, ids.index(''))}: it has no {kind}")
    return filled


def tell_apart(
    path: Path, ids: Mapping[str, Sequence[str]], texts: Sequence[str]
) -> tuple[str, list[int]]:
    """The first kind of id that tells the rows apart, and the rows, repeated ones once.

    Args:
        path: The file, for the message.
        ids: By kind, one a row.
        texts: One a row.

    Raises:
        DataError: If under every kind one id has several reports; it lists them.
    """
    kept = _first_places(list(zip(*ids.values(), texts, strict=True)))
    for kind, found in ids.items():
        if len({found[row] for row in kept}) == len(kept):
            return kind, kept
    for kind, found in ids.items():
        reports = dict(zip(found, texts, strict=True))
        if all(reports[id_] == text for id_, text in zip(found, texts, strict=True)):
            return kind, _first_places(found)
    kind, found = next(iter(ids.items()))
    num_reports = Counter(id_ for id_, _ in set(zip(found, texts, strict=True)))
    several = [id_ for id_ in dict.fromkeys(found) if num_reports[id_] > 1]
    raise DataError(f"{path}: {len(several)} {kind} have different reports: {listed(several)}")


def listed(ids: Sequence[str]) -> str:
    """The first ten of some ids, for a message."""
    more = f", and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more


def _column_texts(file: ReportFile, split: str | None, columns: Columns, target: str) -> list[str]:
    texts: list[str] = []
    for place, row in enumerate(file.parts[split]):
        cells: dict[str, str] = {}
        for name in columns:
            text = cell_text(row.get(name))
            if text is None:
                raise DataError(
                    f"{_where(file, split, place)}: {file.written(name)} is {row[name]!r}; "
                    "expected text"
                )
            cells[name.removeprefix("section")] = text
        texts.append(target_text(cells, target) if len(cells) > 1 else cells.popitem()[1])
    return texts


def _where(file: ReportFile, split: str | None, place: int) -> str:
    return f"{file.path}, {f'{split} ' if split else ''}row {place + 1}"


def _first_places(rows: Sequence[object]) -> list[int]:
    """Where each different row is for the first time."""
    places: dict[object, int] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, place)
    return list(places.values())


def _singles(names: Sequence[str]) -> list[Columns]:
    return [(name,) for name in names]


def _section_columns(target: str) -> list[Columns]:
    names = ("findings", "impression") if target == "both" else (target,)
    return [names, tuple(f"section{name}" for name in names)]
