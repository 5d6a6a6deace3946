"""Weights to start from: an X-ray Mamba of an earlier stage or an imported one, adapters."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from radrep.errors import CheckpointError
from radrep.models.autoregressive import start_from_stage_one
from radrep.models.emrrg import Emrrg
from radrep.models.xray_mamba import XrayMamba, resize_positions

WEIGHTS = "weights.safetensors"
ADAPTERS = ".adapters."
_PREFIX = "encoder."


def load_encoder(encoder: XrayMamba, source: Path) -> None:
    """Start an encoder from a run of pretraining or of EMRRG, or from imported weights.

    Weights of stage 1, which scan in one direction, are expanded; positions are interpolated.

    Args:
        encoder: The encoder, which is changed.
        source: A run, a checkpoint folder, or a folder that `radrep import` wrote.

    Raises:
        CheckpointError: If there are no such weights or they do not fit.
    """
    file = _weights_file(source)
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    own = {k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}
    if "positions" not in own:
        raise CheckpointError(f"{file} has no X-ray Mamba in it")
    if any(ADAPTERS in name for name in own):
        raise CheckpointError(
            f"{file} has low-rank adapters; fold them in first: radrep merge {source} --out FOLDER"
        )
    if "class_token" not in own:
        num_patches = own["positions"].shape[1]
        start_from_stage_one(encoder, state, grid=_grid_like(encoder, num_patches, file))
        return
    _load(encoder, own, file)


def load_adapters(model: Emrrg, file: Path) -> None:
    """Start from exported adapters, and from whatever else that was learned lies in their file.

    Args:
        model: The model, with adapters of the same target and rank, which is changed.
        file: What `radrep export --adapters` wrote.

    Raises:
        CheckpointError: If the file cannot be read or its tensors have no place in the model.
    """
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"model.lora.weights: {file} cannot be read: {error}") from error
    ours = model.own_state()
    missing = sorted(name for name in ours.keys() - state.keys() if ADAPTERS in name)
    unknown = sorted(state.keys() - ours.keys())
    wrong = sorted(n for n in ours.keys() & state.keys() if ours[n].shape != state[n].shape)
    if missing or unknown or wrong:
        raise CheckpointError(
            f"model.lora.weights: {file} holds other adapters than model.lora describes: "
            f"{len(missing)} tensors are missing, {len(unknown)} not known, {len(wrong)} of "
            f"another shape; the first: {(missing + unknown + wrong)[0]}"
        )
    model.load_state_dict(state, strict=False)


def _weights_file(source: Path) -> Path:
    for folder in (source, source / "best"):
        if (folder / WEIGHTS).is_file():
            return folder / WEIGHTS
    raise CheckpointError(
        f"model.encoder.weights: {source} is neither a run nor a checkpoint with {WEIGHTS}; train "
        "it first, for example with: radrep pretrain pretrain_contrastive_cpu"
    )


def _load(encoder: XrayMamba, own: dict[str, Tensor], file: Path) -> None:
    grid = _grid_like(encoder, own["positions"].shape[1] - 1, file)
    if grid != encoder.grid:
        own["positions"] = resize_positions(own["positions"], grid=grid, new_grid=encoder.grid)
    ours = encoder.state_dict()
    missing = sorted(ours.keys() - own.keys())
    unknown = sorted(own.keys() - ours.keys())
    wrong = sorted(n for n in ours.keys() & own.keys() if ours[n].shape != own[n].shape)
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{file} is of another encoder than model.encoder describes: {len(missing)} tensors "
            f"are missing, {len(unknown)} not known, {len(wrong)} of another shape; the first: "
            f"{(missing + unknown + wrong)[0]}"
        )
    encoder.load_state_dict(own)


def _grid_like(encoder: XrayMamba, num_patches: int, file: Path) -> tuple[int, int]:
    """The grid of that many patches with the sides of the encoder's own."""
    rows, columns = encoder.grid
    for scale in range(1, num_patches + 1):
        if num_patches % scale == 0 and scale * columns == (num_patches // scale) * rows:
            return scale, num_patches // scale
    raise CheckpointError(
        f"{file} has {num_patches} patches, which do not fit a grid {rows}:{columns}"
    )
