"""The studies of a prepared folder on disk: Arrow shards, a row a study, images as PNG files in it.

    OUT/train-00000.arrow   at most 512 studies of the split, in the source's order
    OUT/prepared.json       which shards there are, and more (radrep.preparation.folder)

A shard is mapped into memory and read where a row is asked for, so that neither preparing nor
training holds more than a few studies. `datasets.Dataset.from_file` opens one by itself.
"""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Picture

from radrep.data.selection import View
from radrep.data.study import Image, Study
from radrep.data.text import target_text
from radrep.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

    from radrep.data.saliency_store import SaliencyImages

PREPARED = "prepared.json"
SHARD_STUDIES = 512
# Rows that are put into the file together: what the writer holds in memory.
_BATCH_ROWS = 16
# On radiographs, which are noise to zlib, runs alone pack as well as its full search (27.6 kB
# against 28.2 kB an image of 256 x 256) in a quarter of the time.
_PNG = {"compress_type": zlib.Z_RLE}
_WITHOUT_PIXELS = (
    "id",
    "patient_id",
    "split",
    "source",
    "report",
    "sections",
    "labels",
    "names",
    "projections",
    "sha256",
    "difference_hashes",
)


@cache
def shard_features() -> "Features":
    """The columns of a shard."""
    # A second to import, which the processes that only resize images need not wait for.
    from datasets import Features, Image, List, Value

    text = Value("string")
    return Features(
        {
            "id": text,
            "patient_id": text,
            "split": text,
            "source": text,
            "report": text,
            "sections": List({"name": text, "text": text}),
            "labels": List({"name": text, "value": Value("int8")}),
            "images": List(Image(decode=False)),
            "names": List(text),
            "projections": List(text),
            "sha256": List(text),
            "difference_hashes": List(Value("binary")),
        }
    )


class ShardWriter:
    """Writes the rows of one shard; the file has its name only when it is whole.

    Args:
        path: The shard.
        features: Its columns.
    """

    def __init__(self, path: Path, features: "Features") -> None:
        import pyarrow

        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._schema = features.arrow_schema
        self._file = self._partial.open("wb")
        self._stream = pyarrow.ipc.new_stream(self._file, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        """Add a row, a value for each column."""
        self._rows.append(row)
        if len(self._rows) == _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            batch = pyarrow.RecordBatch.from_pylist(self._rows, schema=self._schema)
            self._stream.write_batch(batch)
            self._rows = []

    def close(self) -> None:
        """End the shard and give it its name."""
        self._flush()
        self._stream.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self._path)

    def abandon(self) -> None:
        """Leave the shard unfinished, as on any error."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def study_row(study: Study, files: Sequence[bytes], hashes: Sequence[bytes]) -> dict[str, Any]:
    """A study as a row of `shard_features`.

    Args:
        study: The study.
        files: The PNG file of each of its images.
        hashes: The difference hash of each, 32 bytes.
    """
    return {
        "id": _whole(study.id),
        "patient_id": None if study.patient_id is None else _whole(study.patient_id),
        "split": study.split,
        "source": study.source,
        "report": _whole(study.report),
        "sections": [{"name": _whole(k), "text": _whole(v)} for k, v in study.sections.items()],
        "labels": [{"name": _whole(k), "value": v} for k, v in study.labels.items()],
        "images": [{"bytes": file, "path": None} for file in files],
        "names": [_whole(image.name) for image in study.images],
        "projections": [image.projection for image in study.images],
        "sha256": [image.sha256 for image in study.images],
        "difference_hashes": list(hashes),
    }


def _whole(text: str) -> str:
    """The text with what is no character, half a surrogate pair, replaced by the mark for it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_shards(paths: Sequence[Path]) -> "Dataset":
    """Shards as one data set, mapped into memory.

    Raises:
        DataError: If one is missing or broken.
    """
    from datasets import Dataset, concatenate_datasets

    shards = []
    for path in paths:
        try:
            shards.append(Dataset.from_file(str(path)))
        except (OSError, ValueError) as error:  # Arrow's own errors are ValueErrors
            raise DataError(
                f"{path} cannot be read ({str(error).splitlines()[0]}). To see what else is: "
                f"radrep data check {path.parent}"
            ) from error
    return concatenate_datasets(shards)


