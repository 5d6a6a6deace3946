"""Features of images from the cache, or computed now, all of them by one pass over the images."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

from radrep.atomic import cache_folder, locked, make_cache_folder, remove_tree
from radrep.data.preprocess import Preprocess
from radrep.progress import Reporter
from radrep.training.features.entry import (
    INDEX,
    FeatureStore,
    check_room,
    find_change,
    write_entries,
)
from radrep.training.features.image_pass import ImagePass, Pixels
from radrep.training.features.selected_images import SelectedImages
from radrep.training.parallel.work_blocks import SharedBlocks, count_processes

# Has the blocks that are missing made; given their pass, a label and what follows the work.
Share = Callable[[ImagePass, SharedBlocks, str, Reporter], None]


def share_over_processes(
    _images: ImagePass, blocks: SharedBlocks, label: str, reporter: Reporter
) -> None:
    """Have the processes that train together make blocks; one alone makes all of them."""
    blocks.share(label, reporter)


def cached_features(
    wanted: Mapping[nn.Module, Sequence[SelectedImages]],
    preprocess: Preprocess,
    *,
    device: torch.device,
    reporter: Reporter,
    share: Share | None = None,
) -> dict[nn.Module, FeatureStore]:
    """What encoders make of the images of the splits that each is wanted of.

    An encoder makes patches (v, n, c) of normalised pixels (v, 3, h, w), squashed, never cropped.
    Each split has an entry of the cache for each encoder; those that are missing are made together.
    Several processes share the images out, block by block, and one writes the files while the
    others wait for their locks; no collective of torch.distributed is held up. One process writes
    blocks where it is told how to `share` them: those that are there when it is stopped stay. What
    is in the cache is compared with its checksums and, where they differ, made again.

    Raises:
        DataError: If the disk has no room for them or an image cannot be read.
    """
    root = cache_folder() / "features"
    hashes = {encoder: _hash_encoder(encoder, preprocess) for encoder in wanted}
    folders: dict[nn.Module, list[Path]] = {encoder: [] for encoder in wanted}
    # Folds of one split share its entry.
    splits = {each.studies.split: each for of in wanted.values() for each in of}
    for name, selected in splits.items():
        entries = {
            root / _key(hashes[encoder], selected): encoder
            for encoder, of in wanted.items()
            if name in {each.studies.split for each in of}
        }
        made = _make_missing(entries, selected, preprocess, device, reporter, share)
        for folder, encoder in entries.items():
            folders[encoder].append(folder)
        if found := [str(folder) for folder in entries if folder not in made]:
            text = f"from the cache, {len(selected.places)} images of {name} ({', '.join(found)})"
            reporter.info("features", text)
    return {encoder: FeatureStore(of) for encoder, of in folders.items()}


def _make_missing(
    entries: Mapping[Path, nn.Module],
    selected: SelectedImages,
    preprocess: Preprocess,
    device: torch.device,
    reporter: Reporter,
    share: Share | None,
) -> list[Path]:
    """Make those of a split's entries that are missing or damaged; returns them."""
    keys, images = selected.places, Pixels.of(selected, preprocess)
    missing = [folder for folder in entries if find_change(folder, keys) is not None]
    if not missing:
        return []
    root, lock_folder = make_cache_folder("features"), make_cache_folder("locks")
    # In one order in all processes: two that hold one and wait for another would wait for ever.
    locks = [lock_folder / f"{folder.name}.lock" for folder in sorted(missing)]
    with _all_locked(locks):  # a damaged entry would end the sharing
        missing = [folder for folder in missing if _is_missing(folder, keys, reporter)]
    if not missing:
        return []
    together = ImagePass([entries[folder] for folder in missing], images, device)
    name = hashlib.sha256("".join(f.name for f in missing).encode()).hexdigest()[:24]
    # Of several entries the first one is finished last.
    shared = together.in_blocks(root / f".{name}.blocks", missing[0] / INDEX)
    if share is None and count_processes()[0] > 1:
        share = share_over_processes
    if share is not None:
        shared.folder.mkdir(parents=True, exist_ok=True)
        in_missing = sum(len(together.places(number)) for number in shared.missing())
        check_room(together.shapes, len(keys) + in_missing, root)
        share(together, shared, f"image features of {selected.studies.split}, in blocks", reporter)
    in_blocks = shared.folder.is_dir()  # of a command that was stopped, too
    with _all_locked(locks) as held:
        for folder in missing if held else ():
            for left in root.glob(f".{folder.name}.*.partial"):  # of a kill
                remove_tree(left)
        to_make = [folder for folder in missing if _is_missing(folder, keys, reporter)]
        if to_make:
            alone = ImagePass([entries[folder] for folder in to_make], images, device)
            rows = shared.read() if in_blocks and to_make == missing else alone.rows()
            write_entries(dict(zip(to_make, alone.shapes, strict=True)), rows, selected, reporter)
        if in_blocks:
            remove_tree(shared.folder)
    return to_make


@contextmanager
def _all_locked(locks: Sequence[Path]) -> Iterator[bool]:
    """Whether all are held: a disk may know no locks."""
    with ExitStack() as all_locks:
        held = [all_locks.enter_context(locked(lock)) for lock in locks]
        yield all(held)


def _is_missing(folder: Path, wanted: Iterable[str], reporter: Reporter) -> bool:
    """Whether an entry is to be made; a damaged one is removed. Called under its lock."""
    problem = find_change(folder, wanted)
    if problem:
        reporter.warn(f"{folder}: {problem}; the features are computed again")
        remove_tree(folder)
    return problem is not None


def _hash_encoder(encoder: nn.Module, preprocess: Preprocess) -> str:
    digest = hashlib.sha256(repr(preprocess).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _key(encoder_hash: str, selected: SelectedImages) -> str:
    """A hash of what decides the features: weights, preprocessing, masks and pixels."""
    wanted, masks = selected.places, selected.studies.masks
    parts = [encoder_hash, *wanted]
    if masks is not None and any(view.masked for _, view in wanted.values()):
        parts.insert(1, masks.fingerprint)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:24]
