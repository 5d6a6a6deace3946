"""One entry of the cache on disk: what one encoder makes of the images of a split.

    features/KEY/000000.npy         float32 (BLOCK, n, c), of the first images; fewer in the last
    features/KEY/000000.npy.sha256  its hash, written after it, as sha256sum does
    features/KEY/index.json         the row of each image and the hash of each block, written last

A block is there once its hash is. One that is not what was written is made again, it alone.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor

from radrep.atomic import atomic_file, atomic_write_text, locked, make_folder
from radrep.data.image_selection import View
from radrep.data.manifest import hash_file, verifies
from radrep.data.study import Image
from radrep.errors import DataError
from radrep.json_text import load_json
from radrep.progress import Reporter
from radrep.training.features.selected_images import SelectedImages, image_key

# Images of a block. Who needs blocks that another process has begun waits for so many each: a
# second or two on a CPU. Each costs some flushes of the disk, so with fewer they would be felt.
BLOCK = 128
INDEX = "index.json"
_ADVICE = "Clear old ones with: radrep cache clear, or set RADREP_CACHE to a folder on another disk"
_DTYPE = np.dtype("<f4")  # as computed: in half precision training would differ
_OLDER = "features.npy"  # the one file of an older radrep's entry
_MAPPED = 256  # blocks at a time; each keeps a file open, of which a process may have 1,024
_MANY = 10_000  # images whose checksums take seconds
_SHOWN = 3  # damaged blocks that a warning names


class FeatureStore:
    """Reads cached patches by view; each split has an entry of the cache."""

    def __init__(self, splits: Mapping[Path, SelectedImages]) -> None:
        self._folders = tuple(splits)
        self._rows = {
            key: (entry, *divmod(row, BLOCK))
            for entry, selected in enumerate(splits.values())
            for row, key in enumerate(selected.places)
        }
        self._blocks: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, image: Image, view: View) -> Tensor:
        """Patches of an image, float32 (n, c)."""
        return self.read(image_key(image, view))

    def read(self, key: str) -> Tensor:
        """Patches by one of `SelectedImages.keys`, float32 (n, c)."""
        entry, number, row = self._rows[key]
        block = self._blocks.get((entry, number))
        if block is None:  # mapped in the process that reads, not sent to it
            if len(self._blocks) == _MAPPED:
                del self._blocks[next(iter(self._blocks))]
            block = self._blocks[entry, number] = self._map(entry, number)
        return torch.from_numpy(block[row].astype(np.float32))

    def _map(self, entry: int, number: int) -> np.ndarray:
        file = self._folders[entry] / block_name(number)
        try:
            block: np.ndarray = np.load(file, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(
                f"{file} was there when this began and cannot be read now ({error}). Was the cache "
                "cleared meanwhile? Run the command again: what is missing is computed again"
            ) from error
        return block


@dataclass(frozen=True, order=True)
class Entry:
    """The folder of an entry, for so many images."""

    folder: Path
    num_images: int
    block_size: int = field(default_factory=lambda: BLOCK)  # goes to workers with it

    @property
    def numbers(self) -> range:
        """Those of its blocks."""
        return range(-(-self.num_images // self.block_size))

    def find_missing(self, reporter: Reporter) -> list[int]:
        """The numbers of blocks that are to be made; a warning names those that are damaged."""
        for older in (self.folder / _OLDER, self.folder):
            if older.is_file():
                text = "is no block of features, of an older radrep perhaps"
                reporter.warn(f"{older} {text}; the features are computed again")
                with suppress(OSError):  # of several processes one removes it
                    older.unlink()
        damaged = self._remove_damaged(reporter)
        missing = [number for number in self.numbers if not self.has(number)]
        if damaged:
            named = "; ".join([*damaged[:_SHOWN], *["..."] * (len(damaged) > _SHOWN)])
            again = f"computed again, {len(damaged)} of {len(self.numbers)} blocks"
            reporter.warn(f"{self.folder}: {again}: {named}")
        if missing and self.folder.is_dir():
            with self._write_errors():
                (self.folder / INDEX).unlink(missing_ok=True)  # it is no longer of these blocks
        return missing

    def _remove_damaged(self, reporter: Reporter) -> list[str]:
        """Which blocks are no longer there, since they were not what was written, and why."""
        damaged = []
        with ExitStack() as stack:
            if verifies() and self.num_images >= _MANY:
                label = "checksums of cached features"
                bar = reporter.progress(label, len(self.numbers), "blocks")
                advance = stack.enter_context(bar)
            else:
                advance = None
            for number in self.numbers:
                if self._find_damage(number):
                    # Another process may have made it again.
                    with self.alone(block_name(number)), self._write_errors():
                        if damage := self._find_damage(number):
                            damaged.append(f"{block_name(number)} {damage}")
                            self._hash_file(number).unlink(missing_ok=True)
                if advance is not None:
                    advance()
        return damaged

    def has(self, number: int) -> bool:
        """Whether a block is there."""
        return self._hash_file(number).is_file()

    def _find_damage(self, number: int) -> str:
        """What is wrong with a block that is there."""
        if not self.has(number):
            return ""
        file = self.folder / block_name(number)
        try:
            block = np.lib.format.open_memmap(file, mode="r")
            if block.shape[:1] != (len(self.images(number)),) or block.dtype != _DTYPE:
                return f"has the shape {block.shape}"
            sha256, _ = self._hash_file(number).read_text().split()
            if verifies() and hash_file(file) != sha256:
                return "is not what was written, by its checksum"
        except (OSError, ValueError) as error:
            return f"cannot be read ({error})"
        return ""

    def images(self, number: int) -> range:
        """Those of a block."""
        return range(self.num_images)[number * self.block_size :][: self.block_size]

    @contextmanager
    def alone(self, name: str, *, timeout: float = -1) -> Iterator[None]:
        """Hold the lock of a file to be written; filelock.Timeout where another process does.

        It is free when its process ends; what a kill left of the file is removed.
        """
        lock = self.folder / f"{name}.lock"
        with ExitStack() as held:
            with self._write_errors():
                make_folder(self.folder)
                is_held = held.enter_context(locked(lock, timeout=timeout))
                if is_held and os.name == "posix":  # elsewhere an open file cannot be removed
                    held.callback(lock.unlink, missing_ok=True)
                for left in self.folder.glob(f".{name}*.partial") if is_held else ():
                    left.unlink(missing_ok=True)
            yield

    def write(self, number: int, rows: np.ndarray) -> None:
        """Write a block that is not there, float32 (v, n, c); DataError if the disk has no room.

        Not into a mapped file: where the disk fills up that ends the process without a word.
        """
        block, header = np.ascontiguousarray(rows, _DTYPE), io.BytesIO()
        described = np.lib.format.header_data_from_array_1_0(block)
        np.lib.format.write_array_header_1_0(header, described)
        digest = hashlib.sha256(header.getvalue())
        digest.update(block.data)
        file = self.folder / block_name(number)
        with self._write_errors():
            with atomic_file(file) as partial, partial.open("wb") as opened:
                opened.write(header.getvalue())
                opened.write(block.data)
            atomic_write_text(self._hash_file(number), f"{digest.hexdigest()}  {file.name}\n")

    def write_index(self, selected: SelectedImages, reporter: Reporter) -> None:
        """Write the index of an entry that has all blocks, unless it is there.

        The data that it names stay: copies of them, and other paths to them, share the entry.
        """
        file, studies = self.folder / INDEX, selected.studies
        about = {"data": f"{studies.prepared}, {studies.split}", "images": self.num_images}
        rows = {key: row for row, key in enumerate(selected.places)}
        with self._write_errors():
            hashes = [self._hash_file(number).read_text().split()[0] for number in self.numbers]
            index = {"about": about, "rows": rows, "blocks": hashes}
            found = _read(file)
            if found is not None and found | {"about": about} == index:
                return
        with self.alone(INDEX), self._write_errors():
            if found is not None:
                reporter.warn(f"{file} is not what was written; it is written again")
            atomic_write_text(file, json.dumps(index))

    def _hash_file(self, number: int) -> Path:
        return self.folder / f"{block_name(number)}.sha256"

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except Timeout:
            raise
        except OSError as error:
            raise DataError(
                f"the feature cache cannot be written to {self.folder}: {error.strerror}. {_ADVICE}"
            ) from error


def check_room(num_bytes: int, folder: Path) -> None:
    """Raise DataError if the disk of a folder has no room for so much."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise DataError(
            f"the feature cache needs {num_bytes / 1e9:.1f} GB and {folder} has "
            f"{free / 1e9:.1f} GB free. {_ADVICE}"
        )


def block_name(number: int) -> str:
    """The file of a block in the folder of its entry."""
    return f"{number:06d}.npy"


def _read(file: Path) -> dict[str, object] | None:
    """None for a file that is not there; nothing of one that is damaged."""
    try:
        return dict(load_json(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return {}
