"""Initial weights: an X-ray Mamba of an earlier stage or an imported one, adapters."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from radrep.atomic import atomic_dir
from radrep.errors import CheckpointError
from radrep.models.base import TrainableModel
from radrep.models.csr_lmca import CsrLmca
from radrep.models.discriminator import Discriminator
from radrep.modules.backbone import Backbone
from radrep.modules.low_rank import LowRankUpdate
from radrep.progress import Reporter
from radrep.recipe import models as schema
from radrep.recipe.load import load_recipe
from radrep.recipe.recipe import Recipe
from radrep.weights.archive import is_bundle, unpack
from radrep.weights.files import read_weights, write_checksums, write_weights
from radrep.weights.run_folder import RECIPE, WEIGHTS, best_checkpoint

if TYPE_CHECKING:  # transformers and timm take seconds to import
    from radrep.models.contrastive import ContrastivePretraining
    from radrep.models.emrrg import Emrrg
    from radrep.models.xray_mamba import XrayMamba

ABOUT = "about.json"  # the source of weights that were imported or merged
ADAPTERS = ".adapters."
BACKBONE = "backbone."
ENCODER = "encoder."


def check_state_dict(
    state: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    title: str,
    *,
    needed: Collection[str] | None = None,
) -> None:
    """Raise CheckpointError, with the title first, if weights do not fit our state.

    The names that are `needed` must be there, by default all of ours.
    """
    missing = sorted((ours if needed is None else needed) - state.keys())
    unknown = sorted(state.keys() - ours.keys())
    wrong = sorted(n for n in ours.keys() & state.keys() if ours[n].shape != state[n].shape)
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{title}: {len(missing)} tensors are missing, {len(unknown)} unexpected, {len(wrong)} "
            f"of another shape; the first: {(missing + unknown + wrong)[0]}"
        )


def check_pretrained(recipe: Recipe) -> None:
    """Raise CheckpointError where a backbone, an encoder or adapters to start from are missing."""
    start = recipe.model.starting_weights
    for source in start.backbone:
        _backbone_file(source, _folds_option(recipe))
    if start.encoder is not None:
        _weights_file(start.encoder)
    if start.adapters is not None:
        read_adapters(start.adapters)


def load_pretrained(model: TrainableModel, recipe: Recipe) -> None:
    """Fill a new model with the backbone, encoder and adapters that its recipe starts from."""
    start = recipe.model.starting_weights
    if start.backbone:
        backbone = cast(CsrLmca | Discriminator, model).backbone
        load_backbone(backbone, start.backbone, _folds_option(recipe))
    if start.encoder is not None:
        load_encoder(
            cast("Emrrg | ContrastivePretraining | Discriminator", model).encoder, start.encoder
        )
    if start.adapters is not None:
        load_adapters(cast("Emrrg", model), start.adapters)


def _folds_option(recipe: Recipe) -> str:
    """The option that a discriminator to start from is trained with."""
    return "" if recipe.data.fold is None else f" --folds {recipe.data.fold.of}"


def load_backbone(backbone: Backbone, sources: Sequence[Path], folds: str = "") -> None:
    """Fill a backbone from runs or checkpoints of discriminators, averaged; raise CheckpointError.

    `folds` is the option that a discriminator is trained with.
    """
    states = [_read_backbone(backbone, source, folds) for source in sources]
    if len(sources) > 1:
        _check_kin(sources)
    first = states[0]
    fixed = {n for n, p in first.items() if not p.is_floating_point()}  # counts of batches
    backbone.load_state_dict(
        {
            name: tensor
            if name in fixed
            else torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
            for name, tensor in first.items()
        }
    )


def _backbone_file(source: Path, folds: str) -> Path:
    if file := _find_weights(source):
        return file
    raise CheckpointError(
        f"model.backbone.weights: {source} is neither a run nor a checkpoint with {WEIGHTS}; "
        f"train one with: radrep train sdam_discriminator_cpu{folds}"
    )


def _read_backbone(backbone: Backbone, source: Path, folds: str) -> dict[str, Tensor]:
    file = _backbone_file(source, folds)
    state = {
        name.removeprefix(BACKBONE): tensor
        for name, tensor in read_weights(file)[0].items()
        if name.startswith(BACKBONE)
    }
    title = f"model.backbone.weights: {file} is of another backbone than model.backbone describes"
    check_state_dict(state, backbone.state_dict(), title)
    return state


def _check_kin(sources: Sequence[Path]) -> None:
    """Raise CheckpointError where an average means nothing: not all are of one starting point."""
    kinds = {}
    for source in sources:
        model = load_recipe(str(_weights_file(source).with_name(RECIPE))).model
        kinds[source] = cast(schema.Discriminator, model).backbone
    one, *others = kinds.items()
    for source, kind in [one, *others]:
        if kind.weights == "none" or kind != one[1]:
            raise CheckpointError(
                "model.backbone.weights: an average needs runs that started from the same weights: "
                f"{one[0]} from {one[1].weights}, {source} from {kind.weights}, with "
                f"frozen_stages {one[1].frozen_stages} and {kind.frozen_stages}"
            )


def load_encoder(encoder: "XrayMamba", source: Path) -> None:
    """Fill an encoder from a run, a checkpoint, or a folder that `radrep import` wrote.

    Weights of stage 1, which scan in one direction, are expanded; positions are interpolated.
    Raises CheckpointError.
    """
    from radrep.models.autoregressive import start_from_stage_one
    from radrep.models.xray_mamba import resize_positions

    file = _weights_file(source)
    state, _ = read_weights(file)
    own = encoder_part(state)
    if "positions" not in own:
        raise CheckpointError(f"{file} has no X-ray Mamba in it")
    if any(ADAPTERS in name for name in own):
        raise CheckpointError(
            f"{file} has low-rank adapters; merge them first: radrep merge {source} --out FOLDER"
        )
    if "class_token" not in own:
        grid = _grid_like(encoder, own["positions"].shape[1], file)
        start_from_stage_one(encoder, state, grid=grid)
        return
    grid = _grid_like(encoder, own["positions"].shape[1] - 1, file)
    if grid != encoder.grid:
        own["positions"] = resize_positions(own["positions"], grid=grid, new_grid=encoder.grid)
    fresh = encoder.state_dict()
    own |= {name: tensor for name, tensor in fresh.items() if ADAPTERS in name}
    check_state_dict(own, fresh, f"{file} is of another encoder than model.encoder describes")
    encoder.load_state_dict(own)


def encoder_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights out of a model's, without their prefix."""
    return {k.removeprefix(ENCODER): v for k, v in state.items() if k.startswith(ENCODER)}


