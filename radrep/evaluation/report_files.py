"""Rows of a file of reports, whatever its form; see `radrep.evaluation.predictions`."""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from radrep.data.study import SPLIT_NAMES, split_named
from radrep.errors import DataError
from radrep.json_text import load_json
from radrep.preparation.sources.cells import is_missing
from radrep.preparation.sources.table_text import decode_text, read_whole
from radrep.preparation.sources.tables import parse_cells

KEY = "key"  # stands for the keys of JSON
ID_COLUMNS = (KEY, "id", "studyid", "dicomid", "imageid", "uid", "subjectid")  # plain names
# Columns of texts in the order of preference.
PREDICTED = (
    "prediction", "predictions", "predicted", "predictedreport", "predictedreports",
    "modelprediction", "generated", "generatedreport", "generatedreports", "hypothesis",
    "hypotheses", "hyp", "hyps", "candidate", "caption", "pred", "preds", "res", "result",
    "results", "modeloutput", "modeloutputs", "output", "outputs", "outputtext", "generatedtext",
    "generatedtexts", "generatedoutput", "predictedtext", "modelresponse", "response", "responses",
    "completion", "completions", "generation", "generations", "modelanswer", "answer", "answers",
    "predreport", "reportpred", "modelreport", "predictedfindings", "generatedfindings",
)  # fmt: skip
REFERENCE = (
    "reference", "references", "referencereport", "groundtruth", "groundtruths", "gt", "gts", "ref",
    "refs",
)  # fmt: skip
WHOLE = ("report", "reports", "text", "texts", "reportimpression")
_SECTIONS = ("findings", "impression", "sectionfindings", "sectionimpression")
TEXTS = {*PREDICTED, *REFERENCE, *WHOLE, *_SECTIONS}
# Of rows, as pandas writes them and people name them.
NUMBERS = ("index", "idx", "row", "rownumber", "no", "nr", "unnamed0", "unnamed01", "level0")
# Columns of words that are no report, without "section".
_CONTEXT = re.compile(
    "context|(clinical)?(indication|history|info|information)|comparison|technique|exam|examination"
    "|procedure|prompt|question|instruction|input|split|model|.*(view|path|paths|position|date|id|name)"
)
# Two, or not spaced ones.
_WORDS = re.compile(r"(?<![^\W\d_])[^\W\d_]++[^\w\s]*\s+[^\W\d_]|[^\x00-\x7f]{4}")
_WRAPPERS = {"predictions", "references", "results", "reports", "data", "studies"}
_REXRANK = {"sectionfindings", "modelprediction", "keyimagepath"}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_JSON = (".json", ".jsonl")

Row = Mapping[str, Any]
_Parts = dict[str | None, list[Any]]


@dataclass(frozen=True)
class ColumnNames:
    """Columns of report files as the user names them; None for the usual names."""

    id: str | None = None  # used in every file that has it
    text: str | None = None  # of predictions


