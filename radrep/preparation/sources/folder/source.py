"""A folder of your own images, with or without a table of reports.

    ROOT/**/*                                         images, under any name
    ROOT/reports.csv, .tsv, .jsonl or labels.csv      optional, see table.py

Without a table each image is a study, but DICOM files of one StudyInstanceUID are one together.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from radrep.data.dicom import read_tags
from radrep.data.study import SourceImage, SourceStudy, projection_of
from radrep.errors import DataError
from radrep.preparation.sources.base import Source, check_folder, split_by_hash
from radrep.preparation.sources.folder import files
from radrep.preparation.sources.folder.table import Row, Table
from radrep.preparation.sources.image_tree import describe_image, existing, found_image
from radrep.preparation.sources.report_sections import parse_sections
from radrep.preparation.sources.tables import hash_table

_TABLES = ("reports.csv", "reports.tsv", "reports.jsonl", "labels.csv")
# By place among the files, or by name where they are not found, so that each is there once.
_Images = dict[int | str, SourceImage]

_TRAIN, _VAL = 0.8, 0.1
_WEIGHTS = (0, -1, 1)  # what one image shows is in the study: of several labels the last counts


class FolderSource(Source):
    """The studies of a folder of images, in the order of its table or of its files' names.

    A missing split is drawn by a hash of the patient, or of the study where no patient is known:
    80, 10 and 10 in a hundred. A study of several rows takes each text from the first row that has
    it, and is complete when its last row has been read. `reports` is the table, unless it is the
    only one in `raw` with one of the usual names.
    """

    name = "folder"

    def __init__(self, raw: Path, reports: Path | None = None) -> None:
        self._raw = check_folder(Path(raw), "a folder of images")
        table = Path(reports) if reports else _find_table(self._raw)
        self._table = Table(table) if table else None
        self._skipped = Counter[str]()
        self._dicom = bytearray()
        self._first_folder = ""
        self._files = files.pack(self._list_images())
        names: list[str] = []
        studies = []
        for row in self._rows():
            studies.append(row.study or row.images[0])
            names += row.images
        self._studies, self._num_rows = files.count_groups(files.pack(studies))
        self._places = np.arange(len(self._files), dtype=np.int32)
        if self._table:
            self._places = files.match_files(files.pack(names), self._files)
        self._check_images()
        num_dicom = sum(self._dicom)
        self.layout = f"{len(self._files)} images, {num_dicom} of them DICOM, without a table"
        if self._table:
            labels = f"; labels {', '.join(self._table.labels)}" if self._table.labels else ""
            self.layout = f"{self._table.path.name}: {', '.join(self._table.columns)}{labels}"
        self.notes = tuple(self._notes())

    def fingerprint(self, advance: Callable[[], None] = lambda: None) -> str:
        """A hash of the table and of the names and sizes of the images that are used."""
        digest = hashlib.sha256(hash_table(self._table.path) if self._table else b"")
        for place in np.unique(self._places[self._places >= 0]):
            image = describe_image(self._raw, files.unpack(self._files, int(place)))
            digest.update(json.dumps(image).encode())
            advance()
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._num_rows)

    def __iter__(self) -> Iterator[SourceStudy]:
        left = self._num_rows.copy()
        waiting: dict[int, list[tuple[Row, _Images]]] = defaultdict(list)
        start = 0
        for study, row in zip(map(int, self._studies), self._rows(), strict=True):
            end = start + len(row.images)
            places = self._places[start:end].tolist()
            images = {
                name if place < 0 else place: self._image(name, place, row.projection)
                for name, place in zip(row.images, places, strict=True)
            }
            start = end
            waiting[study].append((row, images))
            left[study] -= 1
            if not left[study]:
                yield self._study(waiting.pop(study))

    def _list_images(self) -> Iterator[str]:
        for path, kind in files.list_files(self._raw):
            if kind == files.FOLDER:
                self._first_folder = self._first_folder or path
            format = None
            # A table names the files to use: they need not all be opened.
            if kind == files.FILE and not self._table:
                format = files.sniff_format(self._raw / path)
                kind = kind if format else "others"
            if kind == files.FILE:
                self._dicom.append(format == "dicom")
                yield path
            else:
                self._skipped[kind] += 1

    def _rows(self) -> Iterator[Row]:
        if self._table:
            yield from self._table
            return
        for place, dicom in enumerate(self._dicom):
            path = files.unpack(self._files, place)
            study, patient, view = read_tags(self._raw / path) if dicom else ("", "", "")
            yield Row((path,), study, patient, projection=projection_of(view))

    def _image(self, name: str, place: int, projection: str) -> SourceImage:
        path = self._raw / files.unpack(self._files, place) if place >= 0 else None
        several = "or there are several files of this name; give the path"
        find = partial(existing, path, f"{name} not found in {self._raw}, {several}")
        return found_image(_shown(name), find, projection)

    def _study(self, rows: list[tuple[Row, _Images]]) -> SourceStudy:
        name = rows[0][0].study or rows[0][0].images[0]
        patients = sorted({row.patient for row, _ in rows if row.patient})
        splits = sorted({row.split for row, _ in rows if row.split})
        texts: dict[str, str] = {}
        labels: dict[str, int] = {}
        for row, _ in rows:
            texts = {**row.texts, **texts}
            for finding, value in row.labels.items():
                labels[finding] = max(value, labels.get(finding, value), key=_WEIGHTS.index)
        refusal = None
        for what, values in (("splits", splits), ("patients", patients)):
            if len(values) > 1:
                refusal = f"its rows are of several {what}: {', '.join(values)}"
        if not refusal and not splits and self._table and self._table.has_splits:
            refusal = "it has no split"
        drawn = split_by_hash(patients[0] if patients else name, _TRAIN, _VAL)
        images = {place: image for _, images in rows for place, image in images.items()}
        return SourceStudy(
            id=_shown(name),
            patient_id=_shown(patients[0]) if patients else None,
            split=splits[0] if splits else drawn,
            images=tuple(images.values()),
            sections=_sections(texts),
            report=texts.get("report", ""),
            labels=labels,
            refusal=refusal,
        )

    def _check_images(self) -> None:
        links = f" ({self._skipped[files.LINK]} links in it are not followed)"
        where = f"{self._raw}{links if self._skipped[files.LINK] else ''}"
        if not len(self._places):
            raise DataError(f"no image (PNG, JPEG, TIFF, BMP or DICOM) in {where}")
        if self._table and (self._places < 0).all():
            row = next(row for row in self._rows() if row.images)
            raise DataError(
                f"none of the images that {self._table.path} names is in {where}; "
                f"the first is {_shown(row.images[0])!r}"
            )

    def _notes(self) -> Iterator[str]:
        if not (self._table and self._table.has_splits):
            yield "The splits are drawn by a hash of the patient, 80/10/10."
            if not any(self._dicom) and not (self._table and self._table.has_patients):
                yield "No patients are known: one patient's studies may be in several splits."
        if missing := int((self._places < 0).sum()):
            yield f"{missing} of {len(self._places)} images of the table are not in the folder."
        if self._table:
            unused = sum(
                files.unpack(self._files, int(place)).lower().endswith(files.IMAGE_ENDINGS)
                for place in np.setdiff1d(np.arange(len(self._files)), self._places)
            )
            if unused:
                yield f"{unused} images of the folder are not in the table and are not used."
        first = f"the first {_shown(self._first_folder)}; the files in them are used."
        for kind, text in {
            files.LINK: "links are not followed.",
            files.SPECIAL: "pipes, sockets or devices are not read.",
            files.FOLDER: f"folders are named as images are, {first}",
            "others": "files are no images.",
        }.items():
            if self._skipped[kind]:
                yield f"{self._skipped[kind]} {text}"


def _find_table(raw: Path) -> Path | None:
    found = [raw / name for name in _TABLES if (raw / name).is_file()]
    if len(found) > 1:
        raise DataError(
            f"{raw} has several tables ({', '.join(path.name for path in found)}); "
            "give the one that has the reports"
        )
    return found[0] if found else None


def _sections(texts: Mapping[str, str]) -> dict[str, str]:  # of the columns, else of the report
    given = {name: text for name, text in texts.items() if name != "report"}
    if "findings" in given or "impression" in given:
        return given
    report = texts.get("report", "")
    parsed = parse_sections(report)
    if report and set(parsed) <= {"last_paragraph"}:  # it has no headings
        parsed = {"findings": report}
    return {**parsed, **given}


def _shown(name: str) -> str:  # bytes that are not UTF-8 as escapes
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
