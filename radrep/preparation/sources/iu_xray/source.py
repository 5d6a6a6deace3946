"""IU X-Ray (Open-i, Demner-Fushman et al., JAMIA 2016) in each of its layouts.

R2Gen      annotation.json, and images/<study>/<k>.png: the k-th image of the XML
Open-i     NLMCXR_png/*.png or NLMCXR_png.tgz, ecgen-radiology/*.xml or NLMCXR_reports.tgz
DICOM      NLMCXR_dcm/**/*.dcm or NLMCXR_dcm.tgz, with the same reports
Kaggle     images/images_normalized/*.dcm.png, indiana_reports.csv, indiana_projections.csv

Several may be in one folder. R2Gen's annotation, if there, then defines the studies, their splits,
images and findings, and the others add to it.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from radrep.data.study import SPLITS, SourceImage, SourceStudy
from radrep.errors import DataError
from radrep.preparation.sources.annotation import ANNOTATION, stream_annotation
from radrep.preparation.sources.base import Source, check_folder, split_by_hash
from radrep.preparation.sources.find_raw import Download, refuse_outer
from radrep.preparation.sources.image_tree import (
    DICOM_VERSION,
    describe_image,
    existing,
    found_image,
    locate,
)
from radrep.preparation.sources.iu_xray import images as iu_images
from radrep.preparation.sources.iu_xray import reports as iu_reports
from radrep.preparation.sources.table_text import text_notes
from radrep.preparation.sources.tables import hash_table
from radrep.progress import Reporter

_IMAGES_FOLDER = "images"
_TRAIN, _VAL = 0.7, 0.1  # R2Gen's shares of the studies
_REPORTS_WANTED = (
    "NLMCXR_reports.tgz of https://openi.nlm.nih.gov/faq, or Kaggle's indiana_reports.csv"
)
_IMAGES_WANTED = (
    "NLMCXR_png or NLMCXR_dcm, unpacked or as .tgz, of https://openi.nlm.nih.gov/faq, "
    "or Kaggle's images_normalized"
)

NUM_IMAGES = 7470  # of Open-i's whole collection

DOWNLOAD = Download(
    title="IU X-Ray",
    names=re.compile("iuxray|iucxr|openi|nlmcxr|indiana|chestxraysindiana"),
    examples=("iu_xray", "IU-Xray", "NLMCXR", "openi"),
    holds=lambda folder: (folder / ANNOTATION).is_file() or bool(iu_reports.report_files(folder)),
    holds_unnamed=lambda folder: bool(iu_reports.report_files(folder)),
    content=f"R2Gen's {ANNOTATION}, {iu_reports.XML_ARCHIVE} or {iu_reports.KAGGLE_REPORTS}",
)


class IuXraySource(Source):
    """The studies of an IU X-Ray folder.

    Without R2Gen's annotation: every report in the order of the numbers, its split drawn by a hash
    of the number. If the images are in an archive, `archive`, they are read after `unpack`.
    """

    name = "iu_xray"
    expected_counts: Mapping[str, int] | None = {"all": 3955}  # Open-i's
    expected_images: Mapping[str, int] | None = {"all": NUM_IMAGES}

    def __init__(self, raw: Path) -> None:
        self._raw = check_folder(Path(raw), "the folder that holds IU X-Ray")
        self._tables = iu_reports.report_files(self._raw)
        annotation = self._raw / ANNOTATION
        self._rows: list[tuple[str, dict[str, Any]]] | None = None
        if annotation.is_file():
            rows = stream_annotation(annotation)
            self._rows = sorted(rows, key=lambda pair: SPLITS.index(pair[0]))
            self.splits = frozenset(split for split, _ in self._rows)
            self.expected_counts = {"train": 2069, "val": 296, "test": 590}  # R2Gen's own
            self.expected_images = None  # no number is published
        elif not self._tables:
            raise _unrecognised(self._raw)
        self._reports = iu_reports.read_reports(self._tables)
        if self._rows is None and not any(r.sections for r in self._reports.values()):
            raise DataError(f"{self._raw} has no text of a report; add {_REPORTS_WANTED}")
        self.archive: Path | None = None
        self._files: Mapping[str, Path] = {}
        self._unpacked: Mapping[str, Path] = {}
        self._r2gen_images = self._raw / _IMAGES_FOLDER
        self._has_r2gen_images = any(
            os.path.isdir(self._r2gen_images / os.path.dirname(name))
            for _, row in self._rows or ()
            for name in row["image_path"][:1]
        )
        if not self._has_r2gen_images:
            self._find_images()
        self._kinds = sorted({iu_images.kind_of_file(path) for path in self._files.values()})
        names = [table.name for table in self._tables]
        if self._rows is not None:
            self._tables = [annotation, *self._tables]
        layout = [*self._kinds, *names]
        if self.archive:
            layout.insert(0, self.archive.name)
        if self._rows is not None:
            layout.insert(0, "R2Gen" if self._has_r2gen_images else f"R2Gen's {ANNOTATION}")
        self.layout = " + ".join(layout)
        self.notes = tuple(self._notes())

    def fingerprint(self, advance: Callable[[], None] = lambda: None) -> str:
        """A hash of the tables and of the names and sizes of the images."""
        digest = hashlib.sha256()
        for table in self._tables:
            files = sorted(table.glob("*.xml")) if table.is_dir() else [table]
            for file in files:
                digest.update(json.dumps([file.name, hash_table(file).hex()]).encode())
        for description in self._describe_images():
            digest.update(json.dumps(description).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._reports if self._rows is None else self._rows)

    def __iter__(self) -> Iterator[SourceStudy]:
        if self._rows is None:
            return (self._study(number) for number in self._reports)
        return (self._annotated(split, row) for split, row in self._rows)

    def unpack(
        self, scratch: Path, ids: Collection[str] | None = None, reporter: Reporter | None = None
    ) -> None:
        """Unpack the images of all or some studies into `scratch`, which the caller removes."""
        assert self.archive is not None, "there is an archive to unpack"
        only = None if ids is None else self._views_of(ids)
        total = NUM_IMAGES if only is None else len(only)
        label = f"unpack {self.archive.name}"
        with (reporter or Reporter()).progress(label, total, "images") as advance:
            self._unpacked = iu_images.unpack_images(self.archive, scratch, advance, only)

    def _views_of(self, ids: Collection[str]) -> set[str]:
        if self._rows is not None:
            rows = (row for _, row in self._rows if row["id"] in ids)
            return {view for row in rows for _, view in self._named_views(row) if view}
        chosen = (r.images for number, r in self._reports.items() if _id_of(number, r) in ids)
        return set().union(*chosen)

    def _named_views(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """The annotation's names of a study's images, each with Open-i's, "" if unknown."""
        report = self._reports.get(_report_number(row) or "", iu_reports.Report())
        # A report's id in R2Gen is the first image's name without its last part.
        views = report.images if row["id"] == _study_id(report.images) else ()
        numbered = {str(k): view for k, view in enumerate(views)}
        return [(name, numbered.get(Path(name).stem, "")) for name in row["image_path"]]

    def _annotated(self, split: str, row: Mapping[str, Any]) -> SourceStudy:
        number = _report_number(row)
        report = self._reports.get(number or "", iu_reports.Report())
        images = []
        for name, view in self._named_views(row):
            if self._has_r2gen_images:
                find = partial(_locate_within, self._r2gen_images, name)
                projection = report.projections.get(view, "unknown")
                images.append(found_image(name, find, projection))
            else:
                images.append(self._image(name, view, report))
        return SourceStudy(
            id=row["id"],
            patient_id=number,
            split=split,
            images=tuple(images),
            sections={**report.sections, "findings": row["report"]},
            report=report.text,
            labels=report.labels,
        )

    def _image(self, name: str, view: str, report: iu_reports.Report) -> SourceImage:
        packed = self.archive if not self._unpacked else None
        where = f"{self.archive or self._raw}, under any ending"
        if packed:
            where = f"{self._raw}: {packed.name} has to be unpacked first"
        path = self._files.get(view) or self._unpacked.get(view)
        find = partial(existing, path, f"{view or name} not found in {where}")
        image = found_image(name, find, report.projections.get(view, "unknown"))
        # The content of an archive is unknown before it is unpacked.
        return replace(image, find=None) if packed else image

    def _study(self, number: str) -> SourceStudy:
        report = self._reports[number]
        images = [
            image
            for image in report.images
            if image in self._files
            or image not in iu_reports.NOT_AT_KAGGLE
            or self._kinds != [iu_images.KAGGLE_IMAGES]
        ]
        refusal = report.problem or (None if images else "its report names no image")
        return SourceStudy(
            id=_id_of(number, report),
            patient_id=number,
            split=split_by_hash(number, _TRAIN, _VAL),
            images=tuple(self._image(image, image, report) for image in images),
            sections=report.sections,
            report=report.text,
            labels=report.labels,
            refusal=refusal,
        )

    def _find_images(self) -> None:
        self._files = iu_images.find_images(self._raw)
        archives = [
            path for name in iu_images.IMAGE_ARCHIVES if (path := self._raw / name).is_file()
        ]
        if (self._files or archives) and not self._tables:
            raise DataError(
                f"{self._raw} has R2Gen's {ANNOTATION} but images of Open-i or Kaggle; to match "
                f"them, add {_REPORTS_WANTED}"
            )
        if self._files:
            return
        if archives:
            self.archive = archives[0]
        elif self._rows is None:
            raise DataError(f"{self._raw} has reports but no images; add {_IMAGES_WANTED}")
        elif self._r2gen_images.is_dir():
            self._has_r2gen_images = True  # or none: each is then left out
        else:
            raise DataError(
                f"{self._raw} has {ANNOTATION} but no folder '{_IMAGES_FOLDER}' beside it, nor "
                f"{_IMAGES_WANTED}"
            )

    def _notes(self) -> Iterator[str]:
        if self._rows is None:
            yield (
                "The splits are drawn by report number, 70/10/20. They are not R2Gen's, so scores "
                f"are not comparable with published ones; R2Gen's {ANNOTATION} gives its splits."
            )
        for table in self._tables:
            yield from text_notes(table) if table.suffix == ".csv" else ()
        if self.archive:
            yield f"{self.archive.name} is unpacked first, which takes as much space again."
        if broken := [report.problem for report in self._reports.values() if report.problem]:
            yield f"{len(broken)} reports cannot be read, the first because {broken[0]}."
        named = {image for report in self._reports.values() for image in report.images}
        if unknown := self._files.keys() - named:
            yield f"{len(unknown)} images belong to no report and are not used."

    def _describe_images(self) -> Iterator[str]:
        if self.archive:
            dicom = f" {DICOM_VERSION}" if "dcm" in self.archive.name else ""
            yield describe_image(self._raw, self.archive.name) + dicom
        for image, path in sorted(self._files.items()):
            yield f"{image} {describe_image(path.parent, path.name)}"
        for _, row in (self._rows or ()) if self._has_r2gen_images else ():
            for name in row["image_path"]:
                yield describe_image(self._r2gen_images, name)


