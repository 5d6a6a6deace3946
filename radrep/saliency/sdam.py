"""SDAM: where a discriminator looks in an image, and whose masks a recipe takes."""

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
from radrep.data.saliency_store import FOLDER, SaliencyImages
from radrep.device import best_device
from radrep.errors import CheckpointError, DataError
from radrep.metrics.labeler import OBSERVATIONS
from radrep.models.discriminator import Discriminator
from radrep.recipe.data import Data, Saliency
from radrep.recipe.load import load_recipe
from radrep.saliency.grad_cam import enlarge, grad_cam
from radrep.saliency.masks import aggregate_maps, make_mask, mask_image
from radrep.weights.checkpoint import RECIPE, find_checkpoint, load_checkpoint
from radrep.weights.pretrained import WEIGHTS

# To be raised when the same discriminator would give other maps or masks than before.
_VERSION = 1
_HASH_SHOWN = 12


@dataclass(frozen=True)
class MaskSummary:
    """What a discriminator finds in one image and where it looks for it.

    Attributes:
        probabilities: By observation.
        thresholds: Above which an observation is called present.
        maps: Observation to its Grad-CAM in [0, 1], (rows, columns).
        map: The map of all that fired at the size of the image, uint8 (h, w), 255 the most; all
            255 where the whole image is kept.
        masked: The image under its mask, uint8 (h, w).
        unmasked: Nothing fired, or no place speaks for what did.
    """

    probabilities: Mapping[str, float]
    thresholds: Mapping[str, float]
    maps: Mapping[str, np.ndarray]
    map: np.ndarray
    masked: np.ndarray
    unmasked: bool

    @property
    def predicted_positive(self) -> dict[str, float]:
        """Observations called present, to their probability."""
        return {
            name: probability
            for name, probability in self.probabilities.items()
            if probability > self.thresholds[name]
        }


class SaliencyMaker:
    """A discriminator with the settings of the mask.

    Args:
        section: Which discriminator, and how its maps become a mask.
        device: Where it computes; the best device of the machine, if not given.

    Attributes:
        model: The discriminator, in evaluation mode.
        fingerprint: Hash of everything that decides maps and masks.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is of another model.
    """

    def __init__(self, section: Saliency, device: torch.device | None = None) -> None:
        self.fingerprint = mask_fingerprint(section)
        loaded = load_checkpoint(find_checkpoint(section.discriminator))
        self._section = section
        self._device = device or best_device()
        self.model = cast(Discriminator, loaded.model).to(self._device)  # by its recipe
        self._preprocess = build_preprocess(loaded.recipe.data, loaded.model)
        self._shift = self.model.backbone.measure_shift(loaded.recipe.data.image_size)

    @torch.no_grad()
    def look(self, image: np.ndarray) -> MaskSummary:
        """Look at one image, by itself, so that no other can change a bit of what comes out.

        Args:
            image: Prepared pixels, uint8 (h, w).
        """
        model = self.model
        pixels = self._preprocess.evaluate(image)[None].to(self._device)
        patches = model.backbone(pixels)  # (1, n, c)
        found = model.logits(patches)[0].float().sigmoid()
        maps = grad_cam(patches[0], model.classifier.weight, model.backbone.grid).cpu()
        fired = (found > model.thresholds).cpu()
        whole, masked = self._mask(image, maps[fired])
        return MaskSummary(
            probabilities=dict(zip(OBSERVATIONS, found.tolist(), strict=True)),
            thresholds=dict(zip(OBSERVATIONS, model.thresholds.tolist(), strict=True)),
            maps=dict(zip(OBSERVATIONS, maps.numpy(), strict=True)),
            map=np.full_like(image, 255) if whole is None else whole,
            masked=image if whole is None else masked,
            unmasked=whole is None,
        )

    def enlarge(self, maps: torch.Tensor, image: np.ndarray) -> torch.Tensor:
        """Maps (k, rows, columns) at the size of an image, where the discriminator looks."""
        height, width = image.shape
        return enlarge(maps, height, width, self._shift)

    def _mask(self, image: np.ndarray, maps: torch.Tensor) -> tuple[np.ndarray | None, np.ndarray]:
        """The map of all, uint8, and the masked image; None where no place is kept."""
        if not maps.any():
            return None, image
        section = self._section
        map_ = aggregate_maps(self.enlarge(maps, image), section.aggregate)
        mask = make_mask(map_, section.mask, section.threshold)
        if not mask.any():
            return None, image
        return (map_ * 255).round().to(torch.uint8).numpy(), mask_image(image, mask)


