"""The tables of raw downloads: CSV or TSV, plain or gzip, of any length, row by row.

The content decides what a table is, not its name: a browser may unpack a .csv.gz and keep its name,
and a spreadsheet may save one with other delimiters and line ends (see also table_text.py), a first
line "sep=;", and rows or columns of nothing but delimiters.
"""

import csv
import itertools
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import DTypeLike

from radrep.data.manifest import hash_file
from radrep.data.study import PROJECTIONS, projection_of
from radrep.errors import DataError
from radrep.preparation.sources.cells import parse_id
from radrep.preparation.sources.table_text import read_errors, stream_lines

DELIMITERS = ",\t;|"
_SEP = re.compile(r'"?sep=(?P<mark>\\t|.)"?[\s,;|]*', re.IGNORECASE)  # for Excel, before the header
Lines = Generator[str] | TextIO
_NOTHING = DELIMITERS + '" \r\n\ufeff'
_CHUNK = 65_536
# Of a cell, as of a report that is a file. Python's own 131,072 is less than some cells have.
csv.field_size_limit(1_000_000)


@dataclass(frozen=True)
class Column:
    """How a column is kept in memory."""

    parse: Callable[[str], object]  # of a cell's text; its ValueError names what was expected
    dtype: DTypeLike  # "S" takes the length of the longest


def stream_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    """Yield each row's first line, from 1, and its values of `columns`, then of `optional`.

    Blank lines are skipped. A missing optional column is "" in every row. DataError names the line.
    """
    rows = _parse(stream_lines(path), path, (*columns, *optional))
    _, header = next(rows, (1, []))
    for name in columns:
        if name not in header:
            found = ", ".join(header) or "none"
            raise DataError(f"{path} has no column '{name}'; its columns are {found}")
    places = [header.index(name) if name in header else None for name in (*columns, *optional)]
    for line, row in rows:
        yield line, ["" if place is None else row[place] for place in places]


def stream_cells(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a table row by row: its line and its cells by column."""
    return parse_cells(stream_lines(path), path)


def parse_cells(lines: Lines, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The same of a table's lines, which keep their ends; `path` is for messages."""
    rows = _parse(lines, path)
    _, header = next(rows, (1, []))
    for line, row in rows:
        yield line, dict(zip(header, row, strict=True))


def _parse(lines: Lines, path: Path, wanted: Sequence[str] = ()) -> Iterator[tuple[int, list[str]]]:
    """Yield the header, then every row that is not empty, each after its line."""
    line, before = 1, 0
    with read_errors(path) as position, closing(lines):
        first, before, mark = _skip_to_header(lines)
        try:
            dialect = _sniff_dialect(first, wanted, mark)
            reader = csv.reader(itertools.chain([first], lines), strict=True, **dialect)
            header = [" ".join(name.strip("\ufeff\u200b ").split()) for name in next(reader, [])]
            columns = _Header(path, header, wanted)
            yield before + 1, header
            line = position.line = before + reader.line_num + 1
            for row in reader:
                if any(cell and not cell.isspace() for cell in row):
                    yield line, columns.fit(row, line)
                line = position.line = before + reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: not a row of a table ({error})") from error


def _skip_to_header(lines: Iterator[str]) -> tuple[str, int, str]:
    """The first line that holds anything, the number of lines before, and the mark of "sep="."""
    mark = ""
    for number, line in enumerate(lines):
        text = line.lstrip("\ufeff")
        if match := _SEP.fullmatch(text.rstrip("\r\n")):
            mark = match["mark"].replace("\\t", "\t")
        elif text.strip(_NOTHING):
            return text, number, mark
    return "", 0, mark


class _Header:
    """Fits rows to the columns: a spreadsheet adds empty cells, and columns may be there twice."""

    def __init__(self, path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
        self._path, self._names = path, names
        self._needed = max((k for k, name in enumerate(names, start=1) if name), default=0)
        first: dict[str, int] = {}
        self._twins = [
            (first[name], k)
            for k, name in enumerate(names)
            if name and first.setdefault(name, k) < k and (not wanted or name in wanted)
        ]

    def fit(self, row: list[str], line: int) -> list[str]:
        """The cells of a row, as many as there are columns."""
        width = len(self._names)
        if len(row) != width:
            if len(row) < self._needed or any(map(str.strip, row[width:])):
                raise DataError(
                    f"{self._path}, line {line}: {len(row)} values, but the header names "
                    f"{self._needed} columns"
                )
            row = (row + [""] * width)[:width]
        for first, second in self._twins:
            if row[first].strip() != row[second].strip():
                raise DataError(
                    f"{self._path}, line {line}: two columns '{self._names[first]}' with different "
                    f"values ({_abridge(row[first])!r}, {_abridge(row[second])!r}); keep one"
                )
        return row


def read_columns(path: Path, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    """Read the named columns of a table into arrays, one entry per row."""
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    rows = stream_rows(path, tuple(columns))
    while True:
        cells: list[list[object]] = [[] for _ in columns]
        for line, values in itertools.islice(rows, _CHUNK):
            for (name, column), value, kept in zip(columns.items(), values, cells, strict=True):
                try:
                    kept.append(column.parse(value))
                except ValueError as error:
                    raise bad_value(path, line, name, value, str(error)) from error
        for (name, column), kept in zip(columns.items(), cells, strict=True):
            chunks[name].append(np.array(kept, dtype=column.dtype))
        if not cells[0]:
            return {name: np.concatenate(parts) for name, parts in chunks.items()}


def bad_value(path: Path, line: int, column: str, value: str, expected: str) -> DataError:
    """The error of a cell's value."""
    return DataError(f"{path}, line {line}: {column} is {_abridge(value)!r}; {expected}")


def one_of(names: Mapping[str, int]) -> Callable[[str], int]:
    """A parser of cells that hold one of a few names, to the number of each."""

    def parse(text: str) -> int:
        if text.strip() not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return names[text.strip()]

    return parse


def parse_number(text: str) -> int:
    """Parse a number of at most 15 digits, such as a patient's; pandas may have added ".0"."""
    text = parse_id(text)
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise ValueError("expected a number")
    return int(text)


def parse_projection(text: str) -> int:
    """Parse a view position to its place in `PROJECTIONS`."""
    return PROJECTIONS.index(projection_of(text))


class Index:
    """Finds the rows of a table by a key, (n,); of equal keys, the first row."""

    def __init__(self, keys: np.ndarray) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """The row of each wanted key, (m,), -1 where it has none."""
        if not len(self._sorted):
            return np.full(len(wanted), -1)
        places = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[places] == wanted, self._order[places], -1)


def hash_table(path: Path) -> bytes:
    """SHA-256 of a table; DataError if it cannot be read."""
    try:
        return bytes.fromhex(hash_file(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _sniff_dialect(header: str, wanted: Sequence[str], mark: str) -> dict[str, Any]:
    """The delimiter, and whether spaces follow it that are no part of the cells."""

    def names(delimiter: str) -> list[str]:
        return next(csv.reader([header], delimiter=delimiter), [])

    def count(delimiter: str) -> int:  # of the wanted columns, or of all
        found = [name.strip() for name in names(delimiter)]
        return len(set(found) & set(wanted)) if wanted else len(found)

    delimiter = mark or max(DELIMITERS, key=count)
    _, *others = names(delimiter) or [""]
    spaced = bool(others) and all(name.startswith(" ") for name in others)
    return {"delimiter": delimiter, "skipinitialspace": spaced}


def _abridge(value: str) -> str:
    return value if len(value) <= 60 else value[:57] + "..."
