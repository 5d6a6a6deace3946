"""Arrow shards: rows written to one file, opened again mapped into memory; images as PNG in them.

`datasets.Dataset.from_file` opens a shard by itself. Neither writing nor reading holds more than a
few rows in memory.
"""

import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from radrep.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

SHARD_STUDIES = 512
# Rows written together: what the writer holds in memory.
_BATCH_ROWS = 16
# On radiographs, which are noise to zlib, runs alone pack as well as its full search (27.6 kB
# against 28.2 kB an image of 256 x 256) in a quarter of the time.
_PNG = {"compress_type": zlib.Z_RLE}


class ShardWriter:
    """Writes the rows of one shard; the file takes its name only when it is whole."""

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
        """Finish the shard and give it its name."""
        self._flush()
        self._stream.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self._path)

    def abandon(self) -> None:
        """Drop the unfinished shard."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def open_shards(paths: Sequence[Path]) -> "Dataset":
    """Shards as one data set, mapped into memory; DataError if one is missing or broken."""
    from datasets import Dataset, concatenate_datasets

    shards = []
    for path in paths:
        try:
            shards.append(Dataset.from_file(str(path)))
        except (OSError, ValueError) as error:  # Arrow's own errors are ValueErrors
            raise DataError(
                f"{path} cannot be read ({str(error).splitlines()[0]}). Check the whole folder "
                f"with: radrep data check {path.parent}"
            ) from error
    return concatenate_datasets(shards)


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels, uint8 (h, w), as a PNG file."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG", **_PNG)
    return encoded.getvalue()


def decode_png(file: bytes, study: str) -> np.ndarray:
    """The pixels of a PNG file of a study, uint8 (h, w); DataError if it is damaged."""
    try:
        return np.array(Image.open(io.BytesIO(file), formats=("PNG",)))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a broken PNG
        raise DataError(
            f"an image of study {study} is damaged ({error}). Find all damage with: "
            "radrep data check"
        ) from error