def mask_fingerprint(section: Saliency) -> str:
    """A hash of the discriminator's weights and preprocessing and of the settings of the mask.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is of another model.
    """
    try:
        folder = find_checkpoint(section.discriminator)
    except CheckpointError as error:
        raise CheckpointError(
            f"the discriminator of the masked images (data.saliency.discriminator): {error}"
        ) from error
    if not (folder / RECIPE).is_file():
        raise CheckpointError(f"{folder} is not a radrep checkpoint: it has no {RECIPE}")
    recipe = load_recipe(str(folder / RECIPE))
    if recipe.model.output != "labels":
        raise CheckpointError(
            f"{folder} is of the model {recipe.model.name} and no discriminator. Train one with: "
            "radrep train sdam_discriminator_cpu"
        )
    backbone = recipe.model.backbone
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


def open_saliency(data: Data, split: str, made_by: str = "") -> SaliencyImages | None:
    """The masked images that a recipe names, None where it names none.

    Args:
        data: The recipe's data.
        split: "train", "val" or "test".
        made_by: Fingerprint of what made them, which a trained model remembers; that of the
            discriminator as it is now, if not given.

    Raises:
        DataError: If nobody made them, or they are broken.
        CheckpointError: If the discriminator is asked for and cannot be had.
    """
    if data.images == "views" or data.saliency is None:
        return None
    fingerprint = made_by or mask_fingerprint(data.saliency)
    folder = saliency_folder(data.prepared, fingerprint)
    if made_by and not folder.is_dir() and mask_fingerprint(data.saliency) != made_by:
        raise DataError(
            f"{data.prepared} has no masked images by the discriminator {folder.name}, on whose "
            f"masks the model was trained, and {data.saliency.discriminator} is another one now"
        )
    if not folder.is_dir():
        section = data.saliency
        options = "".join(
            f" --{name} {getattr(section, name)}"
            for name, field in Saliency.model_fields.items()
            if name != "discriminator" and getattr(section, name) != field.default
        )
        raise DataError(
            f"{data.prepared} has no masked images by {section.discriminator} as it is now. Make "
            f"them with: radrep prepare saliency --data {data.prepared} --checkpoint "
            f"{section.discriminator}{options}"
        )
    return SaliencyImages(folder, split, fingerprint)


def check_mask_fingerprint(trained_with: str, now: str, checkpoint: Path) -> None:
    """Refuse masked images of another discriminator than a model was trained with.

    Args:
        trained_with: Fingerprint that the checkpoint remembers; an imported one has none, and
            takes what its recipe names.
        now: Fingerprint of the masked images that it is to be given.
        checkpoint: The checkpoint.

    Raises:
        CheckpointError: If they differ.
    """
    if trained_with not in ("", now):
        raise CheckpointError(
            f"{checkpoint} was trained on masked images of the discriminator "
            f"{trained_with[:_HASH_SHOWN]}, and this one is {now[:_HASH_SHOWN]}: it was trained "
            "again since, or it is another. Put the old one back, name it (radrep generate "
            "--discriminator), or train the report model again"
        )


def saliency_folder(prepared: Path, fingerprint: str) -> Path:
    """Where the masked images of a prepared folder lie, by what made them."""
    return prepared / FOLDER / fingerprint[:_HASH_SHOWN]
