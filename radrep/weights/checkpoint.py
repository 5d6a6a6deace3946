"""Checkpoints that load on their own, and the run folders that hold them.

A run has recipe.yaml, environment.json, metrics.jsonl, checkpoints/step-NNNNNNN/ and a link
`best`. A checkpoint has weights.safetensors, recipe.yaml, vocabulary.json and, to go on training
from, training.pt.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from radrep.atomic import atomic_dir
from radrep.build import build_codec, build_model
from radrep.data.tokenizer import ReportCodec, Tokenizer
from radrep.errors import CheckpointError, RadrepError
from radrep.models.base import TrainableModel
from radrep.recipe.load import dump_recipe, load_recipe
from radrep.recipe.schema import Recipe
from radrep.weights.pretrained import WEIGHTS, check_state_dict

RECIPE = "recipe.yaml"
VOCABULARY = "vocabulary.json"
TRAINING = "training.pt"
CHECKPOINTS = "checkpoints"
BEST = "best"


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory.

    Attributes:
        folder: Where it came from.
        recipe: The recipe of its run.
        tokenizer: Its vocabulary.
        codec: How the model reads and writes reports.
        model: The model in evaluation mode.
        prepared_size: Short side in pixels to which its images were prepared.
        saliency: Fingerprint of what made its masked images; empty if it had none.
    """

    folder: Path
    recipe: Recipe
    tokenizer: Tokenizer
    codec: ReportCodec
    model: TrainableModel
    prepared_size: int
    saliency: str


def check_not_exists(out: Path) -> None:
    """Keep what is there already.

    Raises:
        CheckpointError: If it exists.
    """
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out} exists already. It is left as it is: give another --out")