@dataclass(frozen=True)
class ReportFile:
    """Rows of a file of reports."""

    path: Path
    form: str  # recognised, in words
    columns: Mapping[str, str]  # as written, by their `plain` names
    parts: Mapping[str | None, list[Row]]  # by split (None without splits), cells by plain names
    by_key: bool  # whether splits are keys of the file, as in R2Gen's annotation
    notes: tuple[str, ...] = ()  # what was guessed

    def written(self, *names: str) -> str:
        """Columns as the file writes them."""
        return " and ".join(f"'{self.columns[name]}'" for name in names)

    def where(self, split: str | None, place: int) -> str:
        """The file and a row, for a message."""
        return f"{self.path}, {f'{split} ' if split else ''}row {place + 1}"

    def note_unread(
        self,
        split: str | None,
        chosen: Sequence[str],
        rest: Sequence[Sequence[str]],
        *,
        strict: bool,
    ) -> list[str]:
        """A note of the columns of reports beside the chosen one; `rest` has those known by name.

        Beside one whose name does not state whose reports it has, columns of any name count.

        Raises:
            DataError: If `strict` and another may as well be meant.
        """
        unread = [self.written(*columns) for columns in rest]
        if chosen[0] in (*WHOLE, *_SECTIONS):
            rows = self.parts[split]
            alike = [name for name, *_ in rest if {name, chosen[0]} <= {*WHOLE}]
            others = [n for n in alike if any(row.get(n) != row.get(chosen[0]) for row in rows)]
            unknown = [name for name in self.columns if self._is_unknown_text(name, rows)]
            if strict and (others := others + unknown):
                raise DataError(
                    f"{self.path} has several columns of texts: {self.written(*chosen, *others)}, "
                    "and no name marks the predictions. Choose one with --text-column"
                )
            unread += map(self.written, unknown)
        if not unread:
            return []
        return [f"{self.path.name}: {self.written(*chosen)} is read, {', '.join(unread)} is not"]

    def _is_unknown_text(self, name: str, rows: Sequence[Row]) -> bool:
        """Whether a column that is not known by name holds words."""
        if name in {*TEXTS, *ID_COLUMNS, *NUMBERS} or _CONTEXT.fullmatch(
            name.removeprefix("section")
        ):
            return False
        filled = [cell for row in rows if (cell := cell_text(row.get(name)))]
        return sum(map(bool, map(_WORDS.search, filled))) * 2 > len(filled)

    def together(self) -> "ReportFile":
        """The same rows in one part, whatever their splits."""
        return replace(self, parts={None: [row for part in self.parts.values() for row in part]})

    def in_order(self) -> "ReportFile":
        """The rows of a file without ids sorted by their numbers, if it has those.

        What neither ascends nor numbers the rows are ids, as of pandas' index.

        Raises:
            DataError: If it is neither, since some are missing or repeated.
        """
        if not self.columns.keys() <= {*TEXTS, *NUMBERS}:
            return self
        parts, notes, columns = {}, [*self.notes], {**self.columns}
        for split, rows in self.parts.items():
            parts[split] = rows
            for name in (name for name in NUMBERS if name in self.columns):
                cells = self.numbers(split, name)
                numbers = [int(cell) if cell.isdecimal() else -1 for cell in cells]
                if not any(cells) or (-1 not in numbers and numbers == sorted(set(numbers))):
                    continue
                if are_numbered([*map(str, sorted(numbers))]):
                    order = sorted(range(len(rows)), key=numbers.__getitem__)
                    parts[split] = [rows[k] for k in order]
                    notes.append(f"{self.path.name}: its rows are sorted by {self.written(name)}")
                elif all(cells) and len({*cells}) == len(cells):
                    columns["id"] = self.columns[name]
                    parts[split] = [
                        {**row, "id": cell} for row, cell in zip(rows, cells, strict=True)
                    ]
                else:
                    raise DataError(
                        f"{self.path} has no ids, and its {self.written(name)} "
                        f"({_short(cells[:5])}) neither ascends nor numbers the rows; choose a "
                        "column with --id-column, or leave this one out if the order is right"
                    )
                break
        return replace(self, columns=columns, parts=parts, notes=tuple(notes))

    def numbers(self, split: str | None, name: str) -> tuple[str, ...]:
        """The cells of a column of `NUMBERS`, "" where it has none."""
        return tuple(cell_id(row.get(name)).removesuffix(".0") for row in self.parts[split])

    def by_split(self) -> "ReportFile":
        """The same rows by the column of their split, if there is one."""
        if self.by_key or "split" not in self.columns:
            return self
        parts: dict[str | None, list[Row]] = {}
        for place, row in enumerate(self.parts[None]):
            split = cell_id(row.get("split")).casefold()
            if not split:
                raise DataError(
                    f"{self.where(None, place)}: it has no split, though the file has splits"
                )
            parts.setdefault(split_named(split) or split, []).append(row)
        return replace(self, parts=parts)


def read_file(path: Path) -> ReportFile:
    """Read a file of reports.

    Raises:
        DataError: If it cannot be read, is in none of the forms, or has no row or a column twice.
    """
    text, notes = _read_text(path)
    if text.lstrip()[:1] in ("{", "[") or (text[:1] == '"' and path.suffix in _JSON):
        form, raw = _read_json(text, path)
    elif (texts := _read_texts_alone(text)) is not None:
        form, raw = "list of texts", {None: texts}
    else:
        form, raw = "CSV table", {None: [*_read_table(text, path)]}
    columns: dict[str, str] = {}
    parts = {split: _plain_rows(rows, columns, path) for split, rows in raw.items()}
    if not any(parts.values()):
        raise DataError(f"{path} has no report")
    by_key = None not in parts
    if by_key and "imagepath" in columns:
        form = "R2Gen annotation.json"
    elif KEY in columns and columns.keys() & _REXRANK:
        form = "ReXrank JSON"
    return ReportFile(path, form, columns, parts, by_key, tuple(notes))


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """A name in small letters and digits, so that "Study ID" and "study_id" are one."""
    return re.sub(r"[\W_]+", "", name.casefold())


def cell_id(value: object) -> str:
    """A cell as an id, "" where it holds none; an integral float keeps its ".0"."""
    if isinstance(value, (list, dict, bool)) or _is_missing(value):
        return ""
    return str(value).strip()


def cell_text(value: object) -> str | None:
    """A cell (or a list of one, as COCO has it) as a report, "" if missing, None if no text."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if _is_missing(value):
        return ""
    return value if isinstance(value, str) else None


def _is_missing(value: object) -> bool:
    # pandas writes NaN into JSON for a cell without a value, and str() makes "nan" or "None" of it.
    if isinstance(value, str):
        return is_missing(value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def _read_text(path: Path) -> tuple[str, list[str]]:
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a file of reports (JSON, JSONL, CSV or TSV)")
    try:
        return decode_text(read_whole(path), path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is cut off or broken ({error}); download it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_json(text: str, path: Path) -> tuple[str, _Parts]:
    try:
        value = _load(text)
    except ValueError as error:
        if getattr(error, "msg", "") == "Extra data":
            return "JSONL", {None: list(_read_lines(text, path))}
        raise DataError(f"{path} cannot be read: {error}") from error
    return _find_rows(value, path)


def _read_lines(text: str, path: Path) -> Iterator[dict[str, Any] | str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _load(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: no JSON object ({error})") from error
        if not isinstance(row, (dict, str)):
            raise DataError(f"{path}, line {number}: expected one JSON object a line")
        yield row


def _load(text: str) -> Any:
    value = load_json(text, _unique)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError, for half a pair
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without repeated keys, of which Python by itself keeps the last."""
    found = dict(pairs)
    for key, value in pairs if len(found) < len(pairs) else ():
        if found[key] != value:
            raise ValueError(f"{key!r} occurs twice with different values")
    return found


