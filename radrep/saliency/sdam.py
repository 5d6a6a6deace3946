"""SDAM: Grad-CAM maps of a discriminator, and the image under their mask."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from radrep.build import build_preprocess
from radrep.data.manifest import hash_file
from radrep.device import best_device
from radrep.errors import CheckpointError
from radrep.metrics.labeler import OBSERVATIONS
from radrep.models.discriminator import Discriminator
from radrep.recipe import models
from radrep.recipe.data import Saliency
from radrep.recipe.recipe import Recipe
from radrep.saliency.grad_cam import enlarge, grad_cam
from radrep.saliency.masks import aggregate_maps, make_mask, mask_image
from radrep.weights.checkpoint import Loaded, find_checkpoint, load_checkpoint, read_recipe
from radrep.weights.run_folder import WEIGHTS

# To be raised when the same discriminator would give other maps or masks than before.
_VERSION = 1
_HASH_SHOWN = 12


@dataclass(frozen=True)
class MaskSummary:
    """The labels, maps and mask of one image; mappings are by observation.

    Attributes:
        map: The combined map of all positive observations at the size of the image, uint8 (h, w);
            all 255 where the image is left unmasked.
        unmasked: No observation is predicted positive, or the combined map is empty.
    """

    probabilities: Mapping[str, float]
    thresholds: Mapping[str, float]  # above which an observation is predicted positive
    maps: Mapping[str, np.ndarray]  # Grad-CAM in [0, 1], (rows, columns)
    map: np.ndarray
    masked: np.ndarray  # the image under its mask, uint8 (h, w)
    unmasked: bool

    @property
    def predicted_positive(self) -> dict[str, float]:
        """Observations predicted positive, to their probability."""
        return {n: p for n, p in self.probabilities.items() if p > self.thresholds[n]}


class SaliencyMaker:
    """A discriminator, from `load_discriminator`, with the settings of the mask.

    It computes on the best device of the machine by default. Its `fingerprint` is a hash of
    everything that decides maps and masks.
    """

    def __init__(
        self, loaded: Loaded, section: Saliency, device: torch.device | None = None
    ) -> None:
        self.fingerprint = _fingerprint(loaded.folder, loaded.recipe, section)
        self._section = section
        self._device = device or best_device()
        self.model = cast(Discriminator, loaded.model).to(self._device)
        self._preprocess = build_preprocess(loaded.recipe.data, loaded.model)
        self._shift = self.model.backbone.measure_shift(loaded.recipe.data.image_size)

    @torch.no_grad()
    def summarize(self, image: np.ndarray, *, full_size: bool = False) -> MaskSummary:
        """Labels, maps (at the size of the image if asked) and mask of a prepared image (h, w).

        Images go through the model one by one, so that none can change the bits of another.
        """
        model = self.model
        pixels = self._preprocess.evaluate(image)[None].to(self._device)
        patches = model.backbone(pixels)  # (1, n, c)
        found = model.logits(patches)[0].float().sigmoid()
        maps = grad_cam(patches[0], model.classifier.weight, model.backbone.grid).cpu()
        positive = (found > model.thresholds).cpu()
        combined, masked = self._mask(image, maps[positive])
        if full_size:
            maps = self.enlarge(maps, image)
        return MaskSummary(
            probabilities=dict(zip(OBSERVATIONS, found.tolist(), strict=True)),
            thresholds=dict(zip(OBSERVATIONS, model.thresholds.tolist(), strict=True)),
            maps=dict(zip(OBSERVATIONS, maps.numpy(), strict=True)),
            map=np.full_like(image, 255) if combined is None else combined,
            masked=masked,
            unmasked=combined is None,
        )

    def enlarge(self, maps: torch.Tensor, image: np.ndarray) -> torch.Tensor:
        """Maps (k, rows, columns) at the size of an image, each cell at its receptive field."""
        height, width = image.shape
        return enlarge(maps, height, width, self._shift)

    def _mask(self, image: np.ndarray, maps: torch.Tensor) -> tuple[np.ndarray | None, np.ndarray]:
        """The combined map, uint8, and the masked image; None and the image for an empty mask."""
        if not maps.any():
            return None, image
        section = self._section
        combined = aggregate_maps(self.enlarge(maps, image), section.aggregate)
        mask = make_mask(combined, section.mask, section.threshold)
        if not mask.any():
            return None, image
        return (combined * 255).round().to(torch.uint8).numpy(), mask_image(image, mask)


def load_discriminator(section: Saliency) -> Loaded:
    """The checkpoint of a mask's discriminator; raise CheckpointError if it is of another model."""
    return load_checkpoint(_find_discriminator(section)[0])


def mask_fingerprint(section: Saliency) -> str:
    """A hash of the discriminator's weights and preprocessing and of the settings of the mask."""
    return _fingerprint(*_find_discriminator(section), section)


def _find_discriminator(section: Saliency) -> tuple[Path, Recipe]:
    try:
        folder = find_checkpoint(section.discriminator)
    except CheckpointError as error:
        raise CheckpointError(
            f"the discriminator of the masked images (data.saliency.discriminator): {error}"
        ) from error
    recipe = read_recipe(folder)
    if recipe.model.output != "labels":
        raise CheckpointError(
            f"{folder} is of the model {recipe.model.name} and no discriminator. Train one with: "
            "radrep train sdam_discriminator_cpu"
        )
    if recipe.model.encoder is not None:
        raise CheckpointError(
            f"{folder} classifies by an X-ray Mamba (model.encoder), and masks are made from the "
            "maps of a backbone. Train one with: radrep train sdam_discriminator_cpu"
        )
    return folder, recipe


def _fingerprint(folder: Path, recipe: Recipe, section: Saliency) -> str:
    backbone = cast(models.Discriminator, recipe.model).backbone
    # Named one by one: a key that a later radrep adds to recipes must not change old hashes.
    decides = {
        "version": _VERSION,
        "weights": hash_file(folder / WEIGHTS),
        "backbone": [backbone.name, backbone.stride],
        "image": [recipe.data.image_size, recipe.data.equalize_and_sharpen],
        "mask": [section.aggregate, section.mask],
        "threshold": section.threshold if section.mask == "hard" else None,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def check_mask_fingerprint(trained_with: str, now: str, checkpoint: Path) -> None:
    """Raise CheckpointError if a model was trained on masked images of another discriminator.

    `trained_with` is the fingerprint in its checkpoint, empty in an imported one, which fits any.
    """
    if trained_with not in ("", now):
        raise CheckpointError(
            f"{checkpoint} was trained on masked images of the discriminator "
            f"{trained_with[:_HASH_SHOWN]}, and this one is {now[:_HASH_SHOWN]}: it was trained "
            "again since, or it is another. Put the old one back, name it (radrep generate "
            "--discriminator), or train the report model again"
        )
