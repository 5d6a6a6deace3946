"""What MIMIC-CXR consists of on a disk: trees of images and reports, and the tables beside them.

files/p10/p10000032/s50414267/<dicom>.jpg     images, of MIMIC-CXR-JPG or as DICOM
files/p10/p10000032/s50414267.txt             reports, or all of them in mimic-cxr-reports.zip
mimic-cxr-2.0.0-<kind>.csv.gz                 tables, also unpacked
"""

import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from radrep.data.study import PROJECTIONS
from radrep.errors import DataError
from radrep.preparation.sources import tables
from radrep.preparation.sources.cells import is_missing, parse_label

JPG_HOME = "physionet.org/content/mimic-cxr-jpg/2.1.0/"
REPORTS_HOME = "physionet.org/content/mimic-cxr/2.1.0/"
RECORD_LIST = "cxr-record-list"
REPORTS_ZIP = "mimic-cxr-reports.zip"

_TREES = ("files", "images", "mimic-cxr-reports/files", "mimic-cxr-reports", ".")
_DICOM_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}", re.ASCII)
_REPORT_NAME = re.compile(r"(?:.*/)?s(\d{1,15})\.txt", re.ASCII)
_MAX_MEMBERS = 1_000_000  # of the archive; that of MIMIC-CXR has 293,000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA takes the memory that a file asks for
_MAX_REPORT = 1_000_000  # bytes; the longest report of MIMIC-CXR has some ten thousand characters

_LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum",
    "Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other",
    "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
_NOT_MENTIONED = 2


def study_folder(subject: int, study: int) -> str:
    """Path of a study in a tree: "p10/p10000032/s50414267"."""
    return f"p{str(subject)[:2]}/p{subject}/s{study}"


def table_name(kind: str) -> str:
    """The name of a table: of "split", "metadata", "chexpert", "negbio" or `RECORD_LIST`."""
    return f"{kind}.csv.gz" if kind == RECORD_LIST else f"mimic-cxr-2.0.0-{kind}.csv.gz"


def find_table(folders: Sequence[Path], *kinds: str) -> Path | None:
    """The folders' first table of the first kind they have, as PhysioNet packs it or unpacked."""
    packed = (folder / table_name(kind) for kind in kinds for folder in folders)
    paths = (each for path in packed for each in (path, path.with_suffix("")))
    return next(filter(Path.is_file, paths), None)


def find_tree(folder: Path, names: Iterable[str]) -> Path | None:
    """The tree in or at a folder that has at least one of the names."""
    places = (folder / name for name in _TREES)
    trees = [tree for tree in places if next(tree.glob("p[0-9][0-9]"), None)]
    return next((tree for name in names for tree in trees if os.path.exists(tree / name)), None)


def parse_dicom_id(text: str) -> bytes:
    """Parse the name of an image, which becomes part of a path."""
    text = text.strip()
    if not _DICOM_ID.fullmatch(text):
        raise ValueError("expected the name of an image, such as 02aa804e-bde0afdd-...")
    return text.encode()


