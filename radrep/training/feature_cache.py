"""Features that a frozen encoder makes of each image, computed once and kept on disk.

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
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from radrep.atomic import atomic_dir, cache_folder, locked, make_cache_folder, remove_tree
from radrep.data.dataset import ModelStudies, leave_stopping_to_parent
from radrep.data.image_selection import ImageSelection, View
from radrep.data.manifest import hash_file, hash_record, verifies
from radrep.data.preprocess import Preprocess
from radrep.data.study import Image
from radrep.errors import DataError
from radrep.json_text import load_json
from radrep.parallel.processes import count_cores
from radrep.progress import Advance, Reporter
from radrep.training.parallel.work_blocks import SharedBlocks, count_processes
from radrep.weights.archive import BUNDLES

FEATURES = "features.npy"
INDEX = "index.json"
MODELS = {"language_models": "language model", BUNDLES: "bundle"}  # folders of the cache
_ADVICE = "Clear old ones with: radrep cache clear, or set RADREP_CACHE to a folder on another disk"
_BATCH = 16
_IN_FLIGHT = 8  # parts per core that wait to be written: memory stays flat
_WORKERS = 8
_BLOCK = 64 * _BATCH  # images that one of several processes takes at a time


@dataclass(frozen=True)
class CachedFeatures:
    """One entry of the cache, for showing: its folder, data and sizes, bytes on disk."""

    folder: Path
    about: dict[str, object]
    num_bytes: int


def list_cache() -> list[CachedFeatures]:
    """Every entry of features, oldest first."""
    found = []
    for folder in cache_folder().glob("features/*"):
        with suppress(OSError):  # it goes while this lists
            found.append((folder.stat().st_mtime, folder))
    return [CachedFeatures(each, _about(each), _num_bytes(each)) for _, each in sorted(found)]


def _about(folder: Path) -> dict[str, object]:
    try:
        about = load_json((folder / INDEX).read_bytes())["about"]
        return {"data": str(about["data"]), "images": about["images"]}
    except (OSError, ValueError, KeyError, TypeError):
        state = "unfinished" if folder.suffix == ".partial" else "cannot be read"
        return {"data": state, "images": None}


def list_models(name: str) -> list[tuple[Path, int]]:
    """The converted language models, or unpacked bundles, of the cache, with bytes on disk."""
    return [(p, _num_bytes(p)) for p in sorted(cache_folder().glob(f"{name}/*/"))]


def clear_cache() -> tuple[int, list[OSError]]:
    """Remove the whole cache; the bytes freed, and the errors of what could not be removed."""
    freed, errors = 0, list[OSError]()
    for name in ("features", *MODELS, "locks"):
        folder = cache_folder() / name
        before = _num_bytes(folder)
        errors += remove_tree(folder)
        freed += before - _num_bytes(folder)
    return freed, errors


def _num_bytes(folder: Path) -> int:
    num_bytes = 0
    for file in (folder, *folder.rglob("*")):
        with suppress(OSError):  # it goes while this counts, or is closed to us
            num_bytes += file.stat().st_size if file.is_file() else 0
    return num_bytes


_Place = tuple[int, View]  # a study's index, and which of its images


@dataclass(frozen=True)
class SelectedImages:
    """The images of a split that a model is given, found in one pass over its studies.

    A fold has the keys of its part, and the places of the whole split: folds share the features.
    """

    studies: ModelStudies  # of the split on disk
    keys: tuple[tuple[str, ...], ...]  # of each study's images; equal images have one key
    places: dict[str, _Place]
    ids: tuple[str, ...]  # of each study
    patients: tuple[str, ...]  # of each study; without one its own

    @classmethod
    def find(cls, studies: ModelStudies, selection: ImageSelection) -> "SelectedImages":
        """Select the images of every study."""
        whole, own = studies.whole_split(), set(studies.ids)
        keys: list[tuple[str, ...]] = []
        places: dict[str, _Place] = {}
        ids: list[str] = []
        patients: list[str] = []
        for index, study in enumerate(whole):
            views = selection.of(study)
            found = tuple(_row_key(study.images[view.number], view) for view in views)
            if study.id in own:
                keys.append(found)
                ids.append(study.id)
                patients.append(study.patient_id or f"study {study.id}")
            for key, view in zip(found, views, strict=True):
                places.setdefault(key, (index, view))
        places = dict(sorted(places.items()))
        return cls(whole, tuple(keys), places, tuple(ids), tuple(patients))


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
        return self.read(_row_key(image, view))

    def read(self, key: str) -> Tensor:
        """Patches by one of `SelectedImages.keys`, float32 (n, c)."""
        if not self._features:  # opened in the process that reads, not sent to it
            self._features = [np.load(f / FEATURES, mmap_mode="r") for f in self._folders]
        entry, row = self._rows[key]
        return torch.from_numpy(self._features[entry][row].astype(np.float32))


def cached_features(
    encoder: nn.Module,
    preprocess: Preprocess,
    splits: Iterable[SelectedImages],
    *,
    device: torch.device,
    reporter: Reporter,
) -> FeatureStore:
    """The features of the images that a model is given, from the cache or computed now.

    The encoder makes patches (v, n, c) of normalised pixels (v, 3, h, w), squashed, never cropped.
    Several processes share the images out, block by block, and one writes the file while the others
    wait for its lock; no collective of torch.distributed is held up. What is in the cache is
    compared with its checksums and, where they differ, made again.

    Raises:
        DataError: If the disk has no room for them or an image cannot be read.
    """
    root, folders = cache_folder() / "features", list[Path]()
    encoder_hash = _hash_encoder(encoder, preprocess)
    for selected in {split.studies.split: split for split in splits}.values():
        studies, wanted = selected.studies, selected.places
        folder = root / _key(encoder_hash, studies, wanted)
        folders.append(folder)
        missing = _find_change(folder, wanted) is not None
        if missing:
            make_cache_folder("features")
            lock = make_cache_folder("locks") / f"{folder.name}.lock"
            pixels = _Pixels(studies, list(wanted.values()), preprocess)
            blocks = _blocks(encoder, pixels, device, folder)
            several = count_processes()[0] > 1
            if several:
                with locked(lock):  # a damaged entry would end the sharing
                    missing = _is_missing(folder, wanted, reporter)
                if missing:
                    blocks.share(f"image features of {studies.split}, shared out", reporter)
            with locked(lock) as held:
                for left in root.glob(f".{folder.name}.*.partial") if held else ():  # of a kill
                    remove_tree(left)
                missing = _is_missing(folder, wanted, reporter)
                if missing:
                    patches = blocks.read() if several else _compute(encoder, pixels, device)
                    _write(patches, selected, folder, reporter)
                remove_tree(blocks.folder)
        if not missing:
            text = f"from the cache, {len(wanted)} images of {studies.split} ({folder})"
            reporter.info("features", text)
    return FeatureStore(folders)


def _is_missing(folder: Path, wanted: Iterable[str], reporter: Reporter) -> bool:
    """Whether an entry is to be made; a damaged one is removed. Called under its lock."""
    problem = _find_change(folder, wanted)
    if problem:
        reporter.warn(f"{folder}: {problem}; the features are computed again")
        remove_tree(folder)
    return problem is not None


def _find_change(folder: Path, wanted: Iterable[str]) -> str | None:
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


def _row_key(image: Image, view: View) -> str:
    return f"{image.sha256} masked" if view.masked else image.sha256


def _hash_encoder(encoder: nn.Module, preprocess: Preprocess) -> str:
    digest = hashlib.sha256(repr(preprocess).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _key(encoder_hash: str, studies: ModelStudies, wanted: Mapping[str, _Place]) -> str:
    """A hash of what decides the features: weights, preprocessing, masks and pixels."""
    parts = [encoder_hash, *wanted]
    if studies.masks is not None and any(view.masked for _, view in wanted.values()):
        parts.insert(1, studies.masks.fingerprint)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:24]


class _Pixels(Dataset[Tensor]):
    """Normalised, (3, h, w) each."""

    def __init__(
        self, studies: ModelStudies, places: Sequence[_Place], preprocess: Preprocess
    ) -> None:
        self._studies, self._places, self._preprocess = studies, places, preprocess

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Tensor:
        index, view = self._places[number]
        pixels = self._studies.read_view(index, view)
        return self._preprocess.evaluate(pixels, saliency=view.masked)


def _blocks(
    encoder: nn.Module, images: _Pixels, device: torch.device, folder: Path
) -> SharedBlocks:
    """The patches of the images in blocks beside an entry, (v, n, c) each."""

    def make(number: int) -> np.ndarray:
        places = images._places[number * _BLOCK :][:_BLOCK]
        part = _Pixels(images._studies, places, images._preprocess)
        return torch.cat([*_compute(encoder, part, device)][1:]).numpy()

    beside = folder.with_name(f".{folder.name}.blocks")
    return SharedBlocks(beside, -(-len(images) // _BLOCK), make, whole=folder / INDEX)


def _compute(
    encoder: nn.Module, images: _Pixels, device: torch.device
) -> Generator[Tensor, None, None]:
    """Patches of the images in order, float32 (v, n, c) each time; first of one, for its shape."""
    encoder.to(device).eval()

    @torch.no_grad()  # here, since it holds for one thread
    def encode(pixels: Tensor) -> Tensor:
        features: Tensor = encoder(pixels.to(device))
        return features.float().cpu()

    yield encode(images[0][None])  # for their shape
    on_device = _on_cpu if device.type == "cpu" else _on_gpu
    with closing(on_device(images, encode)) as blocks:
        yield from blocks


def _write(
    patches: Generator[Tensor, None, None],
    selected: SelectedImages,
    folder: Path,
    reporter: Reporter,
) -> None:
    studies, wanted = selected.studies, selected.places
    dtype = np.dtype(np.float32)  # as computed: in half precision training would differ
    with closing(patches):
        shape = (len(wanted), *next(patches).shape[1:])
        needed, free = dtype.itemsize * math.prod(shape), shutil.disk_usage(folder.parent).free
        if needed > free:
            raise DataError(
                f"the feature cache needs {needed / 1e9:.1f} GB and {folder.parent} has "
                f"{free / 1e9:.1f} GB free. {_ADVICE}"
            )
        try:
            with atomic_dir(folder) as partial:
                label = f"image features of {studies.split}"
                with reporter.progress(label, len(wanted), "images") as advance:
                    digest = _write_array(partial / FEATURES, patches, shape, advance)
                data = f"{studies.prepared}, {studies.split}"
                index: dict[str, object] = {
                    "about": {"data": data, "images": len(wanted), "patches": list(shape[1:])},
                    "rows": {key: row for row, key in enumerate(wanted)},
                    "features_sha256": digest,
                }
                index["sha256"] = hash_record(index)
                (partial / INDEX).write_text(json.dumps(index))
        except FileExistsError:  # on a disk without locks: another process was faster
            return
        except OSError as error:
            raise DataError(
                f"the feature cache cannot be written to {folder.parent}: {error.strerror}. "
                f"{_ADVICE}"
            ) from error


def _write_array(
    path: Path, patches: Iterable[Tensor], shape: tuple[int, ...], advance: Advance
) -> str:
    """Write blocks of float32 (v, n, c) as one .npy file of a shape; returns its SHA-256.

    Not into a mapped file: where the disk fills up that ends the process without a word.
    """
    digest, header = hashlib.sha256(), io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    with path.open("wb") as file:
        for block in chain([header.getbuffer()], _count(patches, advance)):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _count(patches: Iterable[Tensor], advance: Advance) -> Generator[memoryview, None, None]:
    for block in patches:
        yield np.ascontiguousarray(block.numpy(), np.dtype("<f4")).reshape(-1).view(np.uint8).data
        advance(len(block))


def _on_gpu(images: _Pixels, encode: Callable[[Tensor], Tensor]) -> Generator[Tensor, None, None]:
    """In order; worker processes decode ahead."""
    loader = DataLoader(
        images,
        batch_size=_BATCH,
        num_workers=min(_WORKERS, count_cores() - 1),
        worker_init_fn=leave_stopping_to_parent,
        pin_memory=torch.cuda.is_available(),
    )
    yield from map(encode, loader)


def _on_cpu(images: _Pixels, encode: Callable[[Tensor], Tensor]) -> Generator[Tensor, None, None]:
    """In order; each core has parts of its own: with small maps, cores that share one wait."""

    def encode_part(start: int) -> Tensor:
        return encode(torch.stack([images[i] for i in range(len(images))[start : start + _BATCH]]))

    before = torch.get_num_threads()
    cores = max(1, count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    starts, ahead = range(0, len(images), _BATCH), _IN_FLIGHT * cores
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for first in range(0, len(starts), ahead):
            yield from pool.map(encode_part, starts[first : first + ahead])
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
