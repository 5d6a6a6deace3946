"""Annotations in R2Gen's form.

    {"train": [{"id", "report", "image_path": [...], ...}, ...], "val": [...], "test": [...]}

That of MIMIC-CXR is a file of 250 MB, so it is read row by row.
"""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from radrep.data.study import SPLITS
from radrep.errors import DataError
from radrep.json_text import check_depth

ANNOTATION = "annotation.json"

_SPACE = re.compile(r"[ \t\r\n]*")
_CHUNK = 1 << 20
# No row is longer: what does not end within this many characters is broken.
_MAX_ROW = 1 << 24


def stream_annotation(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the (split, row) pairs of an annotation, in the order of the file."""
    num_rows = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for pair in _read_splits(_Json(file), path):
                num_rows += 1
                yield pair
    except (OSError, ValueError, RecursionError) as error:  # ValueError: broken JSON or UTF-8
        raise DataError(f"{path} cannot be read: {error}") from error
    if not num_rows:
        raise DataError(f"{path} has no study")


class _Json:
    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is not white space, "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._read_more():
                return self._text[self._at : self._at + 1]

    def skip(self, expected: str) -> None:
        found = self.peek()
        if found != expected:
            raise ValueError(f"expected one of {expected} and found {found or 'the end'}")
        self._at += 1

    def entries(self, brackets: str) -> Iterator[int]:
        """Stop before each entry of an object or a list, and yield its number."""
        self.skip(brackets[0])
        for index in itertools.count():
            if self.peek() == brackets[1]:
                break
            yield index
            if self.peek() != brackets[1]:
                self.skip(",")
        self.skip(brackets[1])

    def value(self) -> object:
        """Read the next value, which must not be a number: one may continue in the next part."""
        self.peek()
        while True:
            try:
                value, self._at = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                if len(self._text) - self._at > _MAX_ROW or not self._read_more():
                    raise
            else:
                check_depth(value)
                return value

    def _read_more(self) -> bool:
        more = self._file.read(_CHUNK)
        self._text = self._text[self._at :] + more
        self._at = 0
        return bool(more)


def _read_splits(text: _Json, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if text.peek() != "{":
        raise DataError(f"{path}: expected an object with {', '.join(SPLITS)}")
    for _ in text.entries("{}"):
        split = text.value()
        if split not in SPLITS:
            raise DataError(f"{path}: {_short(split)} is not one of the splits {', '.join(SPLITS)}")
        text.skip(":")
        if text.peek() != "[":
            raise DataError(f"{path}: {split} must be a list of studies")
        for index in text.entries("[]"):
            where = f"{path}: {split}[{index}]"
            row = text.value() if text.peek() == "{" else None
            if not isinstance(row, dict):
                raise DataError(f"{where} must be an object; it begins with {text.peek()!r}")
            if problem := _row_problem(row):
                raise DataError(where + problem)
            yield str(split), row


def _row_problem(row: dict[str, Any]) -> str | None:
    for key in ("id", "report", "image_path"):
        if key not in row:
            return f".{key} is missing; found {', '.join(row) or 'nothing'}"
    for key in ("id", "report"):
        if not isinstance(row[key], str):
            return f".{key} must be text, found {_short(row[key])}"
    if not row["id"].strip():
        return ".id is empty"
    paths = row["image_path"]
    if not isinstance(paths, list) or not all(isinstance(name, str) for name in paths):
        return f".image_path must be a list of file names, found {_short(paths)}"
    try:
        "".join((row["id"], row["report"], *paths)).encode()
    except UnicodeEncodeError as error:
        return f" has half a character, {_short(error.object[error.start])}"
    return None


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
