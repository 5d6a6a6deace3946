"""Arrow shards: rows written to one file, opened again mapped into memory; images as PNG in them.

`datasets.Dataset.from_file` opens a shard by itself. Neither writing nor reading holds more than a
few rows in memory.
"""

import io
import os
import zlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from PIL import Image

from radrep.data.manifest import VERIFY, ShardRecord, hash_file, verifies
from radrep.errors import DataError
from radrep.parallel.processes import count_cores

if TYPE_CHECKING:
    from datasets import Dataset, Features

SHARD_STUDIES = 512
_MAX_PIXELS = 64 * 10**6  # of a prepared image, decoded at once; a film has at most 20 million
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
        # Its own name: a worker that was given up for lost may still write the same shard.
        self._partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
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


def open_shards(folder: Path, shards: Sequence[ShardRecord]) -> "Dataset":
    """Shards as one data set, mapped into memory once each is what was written.

    Places in them and texts are checked too: pyarrow follows a place that is a lie. Raises
    DataError if one is missing, broken or changed.
    """
    from datasets import Dataset, concatenate_datasets

    paths = [folder / shard.name for shard in shards]
    with ThreadPoolExecutor(count_cores()) as pool:
        problems = list(pool.map(_find_change, paths, shards))
    opened = []
    for path, problem in zip(paths, problems, strict=True):
        try:
            if not problem:
                opened.append(Dataset.from_file(str(path)))
                opened[-1].data.table.validate(full=True)
        # A broken file that is as its record has it raises whatever pyarrow and datasets meet.
        except Exception as error:
            problem = (str(error).splitlines() or [type(error).__name__])[0]
        if problem:
            raise DataError(
                f"{path} cannot be read ({problem}). Check the whole folder with: "
                f"radrep data check {folder}"
            )
    return concatenate_datasets(opened)


def find_misfit(
    table: Any,
    features: "Features",
    *,
    may_lack: Collection[str] = (),
    partly: Collection[str] = (),
) -> str:
    """Which column of an Arrow table is not as radrep writes it; "" for none.

    Nothing is missing but in the columns that `may_lack` something; of structs in those that are
    `partly` needed all but the first part may be missing.
    """
    import pyarrow

    def is_whole(chunk: Any, name: str) -> bool:
        if chunk.null_count and name not in may_lack:
            return False
        values = chunk.flatten() if pyarrow.types.is_list(chunk.type) else chunk
        parts = values.flatten() if pyarrow.types.is_struct(values.type) else []
        needed = parts[:1] if name in partly else parts
        whole = name in may_lack or not values.null_count
        return whole and not any(part.null_count for part in needed)

    for field in features.arrow_schema:
        if field.name not in table.column_names:
            continue
        column = table.column(field.name)
        if column.type != field.type:
            return f"{field.name} is of the type {column.type}"
        if not all(is_whole(chunk, field.name) for chunk in column.chunks):
            return f"{field.name} is missing for some"
    return ""


# Files that were found to be what was written: path, size, time of the last change, inode, SHA-256.
_verified: set[tuple[object, ...]] = set()


def _find_change(path: Path, shard: ShardRecord) -> str:
    """What is wrong with the file of a shard; each is read once in a process."""
    if not verifies():
        return ""
    try:
        stat = path.stat()
        stamp = (path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ino, shard.sha256)
        if stamp not in _verified:
            if hash_file(path) != shard.sha256:
                return f"it is not what was prepared, by its checksum; {VERIFY}=0 reads it as it is"
            _verified.add(stamp)
    except OSError as error:
        return str(error.strerror)
    return ""


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels, uint8 (h, w), as a PNG file."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG", **_PNG)
    return encoded.getvalue()


def decode_png(file: bytes, study: str) -> np.ndarray:
    """The pixels of a PNG file of a study, uint8 (h, w); DataError if it is damaged."""
    try:
        image = Image.open(io.BytesIO(file), formats=("PNG",))
        if image.mode != "L" or image.width * image.height > _MAX_PIXELS:
            size = f"{image.width} x {image.height} pixels of mode {image.mode}"
            raise ValueError(f"{size}, not grey ones of at most {_MAX_PIXELS / 1e6:.0f} million")
        return np.array(image)
    # What Pillow raises for a broken PNG and for one of very many pixels.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"an image of study {study} is damaged ({error}). Find all damage with: "
            "radrep data check"
        ) from error
