"""IU X-Ray (Open-i, Demner-Fushman et al., JAMIA 2016) in the layout that R2Gen gave it.

    annotation.json                {"train": [{"id", "report", "image_path": [...]}], "val", "test"}
    images/<study>/<k>.png         the k-th image of the report, in the order of Open-i's XML
    indiana_reports.csv            optional, Kaggle's: impression, indication, comparison
    indiana_projections.csv        optional, Kaggle's: frontal or lateral

The annotation says which studies there are, their split and their findings; the tables add to it.
"""

import csv
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from radrep.data.images import read_image
from radrep.data.study import SPLITS, SourceImage, SourceStudy
from radrep.errors import DataError

_ANNOTATION = "annotation.json"
_REPORTS = "indiana_reports.csv"
_PROJECTIONS = "indiana_projections.csv"
_KAGGLE_SECTIONS = ("impression", "indication", "comparison")
# Other layouts that people have, told by what lies in them.
_OTHER_LAYOUTS = {
    "Open-i's original XML and PNG": ("ecgen-radiology", "NLMCXR_reports.tgz", "NLMCXR_png*"),
    "Kaggle's": (_REPORTS, _PROJECTIONS, "images/images_normalized", "images_normalized"),
    "Open-i's DICOM": ("NLMCXR_dcm*", "*.dcm", "*/*.dcm"),
}
_LAYOUT_READ = f"the R2Gen layout: {_ANNOTATION} and images/<study>/<k>.png"


class IuXraySource:
    """The studies of an IU X-Ray folder in the R2Gen layout, in the order of its annotation.

    Args:
        raw: The folder that holds annotation.json.

    Attributes:
        layout: What was recognised, in words.

    Raises:
        DataError: If the folder is missing, is another layout, or its annotation or a table of
            Kaggle's cannot be read.
    """

    name = "iu_xray"
    notes: tuple[str, ...] = ()

    def __init__(self, raw: Path) -> None:
        raw = Path(raw)
        _recognise(raw)
        self._images = raw / "images"
        self._rows = _read_annotation(raw / _ANNOTATION)
        self._tables = [raw / name for name in (_REPORTS, _PROJECTIONS) if (raw / name).is_file()]
        self._annotation = raw / _ANNOTATION
        self._sections = _read_sections(raw / _REPORTS)
        self._projections = _read_projections(raw / _PROJECTIONS)
        self.layout = " + ".join(["R2Gen", *(f"Kaggle's {table.name}" for table in self._tables)])

    def fingerprint(self) -> str:
        """A hash of the annotation, the tables and the content of every image they name."""
        digest = hashlib.sha256()
        for table in (self._annotation, *self._tables):
            digest.update(_hash_file(table))
        for _, row in self._rows:
            for name in row["image_path"]:
                try:
                    content = _hash_file(_locate(self._images, name))
                except (DataError, OSError) as error:
                    content = type(error).__name__.encode()
                digest.update(content)
        return digest.hexdigest()

    def expected_counts(self) -> dict[str, int]:
        """Studies by split in R2Gen's own annotation, from Open-i's complete collection."""
        return {"train": 2069, "val": 296, "test": 590}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[SourceStudy]:
        for split, row in self._rows:
            # R2Gen's ids begin with the number of the report, which is also one patient's.
            match = re.match(r"CXR(\d+)_", row["id"])
            number = match.group(1) if match else None
            yield SourceStudy(
                id=row["id"],
                patient_id=number,
                split=split,
                images=tuple(
                    SourceImage(
                        name=name,
                        read=partial(_read, self._images, name),
                        projection=self._projection(number, row["id"], Path(name).stem),
                    )
                    for name in row["image_path"]
                ),
                sections={"findings": row["report"], **self._sections.get(number, {})},
            )

    def _projection(self, number: str | None, study: str, stem: str) -> str:
        # Kaggle's names of one report, sorted, are in the order of Open-i's XML, and so R2Gen's
        # k-th image is the k-th of them. An R2Gen id is the first name without its last part.
        views = self._projections.get(number, [])
        k = int(stem) if stem.isdecimal() else len(views)
        if k >= len(views) or not study.endswith(views[0][0].rpartition("-")[0]):
            return "unknown"
        return views[k][1]


