"""Adapters merged or exported, and an encoder exported under its public names."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from torch import Tensor

from radrep.atomic import atomic_file, check_output, make_folder
from radrep.errors import CheckpointError
from radrep.models.emrrg import Emrrg
from radrep.models.xray_mamba import add_partial_lora, make_xray_mamba, merge_lora
from radrep.recipe import models as schema
from radrep.recipe.load import change_section
from radrep.weights.checkpoint import (
    Loaded,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from radrep.weights.files import read_weights, write_weights
from radrep.weights.folds import LEARNED, learned_from
from radrep.weights.pretrained import (
    ADAPTERS,
    ENCODER,
    check_base,
    check_state_dict,
    encoder_part,
    hash_base,
    load_encoder,
    read_adapters,
    save_encoder,
)
from radrep.weights.public_names import XRAY_MAMBA_EXPORT, rename
from radrep.weights.run_folder import WEIGHTS


@dataclass(frozen=True)
class Exported:
    """A file that was written, with the number of its tensors and of their elements."""

    out: Path
    num_tensors: int
    num_elements: int


def merge_checkpoint(checkpoint: Path, out: Path) -> None:
    """Merge the adapters of a run or checkpoint into its encoder; its reports do not change.

    If the new checkpoint is trained further, the whole encoder is. Raises CheckpointError.
    """
    check_output(out, "--out", folder=True, new=True)
    loaded, model = _load_with_adapters(checkpoint)
    merge_lora(model.encoder)
    title = f"the recipe of {loaded.folder}"
    section = change_section(loaded.recipe.model, {"train_encoder": "trained"}, title=title)
    save_checkpoint(
        out,
        model=model,
        recipe=change_section(loaded.recipe, {"model": section.model_dump()}, title=title),
        tokenizer=loaded.tokenizer,
        prepared_size=loaded.prepared_size,
        saliency=loaded.saliency,
    )


def merge_adapters(file: Path, base: Path, out: Path) -> None:
    """Merge exported adapters into the encoder that they were trained on.

    `base` is a run, a checkpoint or a folder that `radrep import` wrote; `out` is made for
    model.encoder.weights. Raises CheckpointError if the adapters are of another encoder.
    """
    check_output(out, "--out", folder=True, new=True)
    state, about = read_adapters(file)
    encoder = make_xray_mamba(
        about["size"], image_size=int(about["image_size"]), patch_size=int(about["patch_size"])
    )
    load_encoder(encoder, base)
    check_base(encoder, about, file)
    add_partial_lora(
        encoder,
        about["target"],
        rank=int(about["rank"]),
        scale=float(about["scale"]),
        per_direction=about["per_direction"] == "true",
    )
    own = encoder_part(state)
    ours = adapter_state(encoder.state_dict())
    check_state_dict(own, ours, f"{file} does not hold the adapters that its metadata describes")
    encoder.load_state_dict(own, strict=False)
    merge_lora(encoder)
    learned = {about.get(LEARNED, ""), learned_from(base)} - {""}
    merged = {"kind": "merged", "adapters": file.name, "base": str(base)}
    save_encoder(encoder, out, merged | {LEARNED: ", ".join(sorted(learned))})


def export_adapters(checkpoint: Path, out: Path, *, all_learned: bool = False) -> Exported:
    """Write the adapters of a run's or checkpoint's encoder, with the metadata to use them.

    `all_learned` adds the projector, the hybrid layers and the language model's LoRA. Raises
    CheckpointError if there are no adapters, or `out` exists or is no .safetensors file.
    """
    _check_out(out)
    loaded, model = _load_with_adapters(checkpoint)
    section = cast(schema.Emrrg, loaded.recipe.model)
    about = {
        "base": section.encoder.weights,
        "size": section.encoder.size,
        "target": section.lora.target,
        "rank": str(section.lora.rank),
        "scale": str(section.lora.scale),
        "per_direction": str(section.lora.per_direction).lower(),
        "image_size": str(loaded.recipe.data.image_size),
        "patch_size": str(section.encoder.patch_size),
        "base_sha256": hash_base(model.encoder),
        LEARNED: learned_from(loaded.folder),
    }
    state = adapter_state(model.checkpoint_state(), all_learned=all_learned)
    return _write(state, out, about)


def adapter_state(state: Mapping[str, Tensor], *, all_learned: bool = False) -> dict[str, Tensor]:
    """The adapters of an encoder out of a model's state, or all that lies outside its weights."""
    return {
        name: tensor
        for name, tensor in state.items()
        if ADAPTERS in name or (all_learned and not name.startswith(ENCODER))
    }


def export_encoder(checkpoint: Path, out: Path) -> Exported:
    """Write a whole encoder as .safetensors under public names, as `radrep import` reads them.

    Raises:
        CheckpointError: If it has no X-ray Mamba of four directions, or unmerged adapters.
    """
    _check_out(out)
    folder = find_checkpoint(checkpoint)
    own = encoder_part(read_weights(folder / WEIGHTS)[0])
    if "class_token" not in own:
        raise CheckpointError(f"{folder} has no X-ray Mamba with a class token to export")
    if any(ADAPTERS in name for name in own):
        raise CheckpointError(
            f"{folder} has low-rank adapters; merge them first: radrep merge {checkpoint} "
            "--out FOLDER, or export them alone with --adapters"
        )
    public, report = rename(own, XRAY_MAMBA_EXPORT)
    assert not report.unexpected, f"no public name for {report.unexpected[:3]}"
    patches = public["patch_embed.proj.weight"]
    side = math.isqrt(patches.shape[1] // 3)
    public["patch_embed.proj.weight"] = patches.unflatten(1, (3, side, side))
    return _write({f"visual_encoder.{name}": t for name, t in public.items()}, out, {})


def _load_with_adapters(checkpoint: Path) -> tuple[Loaded, Emrrg]:
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    if not adapter_state(loaded.model.checkpoint_state()):
        raise CheckpointError(
            f"{loaded.folder} has no low-rank adapters: its recipe has not name: emrrg with "
            "train_encoder: adapters"
        )
    return loaded, cast(Emrrg, loaded.model)  # the only one with adapters


def _check_out(out: Path) -> None:
    check_output(out, "--out", folder=False, new=True, make_parents=True)
    if out.suffix != ".safetensors":
        raise CheckpointError(f"--out must end in .safetensors, got {out}")


def _write(state: Mapping[str, Tensor], out: Path, about: dict[str, str]) -> Exported:
    make_folder(out.parent)
    try:
        with atomic_file(out) as partial:
            write_weights(partial, state, about)
    except SafetensorError as error:
        raise CheckpointError(f"{out} could not be written: {error}") from error
    return Exported(out, len(state), sum(tensor.numel() for tensor in state.values()))
