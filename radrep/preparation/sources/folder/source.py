"""A folder of your own images, with or without a table of reports.

    ROOT/**/*                                         images, under any name
    ROOT/reports.csv, .tsv, .jsonl or labels.csv      optional, see table.py

Without a table each image is a study, but DICOM files of one StudyInstanceUID are one together.
Folders named as patients and studies are, or as splits, say so where nothing else does.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from radrep.data.dicom import pseudonym, read_tags
from radrep.data.study import SourceImage, SourceStudy, projection_of
from radrep.errors import DataError
from radrep.preparation.sources.base import Source, check_folder, split_by_hash
from radrep.preparation.sources.folder import files, paths
from radrep.preparation.sources.folder.matching import Matches, match_files
from radrep.preparation.sources.folder.readings import merge_labels
from radrep.preparation.sources.folder.table import Row, Table
from radrep.preparation.sources.folder.warnings import IdCheck
from radrep.preparation.sources.free_text_sections import (
    ParsedReport,
    parse_context,
    parse_report,
)
from radrep.preparation.sources.image_tree import describe_image, existing, found_image
from radrep.preparation.sources.tables import hash_table

_TABLES = ("reports.csv", "reports.tsv", "reports.jsonl", "reports.json", "labels.csv")
_MAY_BE_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".csv.gz", ".xlsx")
# By place among the files, or by name where they are not found, so that each is there once.
_Images = dict[int | str, SourceImage]

_TRAIN, _VAL = 0.8, 0.1
_OTHERS = "others"  # files that are no images
_SKIPPED = {
    files.BROKEN: "links lead nowhere, the first {first}.",
    files.INNER: "links lead to what is in the folder anyhow, the first {first}; not followed.",
    files.SPECIAL: "pipes, sockets or devices are not read, the first {first}.",
    files.FOLDER: "folders are named as images are, the first {first}; the files in them are used.",
    files.MADE: "folders that radrep wrote are not read, the first {first}.",
    _OTHERS: "files are no images, the first {first}.",
}


class FolderSource(Source):
    """The studies of a folder of images, in the order of its table or of its files' names.

    A missing split is drawn by a hash of the patient, or of the study where no patient is known:
    80, 10 and 10 in a hundred. A study of several rows takes each text from the first row that has
    it, and is complete when its last row has been read. `reports` is the table, unless it is the
    only one in `raw` with one of the usual names.
    """

    name = "folder"
    split_hint = (
        "Give a table (--reports) with a column split (train, val, test), or more patients."
    )

    def __init__(self, raw: Path, reports: Path | None = None) -> None:
        self._raw = check_folder(Path(raw), "a folder of images")
        table = Path(reports) if reports else _find_table(self._raw)
        self._table = Table(table) if table else None
        self._skipped: dict[str, list[str]] = defaultdict(list)  # by kind
        self._dicom = bytearray()
        self._files = files.pack(self._list_images())
        matches = Matches(np.arange(len(self._files), dtype=np.int32))
        if self._table:
            names = [name for row in self._table for name in row.images]
            matches = self._match(names)
        self._places = matches.places
        self._check_images()
        self._by_path = not (any(self._dicom) or (self._table and self._table.has_patients))
        self._patient_example = ""
        self._split_by_folder = False
        if not self._has_splits:
            self._split_by_folder = self._folders_are_splits()
        self._ids = IdCheck()
        self._unclear: list[str] = []  # studies with no heading between indication and findings
        self._studies, self._num_rows = files.count_groups(files.pack(self._study_keys()))
        num_dicom = sum(self._dicom)
        self.layout = f"{len(self._files)} images, {num_dicom} of them DICOM, without a table"
        if self._table:
            labels = f"; labels {', '.join(self._table.labels)}" if self._table.labels else ""
            self.layout = f"{self._table.path.name}: {', '.join(self._table.columns)}{labels}"
        self.notes = tuple(self._notes(matches))
        names_of = ("StudyInstanceUID", "PatientID")
        if self._table:
            names_of = ("its study", "its patient")
        self.warnings = (
            *(self._table.warnings if self._table else ()),
            *self._ids.warnings(*names_of),
        )
        if self._unclear:
            self.warnings += (
                f"{len(self._unclear)} reports do not say where their findings begin, the first of "
                f"{self._unclear[0]!r}: all of the section is taken, with the indication before "
                "them. Put a heading 'Findings:' there.",
            )

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
        for study, (row, places) in zip(
            map(int, self._studies), self._identified_rows(), strict=True
        ):
            images = {
                name if place < 0 else place: self._image(name, place, row.projection(number))
                for number, (name, place) in enumerate(zip(row.images, places, strict=True))
            }
            waiting[study].append((row, images))
            left[study] -= 1
            if not left[study]:
                yield self._study(waiting.pop(study))

    def _list_images(self) -> Iterator[str]:
        inner = []
        for path, kind in files.list_files(self._raw):
            # A table names the files to use: they need not all be opened.
            if kind == files.FILE and not self._table:
                format = files.sniff_format(self._raw / path)
                kind = kind if format else _OTHERS
                if format:
                    self._dicom.append(format == "dicom")
            if kind == files.FILE:
                yield path
            elif kind == files.INNER and self._table and (self._raw / path).is_file():
                inner.append(path)
            else:
                self._skipped[kind].append(path)
        self._num_inner = len(inner)
        yield from inner  # last: what they lead to is there under another name

    def _match(self, names: list[str]) -> Matches:
        """Match the names with files, then with links to files that are there already."""
        packed = files.pack(names)
        num_own = len(self._files) - self._num_inner
        matches = match_files(packed, self._files[:num_own])
        missing = np.flatnonzero(matches.places < 0)
        if len(missing) and self._num_inner:
            linked = match_files(packed, self._files[num_own:]).places[missing]
            matches.places[missing] = np.where(linked < 0, -1, linked + num_own)
        return matches

    def _rows(self) -> Iterator[Row]:
        if self._table:
            yield from self._table
            return
        for place, dicom in enumerate(self._dicom):
            path = files.unpack(self._files, place)
            study, patient, view = read_tags(self._raw / path) if dicom else ("", "", "")
            # The PatientID itself is nowhere kept; it draws the split, so that no key does.
            drawn = split_by_hash(patient, _TRAIN, _VAL) if patient else ""
            patient = pseudonym(patient) if patient else ""
            yield Row((path,), study, patient, drawn, projections=(projection_of(view),))

    def _placed_rows(self) -> Iterator[tuple[Row, list[int]]]:
        """Every row with the places of its images."""
        start = 0
        rows = self._rows()
        if not self._table:  # what is in a DICOM file is not needed yet
            rows = (Row((files.unpack(self._files, place),)) for place in range(len(self._files)))
        for row in rows:
            end = start + len(row.images)
            yield row, self._places[start:end].tolist()
            start = end

    def _folders_are_splits(self) -> bool:
        """Whether folders named train, test, ... hold most images, and not all in one of them."""
        found = Counter(
            paths.split_of(self._path(row, places))
            for row, places in self._placed_rows()
            if row.images
        )
        return found[""] * 2 < found.total() and len(found.keys() - {""}) > 1

    def _identified_rows(self) -> Iterator[tuple[Row, list[int]]]:
        """The same, with the patient, study and split that the folders name, where they count."""
        rows: Iterator[tuple[Row, list[int]]] = self._placed_rows()
        if not self._table:
            each = ([place] for place in range(len(self._files)))
            rows = zip(self._rows(), each, strict=True)
        for row, places in rows:
            path = self._path(row, places)
            patient, study = paths.ids_of(path) if self._by_path else ("", "")
            split = paths.split_of(path) if self._split_by_folder else row.split
            study = row.study or study
            self._patient_example = self._patient_example or (study or patient) * bool(patient)
            yield replace(row, study=study, patient=row.patient or patient, split=split), places

    def _study_keys(self) -> Iterator[str]:
        for row, places in self._identified_rows():
            key = row.study or f"\0{self._path(row, places)}"
            self._ids.add(key, row.study, row.patient, row.split, sum(p >= 0 for p in places))
            name = _shown(row.study or self._path(row, places))
            self._ids.add_texts(key, name, row.texts)
            if _sections(row.texts).is_unclear:
                self._unclear.append(name)
            yield key

    def _path(self, row: Row, places: list[int]) -> str:
        """The path of the first image, or its name in the table."""
        found = next((place for place in places if place >= 0), None)
        return "".join(row.images[:1]) if found is None else files.unpack(self._files, found)

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
        for row, _ in rows:
            texts = {**row.texts, **texts}
        refusal = None
        for what, values in (("splits", splits), ("patients", patients)):
            if len(values) > 1:
                refusal = f"its rows are of several {what}: {', '.join(values)}"
        if not refusal and not splits and self._has_splits:
            refusal = "it has no split"
        drawn = split_by_hash(patients[0] if patients else name, _TRAIN, _VAL)
        images = {place: image for _, images in rows for place, image in images.items()}
        return SourceStudy(
            id=_shown(name),
            patient_id=_shown(patients[0]) if patients else None,
            split=splits[0] if splits else drawn,
            images=tuple(images.values()),
            sections=_sections(texts).sections,
            report=texts.get("report", ""),
            labels=merge_labels([row for row, _ in rows]),
            refusal=refusal,
        )

    def _check_images(self) -> None:
        if not len(self._places):
            broken = self._skipped[files.BROKEN]
            links = f" ({len(broken)} links in it lead nowhere)" if broken else ""
            raise DataError(f"no image (PNG, JPEG, TIFF, BMP or DICOM) in {self._raw}{links}")
        if self._table and (self._places < 0).all():
            if self._table.is_named_by_id:
                raise DataError(self._table.without_images())
            row = next(row for row in self._table if row.images)
            raise DataError(
                f"none of the images that {self._table.path} names is in {self._raw}; "
                f"the first is {_shown(row.images[0])!r}"
            )

    def _notes(self, matches: Matches) -> Iterator[str]:
        yield from self._table.notes if self._table else ()
        if self._split_by_folder:
            yield "The splits are those that the folders are named after."
        elif not self._has_splits:
            yield "The splits are drawn by a hash of the patient, 80/10/10."
        if self._patient_example:
            yield f"The folders name patients, such as {self._patient_example}."
        if without := self._ids.num_without_patient:
            some = "No patients" if without == len(self) else f"Of {without} studies no patients"
            if not self._has_splits:
                yield f"{some} are known: one patient's studies may be in several splits."
        if self._table and self._table.is_named_by_id:
            yield "No column names the images; the ids of the rows are taken for their names."
        if (places := self._places[self._places < 0]).size:
            name = next(
                row.images[k]
                for row, found in self._placed_rows()
                for k, place in enumerate(found)
                if place < 0
            )
            yield (
                f"{len(places)} of {len(self._places)} images of the table are not in the folder, "
                f"the first {_shown(name)}."
            )
        if matches.num_without_zeros:
            yield (
                f"{matches.num_without_zeros} images are found though the table lost the zeros "
                f"before their names, the first {_shown(matches.example)}."
            )
        if self._table:
            own = np.arange(len(self._files) - self._num_inner)
            rest = (files.unpack(self._files, int(n)) for n in np.setdiff1d(own, self._places))
            if unused := [name for name in rest if files.is_image(name)]:
                yield (
                    f"{len(unused)} images of the folder are not in the table and are not used, "
                    f"the first {_shown(unused[0])}."
                )
        for kind, text in _SKIPPED.items():
            if found := self._skipped[kind]:
                yield f"{len(found)} {text.format(first=_shown(found[0]))}"
        tables = [name for name in self._skipped[_OTHERS] if name.endswith(_MAY_BE_TABLES)]
        if tables:
            yield f"{_shown(tables[0])} is not read; --reports takes a table."

    @property
    def _has_splits(self) -> bool:
        return self._split_by_folder or (self._table is not None and self._table.has_splits)


def _find_table(raw: Path) -> Path | None:
    found = [raw / name for name in _TABLES if (raw / name).is_file()]
    if len(found) > 1:
        raise DataError(
            f"{raw} has several tables ({', '.join(path.name for path in found)}); "
            "give the one that has the reports"
        )
    return found[0] if found else None


def _sections(texts: Mapping[str, str]) -> ParsedReport:  # of the columns, else of the report
    given = {name: text for name, text in texts.items() if name not in ("report", "context")}
    given = parse_context(texts.get("context", "")) | given
    if "findings" in given or "impression" in given:
        return ParsedReport(given)
    found = parse_report(texts.get("report", ""))
    return replace(found, sections={**found.sections, **given})


def _shown(name: str) -> str:  # bytes that are not UTF-8 as escapes
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
