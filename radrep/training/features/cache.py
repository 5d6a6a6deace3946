"""Features of images from the cache, or computed now, all of them by one pass over the images."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from radrep.atomic import cache_folder, make_cache_folder
from radrep.data.preprocess import Preprocess
from radrep.progress import Reporter
from radrep.training.features.entry import Entry, FeatureStore, check_room
from radrep.training.features.image_pass import ImagePass, Pixels
from radrep.training.features.missing_blocks import MissingBlocks
from radrep.training.features.selected_images import SelectedImages

# Has blocks made elsewhere; given a label and what follows the work.
Share = Callable[[MissingBlocks, str, Reporter], None]


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
    Each split has an entry of the cache for each encoder; blocks that they lack are made together.
    Several processes share the blocks out, or have them made elsewhere with `share`; no collective
    of torch.distributed is held up. Blocks that are there when one is stopped stay. They are
    compared with their checksums, and those that differ are made again.

    Raises:
        DataError: If the disk has no room for them or an image cannot be read.
    """
    root = cache_folder() / "features"
    hashes = {encoder: _hash_encoder(encoder, preprocess) for encoder in wanted}
    folders: dict[nn.Module, dict[Path, SelectedImages]] = {encoder: {} for encoder in wanted}
    # Folds of one split share its entry.
    splits = {each.studies.split: each for of in wanted.values() for each in of}
    for name, selected in splits.items():
        entries = {
            Entry(root / _key(hashes[encoder], selected), len(selected.places)): encoder
            for encoder, of in wanted.items()
            if name in {each.studies.split for each in of}
        }
        missing = {entry: entry.find_missing(reporter) for entry in entries}
        if any(missing.values()):
            _make(missing, entries, Pixels.of(selected, preprocess), device, reporter, share)
        for entry, encoder in entries.items():
            entry.write_index(selected, reporter)
            folders[encoder][entry.folder] = selected
        if found := [str(entry.folder) for entry, numbers in missing.items() if not numbers]:
            text = f"from the cache, {len(selected.places)} images of {name} ({', '.join(found)})"
            reporter.info("features", text)
    return {encoder: FeatureStore(of) for encoder, of in folders.items()}


def _make(
    missing: Mapping[Entry, Sequence[int]],
    encoders: Mapping[Entry, nn.Module],
    images: Pixels,
    device: torch.device,
    reporter: Reporter,
    share: Share | None,
) -> None:
    """Make the blocks that entries of a split lack; those that lack the same ones together."""
    groups: dict[tuple[Entry, ...], list[int]] = {}
    for number in sorted({number for numbers in missing.values() for number in numbers}):
        lacking = tuple(entry for entry, numbers in missing.items() if number in numbers)
        groups.setdefault(lacking, []).append(number)
    together = [
        MissingBlocks(
            numbers, entries, ImagePass([encoders[entry] for entry in entries], images, device)
        )
        for entries, numbers in groups.items()
    ]
    check_room(sum(blocks.num_bytes for blocks in together), make_cache_folder("features"))
    label = f"image features of {images.studies.split}"
    for blocks in together:
        if share is not None:
            share(blocks, f"{label}, by workers", reporter)
        blocks.make(label, reporter)


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
