"""What a frozen encoder makes of each image, computed once and kept on disk."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from radrep.atomic import atomic_dir, cache_folder
from radrep.data.dataset import ModelStudies
from radrep.data.preprocess import Preprocess
from radrep.data.selection import ImageSelection, View
from radrep.data.study import Image
from radrep.errors import DataError
from radrep.parallel import count_cores
from radrep.progress import Reporter

FEATURES = "features.npy"
INDEX = "index.json"
_BATCH = 16
_IN_FLIGHT = 8  # parts a core that wait to be written: memory stays flat


@dataclass(frozen=True)
class CachedFeatures:
    """One entry of the cache, for showing.

    Attributes:
        folder: Where it lies.
        about: Data and sizes as told when it was made.
        num_bytes: Its size.
    """

    folder: Path
    about: dict[str, object]
    num_bytes: int


def list_cache() -> list[CachedFeatures]:
    """Every entry of the cache, oldest first."""
    entries = []
    for index in sorted(cache_folder().glob(f"features/*/{INDEX}"), key=os.path.getmtime):
        folder = index.parent
        size = sum(file.stat().st_size for file in folder.iterdir())
        entries.append(CachedFeatures(folder, json.loads(index.read_text())["about"], size))
    return entries


def clear_cache() -> int:
    """Remove every entry; the number of bytes that this frees."""
    freed = sum(entry.num_bytes for entry in list_cache())
    shutil.rmtree(cache_folder() / "features", ignore_errors=True)
    return freed


class FeatureStore:
    """Reads cached patches by view.

    Args:
        folder: An entry of the cache.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: dict[str, int] = json.loads((folder / INDEX).read_text())["rows"]
        self._features: np.ndarray | None = None

    def __call__(self, image: Image, view: View) -> Tensor:
        """Patches of an image, float32 (n, c)."""
        if self._features is None:  # opened in the process that reads, not sent to it
            self._features = np.load(self._folder / FEATURES, mmap_mode="r")
        return torch.from_numpy(np.array(self._features[self._rows[_row_key(image, view)]]))


def cached_features(
    encoder: nn.Module,
    preprocess: Preprocess,
    splits: Iterable[ModelStudies],
    *,
    selection: ImageSelection,
    device: torch.device,
    reporter: Reporter,
) -> FeatureStore:
    """The features of the images that training is given, from the cache or computed now.

    Args:
        encoder: A frozen encoder, normalised pixels (v, 3, h, w) -> patches (v, n, c).
        preprocess: The preprocessing; images are squashed, never cropped at random.
        splits: The studies.
        selection: Which images of a study are given.
        device: Where the encoder computes.
        reporter: Who is told how it goes.

    Raises:
        DataError: If the disk has no room for them or an image cannot be read.
    """
    wanted: dict[str, _Place] = {}  # equal images once
    for studies in splits:
        for index, study in enumerate(studies):
            for view in selection.of(study):
                wanted.setdefault(
                    _row_key(study.images[view.number], view), _Place(studies, index, view)
                )
    wanted = dict(sorted(wanted.items()))
    maskers = {
        place.studies.masks.fingerprint
        for place in wanted.values()
        if place.view.masked and place.studies.masks is not None
    }
    folder = cache_folder() / "features" / _key(encoder, preprocess, [*maskers, *wanted])
    if not (folder / INDEX).is_file():
        _compute(encoder, preprocess, wanted, folder, device, reporter)
    else:
        reporter.info("features", f"from the cache, {len(wanted)} images ({folder})")
    return FeatureStore(folder)


@dataclass(frozen=True)
class _Place:
    """Where the pixels of a wanted image are read."""

    studies: ModelStudies
    index: int
    view: View

    def read(self, preprocess: Preprocess) -> Tensor:
        pixels = self.studies.read_view(self.index, self.view)
        return preprocess.evaluate(pixels, saliency=self.view.masked)


def _row_key(image: Image, view: View) -> str:
    return f"{image.sha256} masked" if view.masked else image.sha256


def _key(encoder: nn.Module, preprocess: Preprocess, wanted: Iterable[str]) -> str:
    """A hash of what decides the features: weights, preprocessing, masks and pixels."""
    digest = hashlib.sha256(repr(preprocess).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    for image in wanted:
        digest.update(image.encode())
    return digest.hexdigest()[:24]


def _compute(
    encoder: nn.Module,
    preprocess: Preprocess,
    wanted: Mapping[str, _Place],
    folder: Path,
    device: torch.device,
    reporter: Reporter,
) -> None:
    encoder.to(device).eval()

    @torch.no_grad()  # here, for it holds for one thread
    def encode(part: Sequence[_Place]) -> np.ndarray:
        pixels = [place.read(preprocess) for place in part]
        features: Tensor = encoder(torch.stack(pixels).to(device))
        return features.float().cpu().numpy()

    places = list(wanted.values())
    shape = (len(places), *encode(places[:1]).shape[1:])
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise DataError(
            f"the feature cache needs {needed / 1e9:.1f} GB and {folder.parent} has "
            f"{free / 1e9:.1f} GB free. Clear old entries with: radrep cache clear, or set "
            "RADREP_CACHE to a folder on another disk"
        )
    with atomic_dir(folder, replace=True) as partial:
        features = np.lib.format.open_memmap(
            partial / FEATURES, mode="w+", dtype=np.float32, shape=shape
        )
        with reporter.progress("image features", len(places), "images") as advance:
            parts = [places[i : i + _BATCH] for i in range(0, len(places), _BATCH)]
            start = 0
            with closing(_map_on(device, encode, parts)) as found:
                for block in found:
                    features[start : start + len(block)] = block
                    start += len(block)
                    advance(len(block))
        features.flush()
        data = str(places[0].studies.prepared)
        about = {"data": data, "images": len(places), "patches": list(shape[1:])}
        rows = {key: row for row, key in enumerate(wanted)}
        (partial / INDEX).write_text(json.dumps({"about": about, "rows": rows}))


def _map_on(
    device: torch.device,
    encode: Callable[[Sequence[_Place]], np.ndarray],
    parts: Sequence[Sequence[_Place]],
) -> Generator[np.ndarray, None, None]:
    """Encode the parts in order; on a CPU each core has a part of its own, from PNG to features.

    Small maps leave cores that share one image waiting for one another.
    """
    if device.type != "cpu":
        yield from map(encode, parts)
        return
    before = torch.get_num_threads()
    cores = count_cores()
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    ahead = _IN_FLIGHT * cores
    try:
        for start in range(0, len(parts), ahead):
            yield from pool.map(encode, parts[start : start + ahead])
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
