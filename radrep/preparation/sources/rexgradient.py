"""ReXGradient-160K (Zhang et al., 2025), as its repository on the Hugging Face hub has it.

    metadata/train_metadata_view_position.json     {"<id>": {"PatientID", "StudyDate", "ImagePath",
    metadata/valid_metadata_view_position.json       "ImageViewPosition", "Indication",
    metadata/test_metadata_view_position.json        "Comparison", "Findings", "Impression"}, ...}
    deid_png/**/*.png                              unpacked from deid_png.part00, part01, ...

An ImagePath is "../deid_png/PATIENT/ACCESSION/studies/.../instances/SOP.png".
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from radrep.data.study import SourceStudy, projection_of
from radrep.errors import DataError
from radrep.preparation.sources.base import Source, check_folder
from radrep.preparation.sources.cells import is_missing
from radrep.preparation.sources.find_raw import Download, refuse_outer
from radrep.preparation.sources.folder.json_rows import read_rows
from radrep.preparation.sources.image_tree import describe_image, tree_image
from radrep.preparation.sources.tables import hash_table

_HOME = "huggingface.co/datasets/rajpurkarlab/ReXGradient-160K"
_SPLITS = {"train": "train", "valid": "val", "test": "test"}
_ENDING = "_metadata_view_position.json"
_PLACES = ("metadata", ".", "download/metadata")
_IMAGES = "deid_png"
_SECTIONS = ("Findings", "Impression", "Indication", "Comparison")
_DATE = re.compile(r"\d{8}")


def _tables(folder: Path) -> dict[str, Path]:
    """The metadata files of a folder by split."""
    found = {}
    for name, split in _SPLITS.items():
        paths = (folder / place / f"{name}{_ENDING}" for place in _PLACES)
        if path := next((path for path in paths if path.is_file()), None):
            found[split] = path
    return found


DOWNLOAD = Download(
    title="ReXGradient-160K",
    names=re.compile("rexgradient"),
    examples=("ReXGradient-160K", "ReXGradient", "rexgradient"),
    holds=lambda folder: bool(_tables(folder)),
    content=f"metadata/train{_ENDING}",
)


class RexGradientSource(Source):
    """The studies of ReXGradient-160K, split by split, in the order of the metadata.

    A study has the key of its metadata as its name, and the date of the study is its order.
    """

    name = "rexgradient"
    expected_counts: Mapping[str, int] | None = {"train": 140_000, "val": 10_000, "test": 10_000}
    expected_images: Mapping[str, int] | None = {"train": 238_968, "val": 17_007, "test": 17_029}

    def __init__(self, raw: Path) -> None:
        raw = Path(raw)
        check_folder(raw, f"the folder that holds ReXGradient-160K ({_HOME})")
        self._tables = _tables(raw)
        if not self._tables:
            refuse_outer(raw, DOWNLOAD)
            raise DataError(f"{raw} has no {DOWNLOAD.content} of ReXGradient-160K ({_HOME})")
        self._images = raw
        if not (raw / _IMAGES).is_dir():
            packed = " and deid_png.part00, ...: unpack them" if any(raw.glob("*.part*")) else ""
            raise DataError(
                f"{raw} has no folder {_IMAGES} with the images{packed}. {_HOME} describes how "
                "they are unpacked"
            )
        missing = [split for split in _SPLITS.values() if split not in self._tables]
        self.notes = tuple(f"no metadata of the split {split}" for split in missing)
        self.splits = frozenset(self._tables)
        self._counts = {split: sum(1 for _ in self._rows(split)) for split in self._tables}
        if empty := [self._tables[split] for split, count in self._counts.items() if not count]:
            raise DataError(f"{empty[0]} has no study")
        self.layout = f"ReXGradient-160K, {', '.join(p.name for p in self._tables.values())}"

    def fingerprint(self, advance: Callable[[], None] = lambda: None) -> str:
        """A hash of the metadata and of the names and sizes of the images."""
        digest = hashlib.sha256()
        for split, table in self._tables.items():
            digest.update(hash_table(table))
            for _, row in self._rows(split):
                for path in _image_paths(row):
                    digest.update(describe_image(self._images, path).encode())
                advance()
        return digest.hexdigest()

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __iter__(self) -> Iterator[SourceStudy]:
        for split in self._tables:
            for id_, row in self._rows(split):
                yield self._study(id_, row, split)

    def _rows(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        table = self._tables[split]
        for place, row in read_rows(table):
            id_ = row.get("key")
            if not isinstance(id_, str) or not id_.strip():
                raise DataError(f"{table}, row {place}: expected an object of studies by their id")
            yield id_, row

    def _study(self, id_: str, row: Mapping[str, Any], split: str) -> SourceStudy:
        texts = {name.lower(): _text(row.get(name)) for name in _SECTIONS}
        paths, views = _image_paths(row), row.get("ImageViewPosition")
        if not isinstance(views, list) or len(views) != len(paths):
            views = [""] * len(paths)
        date = str(row.get("StudyDate", ""))
        return SourceStudy(
            id=id_,
            patient_id=_text(row.get("PatientID")) or None,
            split=split,
            images=tuple(
                tree_image(self._images, path, _projection(str(view)))
                for path, view in zip(paths, views, strict=True)
            ),
            sections={name: text for name, text in texts.items() if text},
            refusal=None if paths else "its metadata name no image",
            order=int(date) if _DATE.fullmatch(date) else None,
        )


def _image_paths(row: Mapping[str, Any]) -> list[str]:
    """The images of a study, below the folder of the download."""
    paths = row.get("ImagePath")
    named = paths if isinstance(paths, list) else []
    return [path.removeprefix("../") for path in named if isinstance(path, str)]


def _projection(view: str) -> str:
    """Of "PA", "LATERAL", "AP (KUB)", ..., and of "POSTERO_ANTERIOR" and "ANTERO_POSTERIOR"."""
    return projection_of(view.replace("O_", "O"))


def _text(value: object) -> str:
    text = value.strip() if isinstance(value, str) else ""
    return "" if is_missing(text) else text
