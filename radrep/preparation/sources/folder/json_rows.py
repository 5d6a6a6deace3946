"""Rows of a table that is JSON: a line, a list, or an object by id or by split.

{"image": ..., "report": ...}                      in each line (JSONL)
[{"image": ..., "report": ...}, ...]
{"<id>": {"image_path": [...], "report": ...}}     as ReXrank has it
{"train": [{"id": ..., "image_path": [...]}, ...]} as R2Gen's annotation.json
"""

import itertools
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from radrep.data.study import SPLIT_NAMES
from radrep.errors import DataError
from radrep.json_text import load_json
from radrep.preparation.sources.table_text import max_characters, read_errors, stream_lines

_Row = tuple[int, dict[str, Any]]  # its line, or its number where they share one


def is_json(path: Path) -> bool:
    """Whether a table is JSON, by its first character."""
    with read_errors(path), closing(stream_lines(path)) as lines:
        first = next((line for line in lines if line.strip("\ufeff \t\r\n")), "")
    return first.lstrip("\ufeff \t").startswith(("{", "["))


def read_rows(path: Path) -> Iterator[_Row]:
    """Yield the rows of a JSON table; DataError names what cannot be read."""
    with read_errors(path), closing(stream_lines(path)) as lines:
        first = next((line for line in lines if line.strip("\ufeff \t\r\n")), "")
        row = _load_line(first.lstrip("\ufeff"))
        if isinstance(row, dict) and not _is_keyed(row):
            yield from _read_lines(itertools.chain([first], lines), path)
            return
        text = _join([first], lines, path)
    try:
        value = load_json(text.lstrip("\ufeff"))
    except ValueError as error:
        raise DataError(f"{path}: no JSON that can be read ({error})") from error
    yield from _find_rows(value, path)


def _join(parts: list[str], lines: Iterator[str], path: Path) -> str:
    length, limit = 0, max_characters(path)
    for line in lines:
        length += len(line)
        if length > limit:
            raise DataError(
                f"{path}: JSON of more than {limit / 1e6:.0f} million characters, as no reports are"
            )
        parts.append(line)
    return "".join(parts)


def _load_line(line: str) -> object:
    try:
        return load_json(line)
    except ValueError:
        return None


def _is_keyed(value: dict[str, Any]) -> bool:
    """Whether an object holds rows by id or by split, and is no row."""
    return bool(value) and all(
        isinstance(held, dict)
        or (isinstance(held, list) and held and all(isinstance(row, dict) for row in held))
        for held in value.values()
    )


def _read_lines(lines: Iterator[str], path: Path) -> Generator[_Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = load_json(line.lstrip("\ufeff"))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: no JSON object ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected one JSON object a line")
        if row:
            yield number, row


def _find_rows(value: object, path: Path) -> Iterator[_Row]:
    number = itertools.count(1)
    if isinstance(value, dict) and not _is_keyed(value):
        value = [value]
    for key, held in value.items() if isinstance(value, dict) else [("", value)]:
        rows = held if isinstance(held, list) else [held]
        more = {"key": key} if isinstance(held, dict) else {}
        if key.casefold() in SPLIT_NAMES and not more:
            more = {"split": key}
        for row in rows:
            place = next(number)
            if not isinstance(row, dict):
                raise DataError(f"{path}, row {place}: expected a JSON object")
            yield place, more | row