def _unrecognised(raw: Path) -> DataError:
    refuse_outer(raw, DOWNLOAD)
    archives = [name for name in iu_images.IMAGE_ARCHIVES if (raw / name).is_file()]
    if archives or iu_images.find_images(raw):
        return DataError(f"{raw} has images of IU X-Ray but no reports; add {_REPORTS_WANTED}")
    return DataError(
        f"{raw} is no IU X-Ray folder: expected R2Gen's {ANNOTATION} and images/<study>/<k>.png, "
        f"or {_REPORTS_WANTED}, together with {_IMAGES_WANTED}"
    )


def _study_id(images: tuple[str, ...]) -> str:  # R2Gen's
    return images[0].rpartition("-")[0] if images else ""


def _id_of(number: str, report: iu_reports.Report) -> str:
    return _study_id(report.images) or f"CXR{number}"


def _report_number(row: Mapping[str, Any]) -> str | None:
    # R2Gen's ids begin with the number of the report, which is also one patient's.
    match = re.match(r"CXR(\d+)_", row["id"])
    return match[1] if match else None


def _locate_within(images: Path, name: str) -> Path:
    path = locate(images, name)
    if not path.parent.resolve().is_relative_to(images.resolve()):
        raise DataError(f"{path} is behind a link that leads out of {images}; not read")
    return path
