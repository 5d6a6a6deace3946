"""Annotations in R2Gen's form, and the images that they name.

    {"train": [{"id", "report", "image_path": [...], ...}, ...], "val": [...], "test": [...]}

That of MIMIC-CXR is a file of 250 MB, so it is read row by row.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from radrep.data.image_io import read_image
from radrep.data.study import SPLITS
from radrep.errors import DataError

ANNOTATION = "annotation.json"

_SPACE = re.compile(r"[ \t\r\n]*")
_CHUNK = 1 << 20
# No row is longer: what does not end within this many characters is broken.
_MAX_ROW = 1 << 24
# Where one image lies there several times, the quickest to read is taken.
_ENDINGS = (".jpg", ".jpeg", ".png", ".dcm")
# Raised when the same DICOM file would be read to other pixels than before.
DICOM_VERSION = 2
_DICOM_ENDINGS = (".dcm", ".dicom")


def stream_annotation(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the (split, row) pairs of an annotation, in the order of the file.

    Raises:
        DataError: If the file cannot be read, has no row, names another split, or a row lacks
            "id", "report" (text) or "image_path" (a list of text).
    """
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


def read_located(images: Path, name: str, short_side: int) -> np.ndarray:
    """Read an image by its path below `images`, whatever its ending is on this disk.

    Raises:
        DataError: As `locate` and `radrep.data.image_io.read_image` do.
    """
    return read_image(locate(images, name), short_side)


def locate(images: Path, name: str) -> Path:
    """The file of an image path, whatever its ending is on this disk.

    Raises:
        DataError: If there is none, or the name leads out of the folder.
    """
    relative = os.path.normpath(name)
    if os.path.isabs(relative) or relative.split(os.sep)[0] in ("..", ".") or "\0" in relative:
        raise DataError(f"image path {name!r} leads out of {images}; not read")
    path = images / relative
    # os.path and not Path: a name too long for the disk is merely not there.
    if os.path.exists(path):
        return path
    others = path.parent.iterdir() if os.path.isdir(path.parent) else ()
    same = [other for other in others if other.stem == path.stem]
    if not same:
        raise DataError(f"{path} not found, nor the same name with another ending")
    return min(same, key=_preference)


def describe_image(images: Path, name: str) -> str:
    """What tells an image from another one without opening it: its name and its size."""
    try:
        path = locate(images, name)
        version = f" {DICOM_VERSION}" if path.suffix.lower() in _DICOM_ENDINGS else ""
        return f"{name} {path.suffix} {path.stat().st_size}{version}"
    except (DataError, OSError):
        return f"{name} absent"


def _preference(path: Path) -> tuple[int, str]:
    ending = path.suffix.lower()
    return (_ENDINGS.index(ending) if ending in _ENDINGS else len(_ENDINGS), path.name)


class _Json:
    """A JSON text of which only a part is in memory at a time."""

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

    def skip(self, expected: str) -> str:
        """Go past one of the expected characters, and say which it was."""
        found = self.peek()
        if not found or found not in expected:
            raise ValueError(f"expected one of {' '.join(expected)} and found {found or 'the end'}")
        self._at += 1
        return found

    def value(self) -> object:
        """Read the next value, which must not be a number: one may go on in the next part."""
        self.peek()
        while True:
            try:
                value, self._at = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                if len(self._text) - self._at > _MAX_ROW or not self._read_more():
                    raise
            else:
                return value

    def _read_more(self) -> bool:
        more = self._file.read(_CHUNK)
        self._text = self._text[self._at :] + more
        self._at = 0
        return bool(more)


def _read_splits(text: _Json, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if text.peek() != "{":
        raise DataError(f"{path}: expected an object with {', '.join(SPLITS)}")
    text.skip("{")
    while text.peek() != "}":
        split = text.value()
        if split not in SPLITS:
            raise DataError(f"{path}: {_short(split)} is not one of the splits {', '.join(SPLITS)}")
        text.skip(":")
        if text.peek() != "[":
            raise DataError(f"{path}: {split} must be a list of studies")
        for row in _read_list(text, f"{path}: {split}"):
            yield str(split), row
        if text.peek() != "}":
            text.skip(",")


def _read_list(text: _Json, where: str) -> Iterator[dict[str, Any]]:
    text.skip("[")
    index = 0
    while text.peek() != "]":
        row = text.value() if text.peek() == "{" else None
        if not isinstance(row, dict):
            raise DataError(f"{where}[{index}] must be an object; it begins with {text.peek()!r}")
        problem = _row_problem(row)
        if problem:
            raise DataError(f"{where}[{index}]{problem}")
        yield row
        index += 1
        if text.peek() != "]":
            text.skip(",")
    text.skip("]")


def _row_problem(row: dict[str, Any]) -> str | None:
    """What is wrong with one row of an annotation, or None."""
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
