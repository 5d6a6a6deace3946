"""The tables of raw downloads: CSV or TSV, plain or gzip, of any length, row by row.

The content decides what a table is, not its name: a browser may unpack a .csv.gz and keep its name,
and a spreadsheet may save one with a byte order mark and semicolons.
"""

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from radrep.data.manifest import hash_file
from radrep.data.study import PROJECTIONS, projection_of
from radrep.errors import DataError

DELIMITERS = ",\t;|"
_CHUNK = 65_536
csv.field_size_limit(100_000_000)  # a report may be longer than the 131,072 that Python takes


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
    rows = _stream(path, (*columns, *optional))
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
    rows = _stream(path)
    _, header = next(rows, (1, []))
    for line, row in rows:
        yield line, dict(zip(header, row, strict=True))


def _stream(path: Path, wanted: Sequence[str] = ()) -> Iterator[tuple[int, list[str]]]:
    """Yield the header, then every row, each after its line."""
    line = 1
    try:
        with _open(path) as file:
            lines = _decode(file, path)
            first = next(lines, "")
            delimiter = _sniff_delimiter(first, wanted)
            reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            yield line, header
            line = reader.line_num + 1
            for row in reader:
                if row and len(row) != len(header):
                    raise DataError(
                        f"{path}, line {line}: {len(row)} values, but the header names "
                        f"{len(header)} columns"
                    )
                if row:
                    yield line, row
                line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: not a row of a table ({error})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is cut off or broken after line {line} ({error}); download it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


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
    shown = value if len(value) <= 60 else value[:57] + "..."
    return DataError(f"{path}, line {line}: {column} is {shown!r}; {expected}")


def one_of(names: Mapping[str, int]) -> Callable[[str], int]:
    """A parser of cells that hold one of a few names, to the number of each."""

    def parse(text: str) -> int:
        if text.strip() not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return names[text.strip()]

    return parse


def parse_number(text: str) -> int:
    """Parse a number of at most 15 digits, such as a patient's."""
    text = text.strip()
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


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")
    if file.peek(2)[:2] != b"\x1f\x8b":
        return file
    file.close()
    # Buffered, since GzipFile hands out lines through Python.
    return io.BufferedReader(gzip.open(path, "rb"), 1 << 20)


def _decode(file: BinaryIO, path: Path) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: byte {line[error.start]:#04x} is not UTF-8; "
                "save the table as UTF-8"
            ) from error


def _sniff_delimiter(header: str, wanted: Sequence[str]) -> str:
    def count(delimiter: str) -> int:  # of the wanted columns, or of all
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        return len(set(names) & set(wanted)) if wanted else len(names)

    return max(DELIMITERS, key=count)