class PreparedStudies(Sequence[Study]):
    """Studies of one split, read from disk when they are asked for.

    Args:
        prepared: The prepared folder.
        split: "train", "val" or "test": named by the caller, so that nothing opens the test split
            by accident.
        target: Only studies that have this text, see `target_text`; all of them, if not given.
        saliency: Their masked images, where a model is given them.

    Attributes:
        prepared: The prepared folder.
        split: The split.
        saliency: Their masked images, or None.
        shard_sizes: How many of the studies each shard has, in order.
        num_without_text: Studies left out for want of the text.

    Raises:
        DataError: If the folder is missing or broken, or the split has no study.
    """

    def __init__(
        self,
        prepared: Path,
        split: str,
        *,
        target: str | None = None,
        saliency: "SaliencyImages | None" = None,
    ) -> None:
        shards = [shard for shard in read_shards(prepared) if shard["split"] == split]
        if not shards:
            raise DataError(f"{prepared}: the split '{split}' has no study")
        self.prepared = prepared
        self.split = split
        self.saliency = saliency
        self._data = open_shards([prepared / shard["name"] for shard in shards])
        self._light = self._data.select_columns(list(_WITHOUT_PIXELS))
        ends = np.cumsum([shard["studies"] for shard in shards])
        if ends[-1] != len(self._data):
            raise DataError(
                f"{prepared}: the split '{split}' has {len(self._data)} studies and should have "
                f"{ends[-1]}; remove the folder and prepare it again"
            )
        self._rows = np.arange(len(self._data))
        if target is not None:
            texts = self._section_texts(target)
            self._rows = np.flatnonzero([bool(text) for text in texts])
        self.num_without_text = len(self._data) - len(self._rows)
        self.shard_sizes = np.diff(np.searchsorted(self._rows, ends), prepend=0).tolist()

    def _section_texts(self, target: str) -> Iterator[str]:
        sections = self._data.select_columns(["sections"])
        for rows in sections.iter(1000):
            for row in rows["sections"]:
                yield target_text(_named(row, "text"), target)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """A study, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _to_study(self._light[int(self._rows[index])])

    def read_images(self, index: int, max_views: int | None = None) -> list[np.ndarray]:
        """The images of a study, or the first few, as pixels, uint8 (h, w) each, black 0."""
        row = self._data[int(self._rows[index])]
        return [decode_image(image["bytes"], row["id"]) for image in row["images"][:max_views]]

    def read_views(self, index: int, views: Sequence[View]) -> list[np.ndarray]:
        """The pixels of some views of a study, bare or masked, uint8 (h, w) each.

        Raises:
            DataError: If a view is masked and the study has no masked image.
        """
        row = self._data[int(self._rows[index])]
        return [
            self._masked(row["id"]) if view.saliency
            else decode_image(row["images"][view.number]["bytes"], row["id"])
            for view in views
        ]  # fmt: skip

    def _masked(self, study: str) -> np.ndarray:
        if self.saliency is None:
            raise DataError(
                f"study {study} has no masked image here. Make them with: radrep prepare saliency "
                f"--data {self.prepared} --checkpoint RUN"
            )
        return self.saliency.masked(study)

    def texts(self, target: str) -> list[str]:
        """The raw text of every study, see `target_text`; that of a split fits into memory."""
        every = list(self._section_texts(target))
        return [every[row] for row in self._rows]


def read_shards(prepared: Path) -> list[dict[str, Any]]:
    """What a prepared folder's record says of its shards: name, split, studies, images, sha256.

    Raises:
        DataError: If there is no such folder or it was made by an older radrep.
    """
    path = prepared / PREPARED
    if not path.is_file():
        raise DataError(
            f"{path} not found. Make it with: radrep prepare, for example "
            f"radrep prepare iu --raw DIR --out {prepared}"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        shards = record["shards"]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{prepared} was prepared by an older radrep, or is not a prepared folder ({PREPARED} "
            "lists no shards). Remove it and prepare it again"
        ) from error
    return list(shards)


def encode_image(pixels: np.ndarray) -> bytes:
    """Pixels, uint8 (h, w), as a PNG file."""
    encoded = io.BytesIO()
    Picture.fromarray(pixels).save(encoded, format="PNG", **_PNG)
    return encoded.getvalue()


def decode_image(file: bytes, study: str) -> np.ndarray:
    """The pixels of a PNG file.

    Raises:
        DataError: If it is damaged.
    """
    try:
        return np.array(Picture.open(io.BytesIO(file), formats=("PNG",)))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a broken PNG
        raise DataError(
            f"an image of study {study} is damaged ({error}). What else is tells: radrep data check"
        ) from error


def _named(pairs: Sequence[Mapping[str, Any]], value: str) -> dict[str, Any]:
    return {pair["name"]: pair[value] for pair in pairs}


def _to_study(row: Mapping[str, Any]) -> Study:
    return Study(
        id=row["id"],
        patient_id=row["patient_id"],
        split=row["split"],
        images=tuple(
            Image(*image)
            for image in zip(row["names"], row["projections"], row["sha256"], strict=True)
        ),
        sections=_named(row["sections"], "text"),
        source=row["source"],
        report=row["report"],
        labels=_named(row["labels"], "value"),
    )