def _recognise(raw: Path) -> None:
    """Return if the folder has the R2Gen layout, otherwise say what it seems to be."""
    if not raw.is_dir():
        problem = "is a file; give the folder" if raw.exists() else "not found; give the folder"
        raise DataError(f"{raw} {problem} that holds IU X-Ray ({_LAYOUT_READ})")
    if (raw / _ANNOTATION).is_file():
        if not (raw / "images").is_dir():
            raise DataError(f"{raw} has {_ANNOTATION} but no folder 'images' beside it")
        return
    inner = sorted(raw.glob(f"*/{_ANNOTATION}"))
    if inner:
        raise DataError(f"{raw} has no {_ANNOTATION}, but {inner[0].parent} has: give that folder")
    found = [
        layout
        for layout, marks in _OTHER_LAYOUTS.items()
        if any(next(raw.glob(mark), None) for mark in marks)
    ]
    if found:
        raise DataError(
            f"{raw} is IU X-Ray in another layout ({', '.join(found)}). This version reads "
            f"{_LAYOUT_READ}, as the download of R2Gen has it"
        )
    raise DataError(f"{raw} is no IU X-Ray folder: expected {_LAYOUT_READ}")


def _read_annotation(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The (split, row) pairs of an R2Gen annotation: train, val, test, each in file order."""
    try:
        annotation = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: broken JSON or UTF-8
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(annotation, dict):
        raise DataError(
            f"{path}: expected an object with {', '.join(SPLITS)}, found {_short(annotation)}"
        )
    unknown = [key for key in annotation if key not in SPLITS]
    if unknown:
        raise DataError(f"{path}: '{unknown[0]}' is not one of the splits {', '.join(SPLITS)}")
    pairs = []
    for split in SPLITS:
        rows = annotation.get(split, [])
        if not isinstance(rows, list):
            raise DataError(f"{path}: {split} must be a list of studies, found {_short(rows)}")
        for index, row in enumerate(rows):
            problem = _row_problem(row)
            if problem:
                raise DataError(f"{path}: {split}[{index}]{problem}")
            pairs.append((split, row))
    if not pairs:
        raise DataError(f"{path} has no study")
    return pairs


def _row_problem(row: object) -> str | None:
    """What is wrong with one row of an annotation, or None."""
    if not isinstance(row, dict):
        return f" must be an object, found {_short(row)}"
    for key in ("id", "report", "image_path"):
        if key not in row:
            return f".{key} is missing; found {', '.join(map(str, row)) or 'nothing'}"
    for key in ("id", "report"):
        if not isinstance(row[key], str):
            return f".{key} must be text, found {_short(row[key])}"
    if not row["id"].strip():
        return ".id is empty"
    paths = row["image_path"]
    if not isinstance(paths, list) or not all(isinstance(name, str) for name in paths):
        return f".image_path must be a list of file names, found {_short(paths)}"
    return None


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of one of Kaggle's tables, none if the file is not there."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path} has no column '{missing[0]}'; its columns are "
                    f"{', '.join(reader.fieldnames or ()) or 'none'}"
                )
            return [{name: row[name] or "" for name in columns} for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_sections(path: Path) -> dict[str | None, dict[str, str]]:
    """Sections other than the findings, by number of the report."""
    return {
        row["uid"]: {
            name: row[name]
            for name in _KAGGLE_SECTIONS
            # Excel took two indications that begin with "+" for formulas and lost them.
            if row[name].strip() and row[name] != "#NAME?"
        }
        for row in _read_table(path, ("uid", *_KAGGLE_SECTIONS))
    }


def _read_projections(path: Path) -> dict[str | None, list[tuple[str, str]]]:
    """Sorted (file name, projection) pairs by number of the report."""
    views: dict[str | None, list[tuple[str, str]]] = defaultdict(list)
    for row in _read_table(path, ("uid", "filename", "projection")):
        projection = row["projection"].strip().lower()
        known = projection if projection in ("frontal", "lateral") else "unknown"
        views[row["uid"]].append((row["filename"], known))
    return {number: sorted(pairs) for number, pairs in views.items()}


def _read(images: Path, name: str, short_side: int) -> np.ndarray:
    return read_image(_locate(images, name), short_side)


def _locate(images: Path, name: str) -> Path:
    """The file of an `image_path`, whatever its ending is on this disk.

    Raises:
        DataError: If there is none, or the name leads out of the folder.
    """
    relative = os.path.normpath(name)
    if os.path.isabs(relative) or relative.split(os.sep)[0] in ("..", ".") or "\0" in relative:
        raise DataError(f"image_path {name!r} leads out of {images}; not read")
    path = images / relative
    # os.path and not Path: a name too long for the disk is merely not there.
    if os.path.exists(path):
        return path
    others = path.parent.iterdir() if os.path.isdir(path.parent) else ()
    same = sorted(other for other in others if other.stem == path.stem)
    if not same:
        raise DataError(f"{path} not found, nor the same name with another ending")
    return same[0]


def _hash_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