def load_adapters(model: "Emrrg", file: Path) -> None:
    """Fill a model with exported adapters and whatever else was trained and lies in their file.

    Raises:
        CheckpointError: If they do not fit the model, its scale or its encoder.
    """
    state, about = read_adapters(file)
    ours = model.checkpoint_state()
    check_state_dict(
        state,
        ours,
        f"model.lora.weights: {file} holds other adapters than model.lora describes",
        needed={name for name in ours if ADAPTERS in name},
    )
    scale = next(part.scale for part in model.encoder.modules() if isinstance(part, LowRankUpdate))
    if float(about["scale"]) != scale:
        raise CheckpointError(
            f"model.lora.weights: the adapters of {file} were trained with the scale "
            f"{about['scale']} and model.lora.scale is {scale}; set it to that"
        )
    check_base(model.encoder, about, file)
    model.load_state_dict(state, strict=False)


def check_base(encoder: "XrayMamba", about: Mapping[str, str], file: Path) -> None:
    """Raise CheckpointError if adapters were trained on another encoder than this one."""
    if about["base_sha256"] != hash_base(encoder):
        raise CheckpointError(
            f"the adapters of {file} were trained on another encoder than this one: theirs was "
            f"model.encoder.weights: {about['base']}"
        )


def hash_base(encoder: "XrayMamba") -> str:
    """SHA-256 of an encoder's weights but adapters and positions, which depend on image size."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        if name != "positions" and ADAPTERS not in f".{name}":
            digest.update(name.encode())
            numbers = tensor.detach().float().cpu().contiguous()
            digest.update(numbers.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_adapters(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As `read_weights`, of a file that `radrep export --adapters` wrote."""
    state, about = read_weights(file)
    if "base_sha256" not in about:
        raise CheckpointError(f"{file} was not written by radrep export --adapters")
    return state, about


def save_encoder(encoder: "XrayMamba", out: Path, about: Mapping[str, str]) -> None:
    """Write a folder for model.encoder.weights; `about` names its source."""
    with atomic_dir(out) as partial:
        state = {f"{ENCODER}{name}": tensor for name, tensor in encoder.state_dict().items()}
        write_weights(partial / WEIGHTS, state, {})
        (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        write_checksums(partial)


def _find_weights(source: Path) -> Path | None:
    """Those of a checkpoint, of the best one of a run, or of a bundle."""
    if is_bundle(source):
        return unpack(source, Reporter()) / WEIGHTS
    folders = (source, best_checkpoint(source))
    return next((f / WEIGHTS for f in folders if f and (f / WEIGHTS).is_file()), None)


def _weights_file(source: Path) -> Path:
    if file := _find_weights(source):
        return file
    # Shipped recipes write to runs/ under their own name.
    recipe = source.name if source.name.startswith("pretrain_") else "pretrain_contrastive_cpu"
    raise CheckpointError(
        f"model.encoder.weights: {source} is neither a run nor a checkpoint with {WEIGHTS}; train "
        f"it first, for example with: radrep pretrain {recipe}"
    )


def _grid_like(encoder: "XrayMamba", num_patches: int, file: Path) -> tuple[int, int]:
    """The grid of that many patches with the sides of the encoder's own."""
    rows, columns = encoder.grid
    for scale in range(1, num_patches + 1):
        if num_patches % scale == 0 and scale * columns == (num_patches // scale) * rows:
            return scale, num_patches // scale
    raise CheckpointError(
        f"{file} has {num_patches} patches, which do not fit a grid {rows}:{columns}"
    )