def save_checkpoint(
    folder: Path,
    *,
    model: TrainableModel,
    recipe: Recipe,
    tokenizer: Tokenizer,
    prepared_size: int,
    training: dict[str, Any] | None,
    saliency: str = "",
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        folder: The folder to make.
        model: The bare model, not a wrapper of it.
        recipe: The resolved recipe.
        tokenizer: The vocabulary.
        prepared_size: Short side in pixels of the prepared images.
        training: What going on takes: optimizer, progress, loss scale; None if nobody can.
        saliency: Fingerprint of what made its masked images; empty if it had none.
    """
    with atomic_dir(folder) as partial, _wrap_write_errors(folder):
        weights = {name: tensor.contiguous() for name, tensor in model.checkpoint_state().items()}
        about = {"prepared_size": str(prepared_size)} | ({"saliency": saliency} if saliency else {})
        save_file(weights, partial / WEIGHTS, about)
        (partial / RECIPE).write_text(dump_recipe(recipe), encoding="utf-8")
        tokenizer.save(partial / VOCABULARY)
        if training is not None:
            torch.save(training, partial / TRAINING)


@contextmanager
def _wrap_write_errors(folder: Path) -> Iterator[None]:
    """Tell the writers' own errors, a full disk mostly, like one of ours."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        free = shutil.disk_usage(folder.parent).free
        raise CheckpointError(
            f"{folder} could not be written ({error}); its disk has {free / 1e9:.1f} GB free. "
            "Free some, then go on with --resume"
        ) from error


def load_checkpoint(folder: Path) -> Loaded:
    """Read a checkpoint.

    Raises:
        CheckpointError: If a file is missing or broken, or weights, vocabulary and recipe do not
            fit one another.
    """
    for name in (WEIGHTS, RECIPE, VOCABULARY):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not a radrep checkpoint: it has no {name}")
    recipe = load_recipe(str(folder / RECIPE))
    tokenizer = Tokenizer.load(folder / VOCABULARY)
    model = build_model(recipe, len(tokenizer.vocabulary), pretrained=False)
    about = _load_weights(model, folder, tokenizer)
    codec = build_codec(recipe, tokenizer, model)
    size, saliency = int(about["prepared_size"]), about.get("saliency", "")
    return Loaded(folder, recipe, tokenizer, codec, model.eval(), size, saliency)


def _load_weights(model: TrainableModel, folder: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """Load the weights strictly; what stands in their file beside them."""
    path = folder / WEIGHTS
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    ours = model.checkpoint_state()
    name = "encoder_decoder.words.weight"
    if name in state and state[name].shape[0] != ours[name].shape[0]:
        raise CheckpointError(
            f"{folder / VOCABULARY} has {len(tokenizer.vocabulary)} words and the weights beside "
            f"it were made for {state[name].shape[0] - 1}: the two are not of one run"
        )
    if "prepared_size" not in about:
        raise CheckpointError(f"{path} was not written by radrep: it names no prepared_size")
    check_state_dict(state, ours, f"{path} is of another model than {folder / RECIPE} describes")
    model.load_state_dict(state, strict=False)  # frozen parts are not in a checkpoint
    return about


def load_training(folder: Path) -> dict[str, Any]:
    """What going on takes, as `save_checkpoint` was given it.

    Raises:
        CheckpointError: If it is missing or broken.
    """
    path = folder / TRAINING
    if not path.is_file():
        raise CheckpointError(f"{folder} cannot be trained further: it has no {TRAINING}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises many kinds, all mean a broken file
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def step_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after a step lies."""
    return run / CHECKPOINTS / f"step-{step:07d}"


def last_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run, if it has one."""
    folders = sorted((run / CHECKPOINTS).glob("step-*"))
    return folders[-1] if folders else None


def link_best(run: Path, folder: Path) -> None:
    """Make the link `best` lead to a checkpoint of the run."""
    link = run / f".{BEST}.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.relative_to(run))
    os.replace(link, run / BEST)


def drop_old_checkpoints(run: Path) -> None:
    """Keep the newest checkpoint and the best one."""
    best = (run / BEST).resolve()
    for folder in sorted((run / CHECKPOINTS).glob("step-*"))[:-1]:
        if folder.resolve() != best:
            shutil.rmtree(folder)


def find_checkpoint(name: Path | None, runs: Path = Path("runs")) -> Path:
    """The checkpoint that a user means.

    Args:
        name: A checkpoint, a run (its best one is taken), or None for the newest run of a model
            that writes reports.
        runs: Where runs lie.

    Raises:
        CheckpointError: If there is none.
    """
    if name is None:
        best = [path for path in runs.glob(f"*/{BEST}") if path.is_dir()]
        found = [path.parent for path in best if _writes_reports(path / RECIPE)]
        if not found:
            raise CheckpointError(
                f"{runs.resolve()} holds no trained report model. Train one with: radrep train "
                "csr_lmca_iu_cpu, or name a run or checkpoint"
            )
        name = max(found, key=lambda run: os.lstat(run / BEST).st_mtime)
    if not name.exists():
        raise CheckpointError(f"{name} not found: neither a run nor a checkpoint")
    if not name.is_dir():
        raise CheckpointError(f"{name} is a file; name the folder of a run or checkpoint")
    if (name / WEIGHTS).is_file():
        return name
    if (name / BEST).is_dir():
        return (name / BEST).resolve()
    if (name / CHECKPOINTS).is_dir():
        raise CheckpointError(f"{name} has no finished epoch yet, so it has no best checkpoint")
    raise CheckpointError(f"{name} is not a run or checkpoint: it has no {WEIGHTS} and no {BEST}")


def is_discriminator(name: Path) -> bool:
    """Whether a run or checkpoint is one of SDAM's discriminator; what cannot be read is not."""
    try:
        recipe = load_recipe(str(find_checkpoint(name) / RECIPE))
    except RadrepError:
        return False
    return recipe.model.output == "labels"


def _writes_reports(recipe: Path) -> bool:
    """Whether a recipe is of a model that writes reports; one that cannot be read is of none."""
    try:
        return load_recipe(str(recipe)).model.output == "reports"
    except RadrepError:
        return False


def run_dir(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to; itself, when it was moved out of one."""
    resolved = checkpoint.resolve()
    return resolved.parent.parent if resolved.parent.name == CHECKPOINTS else resolved
