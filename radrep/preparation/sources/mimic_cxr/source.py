"""MIMIC-CXR (Johnson et al., Scientific Data 2019) as PhysioNet and as R2Gen have it.

PhysioNet's MIMIC-CXR-JPG with the reports of MIMIC-CXR, in one folder or two (see files.py), needs
images, reports and mimic-cxr-2.0.0-split.csv.gz. It takes projections and the order of images from
mimic-cxr-2.0.0-metadata.csv.gz (the order alone from cxr-record-list.csv.gz), and labels from
mimic-cxr-2.0.0-chexpert.csv.gz, or -negbio.

R2Gen's annotation.json, unless the official split is wanted, defines the images, their split and
findings instead; each image is a study of its own, as in the scores published on it.
"""

import hashlib
import itertools
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from radrep.data.study import SPLITS, SourceStudy
from radrep.errors import DataError
from radrep.preparation.sources.annotation import ANNOTATION, stream_annotation
from radrep.preparation.sources.base import LazyStudy, Source, check_folder
from radrep.preparation.sources.find_raw import Download, folders_beside, refuse_outer
from radrep.preparation.sources.image_tree import describe_image, tree_image
from radrep.preparation.sources.mimic_cxr import files
from radrep.preparation.sources.mimic_sections import parse_sections
from radrep.preparation.sources.table_text import text_notes
from radrep.preparation.sources.tables import Column, hash_table, one_of, parse_number, read_columns

_SPLITS = {"train": 0, "validate": 1, "test": 2}
_SPLIT_CHOICES = ("official", "r2gen")
# Raised when the same files would give other studies or texts than before. Since 2, a report's last
# paragraph stands for findings and impression where it has neither.
_VERSION = 2
# Where a download by wget, or one unpacked by hand, has the folder that is needed.
_INNER = ("*", "physionet.org/files/mimic-cxr-jpg/*", "files/mimic-cxr-jpg/*", "mimic-cxr-jpg/*")
_NAMES = re.compile("mimiccxr")
_IMAGE_PATH = re.compile(r"(?:.*/)?p(\d{1,15})/s(\d{1,15})/([^/]+)\.\w+", re.ASCII)


def describe_download(split: str | None) -> Download:
    """How to recognise a folder of MIMIC-CXR with such a split."""

    def holds(folder: Path) -> bool:
        by_table = split != "r2gen" and files.find_table((folder,), "split") is not None
        return by_table or (split != "official" and (folder / ANNOTATION).is_file())

    contents = {"official": files.table_name("split"), "r2gen": f"R2Gen's {ANNOTATION}"}
    return Download(
        title="MIMIC-CXR",
        names=_NAMES,
        examples=("MIMIC-CXR-JPG", "MIMIC-CXR", "mimic_cxr", "mimic-cxr-jpg/2.1.0"),
        holds=holds,
        holds_unnamed=lambda folder: files.find_table((folder,), "split") is not None,
        content=contents[split] if split in contents else " or ".join(contents.values()),
        inner=_INNER,
    )