class ImageTable:
    """The metadata table or the record list: the order of the images and their projections."""

    def __init__(self, path: Path | None) -> None:
        columns = {"dicom_id": tables.Column(parse_dicom_id, "S")}
        if path and not path.name.startswith(RECORD_LIST):
            columns["ViewPosition"] = tables.Column(tables.parse_projection, np.int8)
        rows = tables.read_columns(path, columns) if path else {"dicom_id": np.array([], "S")}
        self._index = tables.Index(rows["dicom_id"])
        self._projections = rows.get("ViewPosition")

    def order(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield image and projection in the order of the table, unknown images at the end."""
        rows = self._index.find(np.array([Path(name).stem.encode() for name in names], "S"))
        pairs, seen = zip(rows.tolist(), names, strict=True), self._projections
        for row, name in sorted(pairs, key=lambda pair: (pair[0] < 0, pair[0])):
            yield name, "unknown" if seen is None or row < 0 else PROJECTIONS[seen[row]]


class StudyTimes:
    """When studies were made, by the metadata table, whose dates PhysioNet has shifted."""

    def __init__(self, path: Path | None) -> None:
        found: dict[int, tuple[str, float]] = {}
        if path and not path.name.startswith(RECORD_LIST):
            rows = tables.stream_rows(path, ("study_id",), ("StudyDate", "StudyTime"))
            for line, (study, date, time) in rows:
                if not is_missing(date):
                    try:
                        stamp = date.strip().removesuffix(".0"), float(time or 0)
                        number = tables.parse_number(study)
                    except ValueError as error:
                        value = f"{study}, {date}, {time}"
                        raise tables.bad_value(path, line, "a time", value, str(error)) from error
                    found[number] = min(stamp, found.get(number, stamp))
        ranks = {stamp: rank for rank, stamp in enumerate(sorted({*found.values()}))}
        self._ranks = {study: ranks[stamp] for study, stamp in found.items()}

    def rank(self, study: int) -> int | None:
        """The place of a study's time among all, the same for one time; None where not known."""
        return self._ranks.get(study)


class LabelTable:
    """The findings that a labeller extracted from the reports."""

    def __init__(self, path: Path | None) -> None:
        columns = dict.fromkeys(_LABELS, tables.Column(_parse_label, np.int8))
        columns["study_id"] = tables.Column(tables.parse_number, np.int64)
        none = dict.fromkeys(columns, np.array([], np.int64))
        rows = tables.read_columns(path, columns) if path else none
        self._index = tables.Index(rows["study_id"])
        self._values = np.stack([rows[name] for name in _LABELS], axis=1)

    def labels(self, study: int) -> dict[str, int]:
        """The labels of a study by finding: 1 present, 0 absent, -1 uncertain."""
        row = self._index.find(np.array([study]))[0]
        if row < 0:
            return {}
        pairs = zip(_LABELS, self._values[row].tolist(), strict=True)
        return {name: value for name, value in pairs if value != _NOT_MENTIONED}


class ReportTree:
    """Reports as files in PhysioNet's folders."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def read(self, subject: int, study: int) -> str:
        """The report of a study; DataError if it is missing or no text."""
        path = self._path(subject, study)
        try:
            with path.open("rb") as file:
                return _decode(file.read(_MAX_REPORT + 1))
        except FileNotFoundError:
            raise DataError(f"no report: {path} not found") from None
        except OSError as error:
            raise DataError(f"its report cannot be read: {error}") from error

    def describe(self, subject: int, study: int) -> str:
        """Its size in bytes, for a fingerprint."""
        try:
            return str(self._path(subject, study).stat().st_size)
        except OSError:
            return "absent"

    def _path(self, subject: int, study: int) -> Path:
        return self.where / f"{study_folder(subject, study)}.txt"


class ReportZip:
    """Reports in PhysioNet's mimic-cxr-reports.zip, which stays packed."""

    def __init__(self, where: Path) -> None:
        self.where = where
        try:
            self._archive = zipfile.ZipFile(where)
        # NotImplementedError: a version that no zip has; ValueError: names that are no UTF-8.
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
            raise DataError(
                f"{where} is broken or cut off ({error}); download it again from {REPORTS_HOME}"
            ) from error
        files = self._archive.infolist()
        if any(file.flag_bits & 1 for file in files):
            raise DataError(f"{where} is encrypted; unpack it and give the folder")
        if len(files) > _MAX_MEMBERS or any(file.compress_type not in _METHODS for file in files):
            raise DataError(
                f"{where} has more than {_MAX_MEMBERS:,} members, or packs them otherwise than by "
                f"deflate, unlike that of {REPORTS_HOME}"
            )
        self._files = {
            int(match[1]): file
            for file in reversed(files)  # of several, the first
            if (match := _REPORT_NAME.fullmatch(file.filename))
        }

    def __len__(self) -> int:
        return len(self._files)

    def read(self, subject: int, study: int) -> str:
        """The report of a study; DataError if it is missing, broken or no text."""
        if study not in self._files:
            raise DataError(f"no report: s{study}.txt is not in {self.where}")
        try:
            with self._archive.open(self._files[study]) as file:
                return _decode(file.read(_MAX_REPORT + 1))
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, zlib.error) as error:
            raise DataError(f"its report in {self.where} cannot be unpacked: {error}") from error

    def describe(self, subject: int, study: int) -> str:
        """Its checksum, for a fingerprint."""
        return str(self._files[study].CRC) if study in self._files else "absent"


def find_reports(folder: Path, studies: Iterable[tuple[int, int]]) -> ReportTree | ReportZip | None:
    """The reports in PhysioNet's folder mimic-cxr, or in their archive itself; None for none.

    `studies` are numbers of patient and study.
    """
    packed = folder if folder.is_file() else folder / REPORTS_ZIP
    if packed.is_file():
        archive = ReportZip(packed)
        return archive if len(archive) else None
    tree = find_tree(folder, (f"{study_folder(*pair)}.txt" for pair in studies))
    return ReportTree(tree) if tree else None


def _parse_label(text: str) -> int:
    label = parse_label(text)
    if label is None and not is_missing(text):
        raise ValueError("expected 1, 0, -1 or blank")
    return _NOT_MENTIONED if label is None else label


def _decode(content: bytes) -> str:
    if len(content) > _MAX_REPORT:
        raise DataError(f"its report is longer than {_MAX_REPORT:,} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"its report is not UTF-8 text (byte {content[error.start]:#04x} at {error.start})"
        ) from error
    if not text.strip():
        raise DataError("its report is empty")
    return text