def _find_rows(value: Any, path: Path) -> tuple[str, _Parts]:
    """The rows of a JSON value, by split where its keys are splits."""
    if isinstance(value, list):
        alone = value and all(isinstance(row, (str, list)) for row in value)
        return "list of texts" if alone else "list of JSON objects", {None: value}
    if isinstance(value, str):
        return "list of texts", {None: [value]}
    if value and all(plain(key) in TEXTS and isinstance(held, list) for key, held in value.items()):
        lengths = {key: len(held) for key, held in value.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise DataError(f"{path}: its lists have different lengths ({found})")
        if any(isinstance(text, str) for text in next(iter(value.values()))):
            rows = [
                dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)
            ]
            return "JSON of columns", {None: rows}
    known = {
        key: held
        for key, held in value.items()
        if isinstance(held, (list, dict)) and plain(key) in _WRAPPERS | SPLIT_NAMES.keys()
    }
    if not known and any(plain(key) in ID_COLUMNS and cell_id(value[key]) for key in value):
        return "JSONL", {None: [value]}  # of one line
    if not known:
        return "JSON by id", {None: [_keyed(key, held, path) for key, held in value.items()]}
    if all(plain(key) in SPLIT_NAMES for key in known):
        parts: _Parts = {}
        for key, held in known.items():
            inner = _find_rows(held, path)[1]
            if None not in inner:
                raise DataError(f"{path}: '{key}' contains splits; expected a list of reports")
            parts.setdefault(SPLIT_NAMES[plain(key)], []).extend(inner[None])
        return "JSON by split", parts
    if len(known) > 1:
        raise DataError(f"{path} has several lists of reports ({', '.join(known)}); keep one")
    return _find_rows(next(iter(known.values())), path)


def _keyed(key: str, value: Any, path: Path) -> dict[str, Any]:
    if isinstance(value, dict):
        return {KEY: key} | {name: cell for name, cell in value.items() if plain(name) != KEY}
    if cell_text(value) is None:
        raise DataError(f"{path}: {key!r} holds {_short(value)}; expected a report or an object")
    return {KEY: key, "report": value}


def _read_texts_alone(text: str) -> list[str] | None:
    """Texts without names or ids, as pandas writes one column and programs write lines; or None."""
    names = {plain(name) for name in re.split(r"[,;|\t]", text.split("\n", 1)[0])}
    if names & {*TEXTS, *ID_COLUMNS, "split"}:
        return None
    try:
        cells = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [row for row in cells if any(map(str.strip, row))]
    except csv.Error:
        rows = []
    widths = {*map(len, rows)}
    if widths == {2} and are_numbered([number for number, _ in rows[1:]]) and not rows[0][0]:
        return [row[1] for row in rows[1:]]  # with the index of pandas
    if len(widths) == 1 and widths != {1}:
        return None  # a table
    lines = io.StringIO(text, newline=None)  # commas unquoted
    texts = [row[0] for row in rows] if widths == {1} else [line.rstrip("\n") for line in lines]
    if texts and texts[0] == "0":  # what pandas calls a column without a name
        return texts[1:]
    return [t for t in texts if t.strip()] if texts and len(texts[0].split()) > 1 else None


def are_numbered(ids: Sequence[str]) -> bool:
    """Whether ids are 0, 1, 2, ... or 1, 2, 3, ...: places in the file rather than ids."""
    count = len(ids)
    return count > 0 and list(ids) in ([*map(str, range(count))], [*map(str, range(1, count + 1))])


def _read_table(text: str, path: Path) -> list[dict[str, str]]:
    rows = parse_cells(io.StringIO(text, newline=""), path)
    found = [cells for _, cells in rows]
    if found and next(iter(found[0])) == "" and "Unnamed: 0" not in found[0]:
        # The index of pandas, by the name that pandas gives it.
        found = [{"Unnamed: 0": cells[""], **cells} for cells in found]
    return [{name: cell for name, cell in cells.items() if name} for cells in found]


def _plain_rows(rows: list[Any], columns: dict[str, str], path: Path) -> list[Row]:
    """Rows by the plain names of their columns, which are added to `columns`."""
    found: list[Row] = []
    for number, row in enumerate(rows, start=1):
        if (text := cell_text(row)) is not None and row is not None:
            row = {"text": text}
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: {_short(row)}; expected an object or a text")
        cells = {plain(name): cell for name, cell in row.items()}
        if len(cells) < len(row):
            raise DataError(
                f"{path}, row {number}: two columns have one name ({', '.join(row)}); keep one"
            )
        for name in row:
            columns.setdefault(plain(name), name)
        found.append(cells)
    return found


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