class MimicCxrSource(Source):
    """The studies of MIMIC-CXR.

    A study has the name of its folder, "s50414267", and its patient the number, "10000032". A row
    of R2Gen's annotation is named by its study and its image, "s50414267_02aa804e-bde0afdd-...".
    `reports` is the folder of MIMIC-CXR or its zip, else `raw` or a folder beside it; `split` is
    "official" or "r2gen", else R2Gen's if its annotation.json is in `raw`.
    """

    name = "mimic_cxr"

    def __init__(self, raw: Path, reports: Path | None = None, split: str | None = None) -> None:
        if split not in (None, *_SPLIT_CHOICES):
            raise DataError(f"the split '{split}' is not one of {', '.join(_SPLIT_CHOICES)}")
        raw = Path(raw)
        check_folder(raw, f"the folder that holds MIMIC-CXR ({files.JPG_HOME})")
        if reports and not Path(reports).exists():
            raise DataError(
                f"{reports} not found; give the folder of the reports ({files.REPORTS_HOME})"
            )
        places = [Path(reports)] if reports else [raw, *folders_beside(raw, _NAMES)]
        folders = [raw, *places[:1]]
        self._rows: _OfficialRows | _AnnotatedRows
        annotation = raw / ANNOTATION
        if split == "r2gen" and not annotation.is_file():
            raise DataError(
                f"{annotation} not found; it is in R2Gen's download of MIMIC-CXR "
                "(github.com/cuhksz-nlp/R2Gen)"
            )
        if split != "official" and annotation.is_file():
            self._rows = _AnnotatedRows(annotation)
        else:
            table = files.find_table(folders, "split")
            if table is None:
                refuse_outer(raw, describe_download(split))
                raise DataError(
                    f"{raw} has no {files.table_name('split')}, the table of the splits, and no "
                    f"{ANNOTATION} of R2Gen. The table is part of MIMIC-CXR-JPG: {files.JPG_HOME}"
                )
            self._rows = _OfficialRows(table)
        notes = list(self._rows.notes)
        for place in places:
            self._reports = files.find_reports(place, self._numbers())
            if self._reports:
                break
        if self._reports and place not in folders:
            folders.append(place)
            notes.append(f"the reports are those of {place}; --reports gives others")
        metadata = files.find_table(folders, "metadata", files.RECORD_LIST)
        self._image_table, self._times = files.ImageTable(metadata), files.StudyTimes(metadata)
        if metadata is None or metadata.name.startswith(files.RECORD_LIST):
            notes.append(f"{_absent('metadata')}: every projection is unknown")
        labels = files.find_table(folders, "chexpert", "negbio")
        self._label_table = files.LabelTable(labels)
        if labels is None or "negbio" in labels.name:
            instead = "the labels are negbio's" if labels else "there are no labels"
            notes.append(f"{_absent('chexpert')}: {instead}")
        self._tables = [path for path in (self._rows.table, metadata, labels) if path]
        for path in self._tables:
            notes += text_notes(path) if path.name != ANNOTATION else []
        self._images = self._find_images(raw)
        if self._reports is None and self._rows.needs_reports:
            example = files.study_folder(*next(self._numbers()))
            beside = "" if reports else ", and no folder beside it,"
            raise DataError(
                f"{places[0]}{beside} has none of the reports; expected {files.REPORTS_ZIP}, or "
                f"texts such as files/{example}.txt. They are part of MIMIC-CXR: "
                f"{files.REPORTS_HOME}. Give their folder with --reports"
            )
        if self._reports is None:
            notes.append(
                f"the reports are missing ({files.REPORTS_HOME}): findings are all there is"
            )
        self.notes = tuple(notes)
        parts = [self._rows.layout, f"images in {self._images}"]
        parts += [f"reports in {self._reports.where}"] if self._reports else []
        self.layout = ", ".join([*parts, *(table.name for table in self._tables)])
        self.splits = self._rows.splits
        self.expected_counts = self._rows.expected
        self.expected_images = self._rows.expected_images

    def fingerprint(self, advance: Callable[[], None] = lambda: None) -> str:
        """A hash of the tables and of the names and sizes of images and reports."""
        digest = hashlib.sha256(f"{_VERSION} {self._rows.layout}".encode())
        for table in self._tables:
            digest.update(hash_table(table))
        for row in self._rows:
            for name in row.images:
                digest.update(describe_image(self._images, name).encode())
            if self._reports and row.numbers:
                digest.update(self._reports.describe(*row.numbers).encode())
            advance()
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[SourceStudy]:
        return (outline.read() for outline in self.outlines())

    def outlines(self) -> Iterator[LazyStudy]:
        """Yield every study, its report unread."""
        return (LazyStudy(row.id, row.split, partial(self._read, row)) for row in self._rows)

    def _read(self, row: "_Row") -> SourceStudy:
        report, sections, refusal = "", {}, row.refusal
        if self._reports and row.numbers:
            try:
                report = self._reports.read(*row.numbers)
                sections = parse_sections(report, f"s{row.numbers[1]}")
            except DataError as error:
                refusal = refusal or (str(error) if row.findings is None else None)
        if row.findings is not None:
            sections["findings"] = row.findings
        return SourceStudy(
            id=row.id,
            patient_id=str(row.numbers[0]) if row.numbers else None,
            split=row.split,
            images=tuple(
                tree_image(self._images, name, projection)
                for name, projection in self._image_table.order(row.images)
            ),
            sections=sections,
            report=report,
            labels=self._label_table.labels(row.numbers[1]) if row.numbers else {},
            refusal=refusal,
            order=self._times.rank(row.numbers[1]) if row.numbers else None,
        )

    def _find_images(self, raw: Path) -> Path:
        folders = (os.path.dirname(name) for row in self._rows for name in row.images[:1])
        first = next(folders, "")
        tree = files.find_tree(raw, itertools.chain([first], folders))
        if tree is None:
            raise DataError(
                f"{raw} has none of the images that {self._rows.table.name} names; expected "
                f"folders such as files/{first} ({files.JPG_HOME})"
            )
        return tree

    def _numbers(self) -> Iterator[tuple[int, int]]:
        return (row.numbers for row in self._rows if row.numbers)


