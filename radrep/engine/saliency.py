"""SDAM: the maps and masked images of a prepared folder, and those of a new image."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radrep.data.saliency_store import (
    FOLDER,
    SaliencyImage,
    SaliencyImages,
    saliency_features,
    saliency_row,
)
from radrep.data.store import PreparedStudies, ShardWriter, hash_file, open_shards, read_shards
from radrep.data.study import SPLITS
from radrep.data.views import View, masked_view
from radrep.engine.build import build_preprocess
from radrep.engine.checkpoint import RECIPE, find_checkpoint, load_checkpoint
from radrep.engine.encoder_weights import WEIGHTS
from radrep.engine.generate import best_device
from radrep.engine.prepared_folder import (
    Shard,
    finish,
    hash_recipe,
    partial_folder,
    read_done,
    read_finished,
    read_record,
)
from radrep.engine.reporter import Advance, Reporter
from radrep.errors import CheckpointError, DataError
from radrep.metrics.findings import OBSERVATIONS
from radrep.recipe import schema
from radrep.recipe.load import load_recipe
from radrep.recipe.schema import Data, Saliency
from radrep.report.saliency_sheet import SaliencyStudy, draw_saliency_sheet
from radrep.saliency.discriminator import Discriminator
from radrep.saliency.grad_cam import enlarge, grad_cam
from radrep.saliency.masks import aggregate_maps, make_mask, mask_image

CONTACT_SHEET = "contact_sheet.png"
# To be raised when the same discriminator would give other maps or masks than before.
_VERSION = 1
_HASH_SHOWN = 12
_SHEET_STUDIES = 12
_NOWHERE = "no place speaks for them: the whole image is kept"


@dataclass(frozen=True)
class SaliencyLook:
    """What a discriminator finds in one image and where it looks for it.

    Attributes:
        probabilities: By observation.
        thresholds: Above which an observation is called present.
        maps: Observation to its Grad-CAM in [0, 1], (rows, columns).
        map: The map of all that fired at the size of the image, uint8 (h, w), 255 the most; all
            255 where the whole image is kept.
        masked: The image under its mask, uint8 (h, w).
        kept_whole: Nothing fired, or no place speaks for what did.
    """

    probabilities: Mapping[str, float]
    thresholds: Mapping[str, float]
    maps: Mapping[str, np.ndarray]
    map: np.ndarray
    masked: np.ndarray
    kept_whole: bool

    @property
    def fired(self) -> dict[str, float]:
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
        self.fingerprint = hash_maker(section)
        loaded = load_checkpoint(find_checkpoint(section.discriminator))
        assert isinstance(loaded.model, Discriminator), "its recipe says so"
        self._section = section
        self._device = device or best_device()
        self.model = loaded.model.to(self._device)
        self._preprocess = build_preprocess(loaded.recipe.data, loaded.model)
        self._shift = loaded.model.backbone.measure_shift(loaded.recipe.data.image_size)

    @torch.no_grad()
    def look(self, image: np.ndarray) -> SaliencyLook:
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
        return SaliencyLook(
            probabilities=dict(zip(OBSERVATIONS, found.tolist(), strict=True)),
            thresholds=dict(zip(OBSERVATIONS, model.thresholds.tolist(), strict=True)),
            maps=dict(zip(OBSERVATIONS, maps.numpy(), strict=True)),
            map=np.full_like(image, 255) if whole is None else whole,
            masked=image if whole is None else masked,
            kept_whole=whole is None,
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


@dataclass(frozen=True)
class SaliencyResult:
    """What `prepare_saliency` made.

    Attributes:
        folder: Where it lies.
        counts: Studies by split.
        not_fired: Those of them in which no label fired, so that the whole image is kept.
        no_place: Those in which labels fired for which no place speaks, kept whole too.
        fired: Observation to the number of studies in which it fired.
        sheet: The contact sheet.
        already_done: It was there before and nothing was done.
    """

    folder: Path
    counts: Mapping[str, int]
    not_fired: int
    no_place: int
    fired: Mapping[str, int]
    sheet: Path
    already_done: bool


def hash_maker(section: Saliency) -> str:
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
    if not isinstance(recipe.model, schema.Discriminator):
        raise CheckpointError(
            f"{folder} is of the model {recipe.model.name} and no discriminator. Train one with: "
            "radrep train sdam_discriminator_cpu"
        )
    # Named one by one: a key that a later radrep adds to recipes must not change old hashes.
    decides = {
        "version": _VERSION,
        "weights": hash_file(folder / WEIGHTS),
        "backbone": [recipe.model.backbone.name, recipe.model.backbone.stride],
        "image": [recipe.data.image_size, recipe.data.published],
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
    if data.pair == "views" or data.saliency is None:
        return None
    fingerprint = made_by or hash_maker(data.saliency)
    folder = _folder(data.prepared, fingerprint)
    if made_by and not folder.is_dir() and hash_maker(data.saliency) != made_by:
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


def check_maker(trained_with: str, now: str, checkpoint: Path) -> None:
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


def _folder(prepared: Path, fingerprint: str) -> Path:
    return prepared / FOLDER / fingerprint[:_HASH_SHOWN]


def prepare_saliency(
    prepared: Path,
    section: Saliency,
    *,
    label_maps: bool = False,
    reporter: Reporter | None = None,
) -> SaliencyResult:
    """Make the map and the masked image of every study of a prepared folder.

    Of each study the first frontal image is masked, or else its first. A run that was stopped goes
    on behind the last shard that it finished. Maps of several discriminators, and several settings
    of the mask, lie side by side.

    Args:
        prepared: The folder.
        section: Which discriminator, and how its maps become a mask.
        label_maps: Keep the map of each label that fired too.
        reporter: Who is told how it goes.

    Raises:
        DataError: If the folder is missing or broken, or another process is doing the same.
        CheckpointError: If the discriminator cannot be had.
    """
    reporter = reporter or Reporter()
    maker = SaliencyMaker(section)
    target = _folder(prepared.resolve(), maker.fingerprint)
    source = read_record(prepared)
    recipe = {
        "fingerprint": maker.fingerprint,
        "prepared": source["recipe_sha256"],
        "label_maps": label_maps,
        **section.model_dump(mode="json", exclude={"discriminator"}),
    }
    if target.exists() and any(target.iterdir()):
        made = read_record(target)["recipe"]
        if label_maps and made.get("label_maps") is False:
            raise DataError(
                f"{target} was made without the maps of single labels. Remove it to make them too"
            )
        recipe["label_maps"] = made.get("label_maps")  # those that nobody asked for do no harm
        record = read_finished(target, recipe)
        assert record is not None, "it is not empty"
        return _result(target, record, already_done=True)
    with partial_folder(target, recipe) as partial:
        done = read_done(partial)
        if done:
            reporter.fact("resume", f"{len(done)} shards are done already ({partial})")
        left = [row for row in source["shards"] if not _is_done(row["name"], done)]
        num_left = sum(row["studies"] for row in left)
        with reporter.progress("saliency", num_left, "images") as advance:
            for split in SPLITS:
                if any(row["split"] == split for row in source["shards"]):
                    _write_split(prepared, split, maker, partial, done, advance, label_maps)
        shards = sorted(done.values(), key=lambda shard: (SPLITS.index(shard.split), shard.index))
        record = _describe(partial, shards, recipe, section)
        finish(partial, record, shards)
        _draw_sheet(prepared, partial, maker.fingerprint, section)
    return _result(target, record, already_done=False)


def _is_done(name: str, done: Mapping[tuple[str, int], Shard]) -> bool:
    return any(shard.name == name for shard in done.values())


def _write_split(
    prepared: Path,
    split: str,
    maker: SaliencyMaker,
    partial: Path,
    done: dict[tuple[str, int], Shard],
    advance: Advance,
    label_maps: bool,
) -> None:
    """Write the shards of a split that are not done yet; each is noted as soon as it is whole."""
    studies = PreparedStudies(prepared, split)
    start, count, first = time.monotonic(), 0, 0
    for number, size in enumerate(studies.shard_sizes):
        indices = range(first, first + size)
        first += size
        if (split, number) in done:
            continue
        shard = Shard(split, number)
        writer = ShardWriter(partial / shard.name, saliency_features())
        try:
            for index in indices:
                writer.write(saliency_row(_make(studies, index, maker, label_maps)))
                count += 1
                advance(note=f"{count / max(time.monotonic() - start, 1e-9):.0f} images/s")
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        shard.studies = shard.images = shard.planned = size
        shard.finish(partial)
        done[split, number] = shard


def _make(
    studies: PreparedStudies, index: int, maker: SaliencyMaker, label_maps: bool
) -> SaliencyImage:
    study = studies[index]
    number = masked_view(study)
    (pixels,) = studies.read_views(index, [View(number)])
    look = maker.look(pixels)
    kept = {}
    if label_maps:
        for name in look.fired:
            large = maker.enlarge(torch.from_numpy(look.maps[name])[None], pixels)[0]
            kept[name] = (large * 255).round().to(torch.uint8).numpy()
    return SaliencyImage(
        study=study.id,
        number=number,
        map=look.map,
        masked=look.masked,
        labels=look.fired,
        kept_whole=look.kept_whole,
        label_maps=kept,
    )


def _describe(
    partial: Path, shards: list[Shard], recipe: Mapping[str, object], section: Saliency
) -> dict[str, object]:
    """The record of a complete folder."""
    not_fired, no_place, fired = 0, 0, dict.fromkeys(OBSERVATIONS, 0)
    counts = {split: sum(s.studies for s in shards if s.split == split) for split in SPLITS}
    rows = open_shards([partial / shard.name for shard in shards])
    for row in rows.select_columns(["labels", "kept_whole"]):  # shards of an earlier run too
        not_fired += not row["labels"]
        no_place += bool(row["labels"]) and row["kept_whole"]
        for label in row["labels"]:
            fired[label["name"]] += 1
    return {
        "recipe": recipe,
        "recipe_sha256": hash_recipe(recipe),
        "discriminator": str(section.discriminator),
        "counts": counts,
        "image_counts": counts,
        "num_left_out": 0,
        "not_fired": not_fired,
        "no_place": no_place,
        "fired": fired,
    }


def _draw_sheet(prepared: Path, folder: Path, fingerprint: str, section: Saliency) -> None:
    """Draw some studies of the first split that has any."""
    split = next(shard["split"] for shard in read_shards(folder))
    studies, made = PreparedStudies(prepared, split), SaliencyImages(folder, split, fingerprint)
    count = min(_SHEET_STUDIES, len(studies))
    chosen = np.sort(np.random.default_rng(0).choice(len(studies), count, replace=False))
    shown = []
    for index in map(int, chosen):
        saliency = made.read(studies[index].id)
        (pixels,) = studies.read_views(index, [View(saliency.number)])
        shown.append(
            SaliencyStudy(
                id=saliency.study,
                image=pixels,
                map=saliency.map,
                masked=saliency.masked,
                labels=saliency.labels,
                projection=studies[index].images[saliency.number].projection,
                note=_NOWHERE if saliency.kept_whole and saliency.labels else "",
            )
        )
    told = f"{section.aggregate} of the labels' maps, {section.mask} mask"
    if section.mask == "hard":
        told += f" from {section.threshold:g}"
    title = f"{prepared.resolve().name}, {split}: {count} of {len(studies)} studies; {told}"
    draw_saliency_sheet(shown, title).save(folder / CONTACT_SHEET)


def _result(folder: Path, record: Mapping[str, Any], *, already_done: bool) -> SaliencyResult:
    return SaliencyResult(
        folder=folder,
        counts=record["counts"],
        not_fired=record["not_fired"],
        no_place=record["no_place"],
        fired=record["fired"],
        sheet=folder / CONTACT_SHEET,
        already_done=already_done,
    )
