"""One entry of the cache on disk: what one encoder makes of the images of a split.

    features/KEY/features.npy   float32 (images, n, c)
    features/KEY/index.json     the row of each image; checksums of both, compared at use

An entry that is not what was written is made again.
"""

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radrep.atomic import atomic_dir
from radrep.data.image_selection import View
from radrep.data.manifest import hash_file, hash_record, verifies
from radrep.data.study import Image
from radrep.errors import DataError
from radrep.json_text import load_json
from radrep.progress import Reporter
from radrep.training.features.selected_images import SelectedImages, image_key

FEATURES = "features.npy"
INDEX = "index.json"
_ADVICE = "Clear old ones with: radrep cache clear, or set RADREP_CACHE to a folder on another disk"
_DTYPE = np.dtype("<f4")  # as computed: in half precision training would differ


class FeatureStore:
    """Reads cached patches by view; each split has an entry of the cache."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._rows: dict[str, tuple[int, int]] = {}
        for entry, folder in enumerate(folders):
            rows = load_json((folder / INDEX).read_bytes())["rows"]
            self._rows |= {key: (entry, row) for key, row in rows.items()}
        self._features: list[np.ndarray] = []

    def __call__(self, image: Image, view: View) -> Tensor:
        """Patches of an image, float32 (n, c)."""
        return self.read(image_key(image, view))

    def read(self, key: str) -> Tensor:
        """Patches by one of `SelectedImages.keys`, float32 (n, c)."""
        if not self._features:  # opened in the process that reads, not sent to it
            self._features = [np.load(f / FEATURES, mmap_mode="r") for f in self._folders]
        entry, row = self._rows[key]
        return torch.from_numpy(self._features[entry][row].astype(np.float32))


def find_change(folder: Path, wanted: Iterable[str]) -> str | None:
    """What is wrong with an entry, "" where there is none, None for a whole one."""
    if not os.path.lexists(folder):
        return ""
    try:
        index = load_json((folder / INDEX).read_bytes())
        if verifies() and index["sha256"] != hash_record(index):
            return f"its {INDEX} is not what was written, by its checksum"
        rows, shape = index["rows"], (index["about"]["images"], *index["about"]["patches"])
        if list(rows) != list(wanted) or list(rows.values()) != list(range(len(rows))):
            return f"its {INDEX} names other images"
        features = np.load(folder / FEATURES, mmap_mode="r")
        if features.shape != shape or features.dtype != np.float32:
            return f"its {FEATURES} has the shape {features.shape} and should have {shape}"
        if verifies() and hash_file(folder / FEATURES) != index["features_sha256"]:
            return f"its {FEATURES} is not what was written, by its checksum"
    except KeyError as error:  # as of an older radrep
        return f"its {INDEX} has no {error}"
    # What Numpy and json raise for broken files: EOFError of an empty one, AttributeError of lists.
    except (OSError, ValueError, TypeError, EOFError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return None


def check_room(shapes: Sequence[tuple[int, ...]], num_rows: int, folder: Path) -> None:
    """Raise DataError if the disk of a folder has no room for so many rows of the shapes."""
    needed = _DTYPE.itemsize * num_rows * sum(map(math.prod, shapes))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the feature cache needs {needed / 1e9:.1f} GB and {folder} has "
            f"{free / 1e9:.1f} GB free. {_ADVICE}"
        )


def write_entries(
    shapes: Mapping[Path, tuple[int, ...]],
    rows: Generator[Tensor, None, None],
    selected: SelectedImages,
    reporter: Reporter,
) -> None:
    """Write entries of the shapes (n, c), at once, from rows that hold them side by side.

    Raises:
        DataError: If the disk has no room for them.
    """
    num_images, parent = len(selected.places), next(iter(shapes)).parent
    sizes = [math.prod(shape) for shape in shapes.values()]
    check_room([*shapes.values()], num_images, parent)
    label = f"image features of {selected.studies.split}"
    try:
        with ExitStack() as whole:
            entries = [
                whole.enter_context(_new_entry(folder, shape, selected))
                for folder, shape in shapes.items()
            ]
            advance = whole.enter_context(reporter.progress(label, num_images, "images"))
            for block in whole.enter_context(closing(rows)):
                for write, part in zip(entries, block.split(sizes, dim=1), strict=True):
                    write(np.ascontiguousarray(part.numpy(), _DTYPE).reshape(-1).view(np.uint8))
                advance(len(block))
    except OSError as error:
        raise DataError(
            f"the feature cache cannot be written to {parent}: {error.strerror}. {_ADVICE}"
        ) from error


@contextmanager
def _new_entry(
    folder: Path, shape: tuple[int, ...], selected: SelectedImages
) -> Iterator[Callable[[np.ndarray], None]]:
    """Takes the bytes of the features from first to last, then writes the index.

    Not into a mapped file: where the disk fills up that ends the process without a word.
    """
    wanted, studies, digest = selected.places, selected.studies, hashlib.sha256()
    # On a disk without locks another process may be faster.
    with suppress(FileExistsError), atomic_dir(folder) as partial:
        with (partial / FEATURES).open("wb") as file:

            def write(content: np.ndarray) -> None:
                digest.update(content.data)
                file.write(content.data)

            described = {
                "descr": _DTYPE.str,
                "fortran_order": False,
                "shape": (len(wanted), *shape),
            }
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, described)
            write(np.frombuffer(header.getvalue(), np.uint8))
            yield write
        data = f"{studies.prepared}, {studies.split}"
        index: dict[str, object] = {
            "about": {"data": data, "images": len(wanted), "patches": list(shape)},
            "rows": {key: row for row, key in enumerate(wanted)},
            "features_sha256": digest.hexdigest(),
        }
        index["sha256"] = hash_record(index)
        (partial / INDEX).write_text(json.dumps(index))