@dataclass(frozen=True)
class _Row:
    id: str
    numbers: tuple[int, int] | None  # of patient and study
    split: str
    images: tuple[str, ...]  # paths below the tree
    findings: str | None = None
    refusal: str | None = None


class _OfficialRows:
    """The studies of the official split, in the order of its table."""

    layout = "MIMIC-CXR with its official split"
    expected: Mapping[str, int] = {"train": 222_758, "val": 1_808, "test": 3_269}
    expected_images: Mapping[str, int] = {"train": 368_960, "val": 2_991, "test": 5_159}
    notes: tuple[str, ...] = ()
    needs_reports = True

    def __init__(self, table: Path) -> None:
        self.table = table
        columns = {
            "dicom_id": Column(files.parse_dicom_id, "S"),
            "study_id": Column(parse_number, np.int64),
            "subject_id": Column(parse_number, np.int64),
            "split": Column(one_of(_SPLITS), np.int8),
        }
        rows = read_columns(table, columns)
        if not len(rows["study_id"]):
            raise DataError(f"{table} has no row")
        _, first, study = np.unique(rows["study_id"], return_index=True, return_inverse=True)
        order = np.argsort(first[study], kind="stable")
        self._rows = {name: values[order] for name, values in rows.items()}
        changes = np.diff(self._rows["study_id"]) != 0
        self._starts = np.concatenate(([0], np.flatnonzero(changes) + 1, [len(order)]))
        self.splits = frozenset(SPLITS[number] for number in np.unique(rows["split"]))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[_Row]:
        for start, end in itertools.pairwise(self._starts.tolist()):
            dicoms, studies, subjects, splits = (
                values[start:end].tolist() for values in self._rows.values()
            )
            subject, study = subjects[0], studies[0]
            refusal = None
            if len(set(subjects)) > 1:
                refusal = f"in {self.table.name} its images are of several patients"
            elif len(set(splits)) > 1:
                refusal = f"{self.table.name} puts its images into several splits"
            elif len(set(dicoms)) < len(dicoms):
                refusal = f"{self.table.name} names one of its images twice"
            folder = files.study_folder(subject, study)
            yield _Row(
                id=f"s{study}",
                numbers=(subject, study),
                split=SPLITS[splits[0]],
                images=tuple(f"{folder}/{dicom.decode()}.jpg" for dicom in dicoms),
                refusal=refusal,
            )


class _AnnotatedRows:
    """The rows of R2Gen's annotation, one image each."""

    layout = "MIMIC-CXR with R2Gen's annotation"
    expected: Mapping[str, int] = {"train": 270_790, "val": 2_130, "test": 3_858}
    expected_images = expected
    needs_reports = False

    def __init__(self, table: Path) -> None:
        self.table = table
        studies, splits = array("q"), Counter[str]()
        for row in self:
            splits[row.split] += 1
            if row.numbers:
                studies.append(row.numbers[1])
        self._length = splits.total()
        self.splits = frozenset(splits)
        repeated = len(studies) - len(np.unique(np.frombuffer(studies, np.int64)))
        self.notes: tuple[str, ...] = (
            f"R2Gen's {ANNOTATION} decides which images there are and their split; --split "
            "official takes the official studies with all their images",
        )
        if repeated:
            self.notes += (
                f"{repeated} of {self._length} rows repeat the report of another row of their "
                "study under another image, as in the published scores",
            )

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[_Row]:
        for split, row in stream_annotation(self.table):
            match = _IMAGE_PATH.fullmatch(row["image_path"][0]) if row["image_path"] else None
            numbers = (int(match[1]), int(match[2])) if match else None
            yield _Row(
                id=f"s{numbers[1]}_{row['id']}" if numbers else row["id"],
                numbers=numbers,
                split=split,
                images=tuple(row["image_path"]),
                findings=row["report"],
            )


def _absent(kind: str) -> str:
    return f"{files.table_name(kind)} is missing ({files.JPG_HOME})"
