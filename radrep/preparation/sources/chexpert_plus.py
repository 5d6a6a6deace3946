"""CheXpert Plus (Chambon et al., 2024): one table of images and reports, and a tree of images.

    df_chexpert_plus_240401.csv                         one row per image: path, report, sections
    train/patient00001/study1/view1_frontal.png         also below PNG or PNGs, also JPEG or DICOM
    valid/patient64541/study1/view1_frontal.png
    annotation.json                                     optional: the splits of CXPMRG-Bench

The table calls every image .jpg; any ending is found. It is over 1 GB, and the rows of a study need
not follow one another, so it is read twice: first all but the texts, then, row by row, the texts.
"""

import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from radrep.data.study import PROJECTIONS, SPLITS, SourceStudy
from radrep.errors import DataError
from radrep.preparation.sources import tables
from radrep.preparation.sources.annotation import ANNOTATION, stream_annotation
from radrep.preparation.sources.base import Source, check_folder
from radrep.preparation.sources.cells import is_missing
from radrep.preparation.sources.find_raw import Download, refuse_outer
from radrep.preparation.sources.image_tree import describe_image, tree_image
from radrep.preparation.sources.table_text import text_notes

_TABLE = "df_chexpert_plus_240401.csv"
_HOME = "aimi.stanford.edu/datasets/chexpert-plus"
_SPLIT_CHOICES = ("official", "cxpmrg")
_TREES = (".", "PNG", "PNGs", "PNG/PNG", "JPG", "DICOM")
_PATH = re.compile(r"(?:[^/]+/)*(patient\d{1,9}/study\d{1,4})/[^/]{1,99}", re.ASCII)
_STUDY = re.compile(r"(patient\d{1,9})[/_-](study\d{1,4})(?!\d)", re.ASCII)
# Section by column.
_SECTIONS = {
    "section_findings": "findings",
    "section_impression": "impression",
    "section_clinical_history": "indication",
    "section_history": "indication",
    "section_comparison": "comparison",
    "section_technique": "technique",
}
_ORDER = "patient_report_date_order"  # not in every copy of the table
# Splits as bits, so that a study in several of them is noticed.
_BITS = {split: 1 << k for k, split in enumerate(SPLITS)}
_OFFICIAL_BITS = {"train": _BITS["train"], "valid": _BITS["val"]}

DOWNLOAD = Download(
    title="CheXpert Plus",
    names=re.compile("chexpert"),
    examples=("chexpert_plus", "CheXpert-Plus", "chexpertplus"),
    holds=lambda folder: (folder / _TABLE).is_file(),
    content=_TABLE,
)


