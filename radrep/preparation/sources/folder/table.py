"""The table of a folder source: CSV, TSV or JSONL, its columns recognised by their names.

image, path, filename, ...    required: the path from the folder, or a name that is there once; in
                              JSONL also a list of them
study_id, patient_id, split, view, report, findings, impression, indication, comparison
Finding Labels                names of findings, "Effusion|Mass", as in NIH ChestX-ray14
any other of 1, 0, -1, blank  a finding: present, absent, uncertain, not mentioned
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from radrep.data.study import SPLIT_NAMES, projection_of
from radrep.errors import DataError
from radrep.preparation.sources.tables import bad_value, stream_cells

TEXTS = ("report", "findings", "impression", "indication", "comparison")

# Names of a column without marks and capitals, the preferred one first.
_COLUMNS = {
    "image": ("imagepath", "path", "image", "filename", "file", "imageindex", "images"),
    "study": ("studyid", "study", "id"),
    "patient": ("patientid", "patient", "subjectid"),
    "split": ("split",),
    "projection": ("projection", "view", "viewposition", "frontallateral"),
    "label list": ("findinglabels",),
    **{name: (name,) for name in TEXTS},
}
_LABELS = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1}
# Names of the column of row numbers that pandas adds.
_ROW_NUMBERS = re.compile(r"|Unnamed: \d+")


@dataclass(frozen=True)
class Row:
    """One row of a table, or one file where there is no table."""

    images: tuple[str, ...]  # names of files
    study: str = ""  # without a name, the row is a study of its own
    patient: str = ""
    split: str = ""
    projection: str = "unknown"  # of all the images
    texts: Mapping[str, str] = field(default_factory=dict)  # by section, and "report"
    labels: Mapping[str, int] = field(default_factory=dict)  # 1, 0 or -1 by finding


class Table:
    """The rows of a table, read from the file each time.

    `columns` are the names of the recognised columns, `labels` of those that hold labels.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        known: dict[str, str] = {}
        numeric: dict[str, bool] = {}  # in the order of the columns
        for _, cells in self._cells():
            roles = _roles(tuple(cells))
            known.update(roles)
            for name in cells.keys() - set(roles.values()):
                text = _text(cells[name])
                if text != "" and not _ROW_NUMBERS.fullmatch(name):
                    numeric[name] = numeric.get(name, True) and text in _LABELS
        if "image" not in known:
            raise DataError(
                f"{path} has no row with a column of images (image_path, path, image or filename); "
                f"its columns are {', '.join([*known.values(), *numeric]) or 'none'}"
            )
        self.columns = tuple(known.values())
        self.has_splits, self.has_patients = "split" in known, "patient" in known
        self.labels = tuple(sorted(name for name, is_label in numeric.items() if is_label))

    def __iter__(self) -> Iterator[Row]:
        """Yield every row; DataError names a bad value and its line."""
        for line, cells in self._cells():
            known = {role: cells[name] for role, name in _roles(tuple(cells)).items()}
            images = known.pop("image", "")
            names = images if isinstance(images, list) else [images]
            names = [self._plain(line, "image", name).strip() for name in names]
            values = {role: self._plain(line, role, value) for role, value in known.items()}
            split = values.get("split", "").strip().casefold()
            if split and split not in SPLIT_NAMES:
                raise bad_value(self.path, line, "split", split, "expected train, val or test")
            row = Row(
                images=tuple(filter(None, names)),
                study=values.get("study", "").strip(),
                patient=values.get("patient", "").strip(),
                split=SPLIT_NAMES.get(split, ""),
                projection=projection_of(values.get("projection", "")),
                texts={name: values[name] for name in TEXTS if values.get(name, "").strip()},
                labels=self._labels(cells, values.get("label list", "")),
            )
            if not row.images and not row.study:
                raise bad_value(self.path, line, "image", "", "expected the name of a file")
            yield row

    def _cells(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return _read_objects(self.path) if _is_jsonl(self.path) else stream_cells(self.path)

    def _plain(self, line: int, role: str, value: object) -> str:
        text = _text(value)
        if text is None:
            raise bad_value(self.path, line, role, json.dumps(value), "expected a text or a number")
        return text

    def _labels(self, cells: Mapping[str, object], listed: str) -> dict[str, int]:
        labels = {name.strip(): 1 for name in listed.split("|") if name.strip()}
        for name in self.labels:
            if text := _text(cells.get(name)):
                labels[name] = _LABELS[text]
        return labels


@lru_cache(maxsize=64)
def _roles(names: tuple[str, ...]) -> dict[str, str]:
    """The column of each role."""
    plain = {re.sub(r"[\W_]+", "", name.casefold()): name for name in reversed(names)}
    found = {role: [plain[a] for a in names if a in plain] for role, names in _COLUMNS.items()}
    return {role: columns[0] for role, columns in found.items() if columns}


def _text(value: object) -> str | None:
    """A cell as text, or None if it is a list or an object."""
    if isinstance(value, (list, dict)):
        return None
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)


def _is_jsonl(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4).lstrip(b"\xef\xbb\xbf \t").startswith((b"{", b"["))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 1
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                row = json.loads(line) if line.strip() else {}
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {number}: expected one JSON object a line")
                if row:
                    yield number, row
    except (OSError, ValueError, RecursionError) as error:  # ValueError: broken JSON or UTF-8
        raise DataError(f"{path}, line {number}: no JSON object ({error})") from error