class ChexpertPlusSource(Source):
    """The studies of CheXpert Plus, in the order of their reports in the table.

    A study is named by its folder, "patient64492/study1", and its patient "patient64492". Of the
    split "official" none is for testing; "cxpmrg" has the studies and splits of CXPMRG-Bench's
    annotation.json, and texts and images of the table all the same.
    """

    name = "chexpert_plus"
    # Of the official split only totals are published.
    expected_counts: Mapping[str, int] | None = {"all": 187_711}
    expected_images: Mapping[str, int] | None = {"all": 223_228}

    def __init__(self, raw: Path, split: str = "official") -> None:
        raw = Path(raw)
        if split not in _SPLIT_CHOICES:
            raise DataError(f"the split '{split}' is not one of {', '.join(_SPLIT_CHOICES)}")
        self._split = split
        check_folder(raw, f"the folder that holds CheXpert Plus ({_HOME})")
        self._table = raw / _TABLE
        if not self._table.is_file():
            refuse_outer(raw, DOWNLOAD)
            raise DataError(
                f"{raw} has no {_TABLE}, the table of reports of CheXpert Plus ({_HOME})"
            )
        if next(_stream_texts(self._table), None) is None:
            raise DataError(f"{self._table} has no row")
        _, first = next(tables.stream_cells(self._table))
        rows = tables.read_columns(
            self._table,
            {
                "path_to_image": tables.Column(_parse_path, "S"),
                "split": tables.Column(tables.one_of(_OFFICIAL_BITS), np.uint8),
                "frontal_lateral": tables.Column(tables.parse_projection, np.int8),
                "report": tables.Column(_checksum, np.uint32),
                **({_ORDER: tables.Column(_parse_order, np.int64)} if _ORDER in first else {}),
            },
        )
        self._paths, self._projections = rows["path_to_image"], rows["frontal_lateral"]
        self._order = rows.get(_ORDER, np.full(len(self._paths), -1))
        folders = (path.split(b"/")[-3:-1] for path in self._paths.tolist())
        studies = np.array([b"/".join(names) for names in folders], "S")
        self._ids, self._study_of_row = np.unique(studies, return_inverse=True)
        # The rows of a study stand side by side in `_rows`, from `_starts` on.
        self._rows = np.argsort(self._study_of_row, kind="stable")
        self._starts = np.searchsorted(
            self._study_of_row[self._rows], np.arange(len(self._ids) + 1)
        )
        # A study's texts stand in its first row with a report, or the first one if none has.
        checksums = rows["report"]
        order = np.lexsort((checksums == 0, self._study_of_row))
        self._text_rows = order[self._starts[:-1]]
        differs = (checksums != 0) & (checksums != checksums[self._text_rows][self._study_of_row])
        num_contradicting = len(np.unique(self._study_of_row[differs]))
        self._bits = np.zeros(len(self._ids), np.uint8)
        np.bitwise_or.at(self._bits, self._study_of_row, rows["split"])
        notes = text_notes(self._table)
        if num_contradicting:
            notes.append(
                f"studies with several reports, of which the first is used: {num_contradicting}"
            )
        if split == "cxpmrg":
            self._bits, crossing = _read_cxpmrg(raw / ANNOTATION, self._ids, self._bits)
            notes += crossing
            self.expected_counts = {"train": 40_463, "val": 5_780, "test": 11_562}
            self.expected_images = None
        else:
            notes.append("the official split has no study for testing")
        self.notes = tuple(notes)
        self.splits = frozenset(split for split, bit in _BITS.items() if (self._bits & bit).any())
        self._images = self._find_images(raw)
        self.layout = f"CheXpert Plus, split: {split}, images in {self._images}, {_TABLE}"

    def fingerprint(self, advance: Callable[[], None] = lambda: None) -> str:
        """A hash of the table, the annotation if used, and of names and sizes of images."""
        digest = hashlib.sha256(self._split.encode())
        digest.update(tables.hash_table(self._table))
        if self._split == "cxpmrg":
            digest.update(tables.hash_table(self._table.parent / ANNOTATION))
        known = set()
        for path, study in zip(self._paths, self._study_of_row.tolist(), strict=True):
            digest.update(describe_image(self._images, path.decode()).encode())
            if study not in known and self._bits[study]:
                advance()
            known.add(study)
        return digest.hexdigest()

    def __len__(self) -> int:
        return int(np.count_nonzero(self._bits))

    def __iter__(self) -> Iterator[SourceStudy]:
        for row, (_, texts) in enumerate(_stream_texts(self._table)):
            study = self._study_of_row[row]
            if self._text_rows[study] == row and self._bits[study]:
                yield self._make_study(study, *texts)

    def _make_study(self, study: int, report: str, *texts: str) -> SourceStudy:
        sections: dict[str, str] = {}
        for name, text in zip(_SECTIONS.values(), texts, strict=True):
            if text.strip():
                sections[name] = f"{sections.get(name, '')}\n{text.strip()}".strip()
        rows = self._rows[self._starts[study] : self._starts[study + 1]]
        paths = [path.decode() for path in self._paths[rows].tolist()]
        splits = [split for split, bit in _BITS.items() if self._bits[study] & bit]
        refusal = None
        if len(splits) > 1:
            refusal = f"it is in several splits: {', '.join(splits)}"
        elif len(set(paths)) < len(paths):
            refusal = f"{_TABLE} names one of its images twice"
        elif not sections and not report.strip():
            refusal = "no report"
        id = self._ids[study].decode()
        return SourceStudy(
            id=id,
            patient_id=id.partition("/")[0],
            split=splits[0],
            images=tuple(
                tree_image(self._images, path, PROJECTIONS[view])
                for path, view in zip(paths, self._projections[rows].tolist(), strict=True)
            ),
            sections=sections,
            report=report,
            refusal=refusal,
            order=order if (order := int(self._order[self._text_rows[study]])) >= 0 else None,
        )

    def _find_images(self, raw: Path) -> Path:
        trees = [raw / tree for tree in _TREES if (raw / tree).is_dir()]
        for path in self._paths.tolist():
            for tree in trees:
                if os.path.exists(tree / os.path.dirname(path.decode())):
                    return tree
        first = os.path.dirname(self._paths[0]).decode()
        raise DataError(
            f"{raw} has none of the images that {_TABLE} names; expected folders such as "
            f"{first} or PNG/{first} ({_HOME})"
        )


def _stream_texts(table: Path) -> Iterator[tuple[int, list[str]]]:
    needed = ("report", "section_findings", "section_impression")
    return tables.stream_rows(table, needed, tuple(_SECTIONS)[2:])


def _parse_order(text: str) -> int:  # -1 where it is not known
    return -1 if is_missing(text) else tables.parse_number(text)


def _parse_path(text: str) -> bytes:
    if not _PATH.fullmatch(text):
        raise ValueError("expected a path such as train/patient00001/study1/view1_frontal.jpg")
    return text.encode()


def _checksum(text: str) -> int:  # 0 if it is empty
    return zlib.crc32(text.strip().encode())


def _read_cxpmrg(
    annotation: Path, ids: np.ndarray, official: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """The splits of CXPMRG-Bench for studies with these ids, as bits, and notes on them."""
    if not annotation.is_file():
        raise DataError(
            f"{annotation} not found; the split 'cxpmrg' is CXPMRG-Bench's "
            "(github.com/Event-AHU/Medical_Image_Analysis, CXPMRG_Bench_MambaXray_VL)"
        )
    index = tables.Index(ids)
    bits = np.zeros(len(ids), np.uint8)
    num_unknown = num_repeated = 0
    for split, row in stream_annotation(annotation):
        matches = map(_STUDY.search, (*row["image_path"], row["id"]))
        names = ["/".join(match.groups()).encode() for match in matches if match]
        study = index.find(np.array(names[:1] or [b""], "S"))[0]
        if study < 0:
            num_unknown += 1
        else:
            num_repeated += bool(bits[study])
            bits[study] |= _BITS[split]
    if not bits.any():
        raise DataError(f"{annotation} names none of the studies of {_TABLE}")
    in_test = (bits & _BITS["test"]) > 0
    num_crossing = np.count_nonzero(in_test & ((official & _BITS["train"]) > 0))
    notes = [
        f"{num_crossing} of the {np.count_nonzero(in_test)} studies for testing are training "
        "studies of the official split: models trained on the official split have seen them"
    ]
    if num_repeated:
        notes.append(f"rows of {ANNOTATION} for a study that has one already: {num_repeated}")
    if num_unknown:
        notes.append(f"rows of {ANNOTATION} that name no study of {_TABLE}: {num_unknown}")
    return bits, notes
