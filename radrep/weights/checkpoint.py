"""Checkpoints that load on their own.

A checkpoint has weights.safetensors, recipe.yaml, vocabulary.json, checksums.json and, if training
can be resumed from it, training.pt or, of a sharded run, the files of sharded_state.py; the best
one of a finished report model has what guidance_files.py writes.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from radrep.atomic import atomic_dir
from radrep.build import build_codec, build_model
from radrep.claimed_sizes import SizeLimit, file_bytes
from radrep.data.manifest import source_of
from radrep.data.tokenizer import ReportCodec, Tokenizer
from radrep.errors import CheckpointError, RadrepError, RecipeError
from radrep.hub import hub_sources
from radrep.json_text import load_json
from radrep.models.base import TrainableModel
from radrep.progress import Reporter
from radrep.recipe.load import dump_recipe, load_recipe
from radrep.recipe.recipe import Recipe, differences
from radrep.torch_files import load_tensors
from radrep.weights.archive import is_bundle, unpack
from radrep.weights.files import (
    find_change,
    read_weights,
    write_checksums,
    write_error,
    write_weights,
)
from radrep.weights.pretrained import check_state_dict
from radrep.weights.run_folder import (
    BEST,
    RECIPE,
    TRAINING,
    VOCABULARY,
    WEIGHTS,
    best_checkpoint,
    damage_error,
    find_best,
    find_damage,
    run_dir,
)

SOURCE = "source"  # in the metadata of weights: what they learned from, see `source_of`
# Keys of a model section that leave the tensors as they are.
_MAY_DIFFER = (
    "weights", "revision", "dropout", "projection_dropout", "drop_path", "gradient_checkpointing",
    "projector_scale",
)  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory."""

    folder: Path
    recipe: Recipe
    tokenizer: Tokenizer
    codec: ReportCodec
    model: TrainableModel  # in evaluation mode
    prepared_size: int  # short side in pixels of its images
    saliency: str  # fingerprint of its masked images; empty without any


def save_checkpoint(
    folder: Path,
    *,
    model: TrainableModel,
    recipe: Recipe,
    tokenizer: Tokenizer,
    prepared_size: int,
    training: dict[str, Any] | None = None,
    saliency: str = "",
    weights: Mapping[str, Tensor] | None = None,
    sharded: Path | None = None,
) -> None:
    """Write a checkpoint of a bare model, whole or not at all; see `Loaded`.

    `training` has optimizer, progress and loss scale, None if training cannot be resumed. Of a
    sharded model `weights` are the gathered ones, and `sharded` is a folder that has all of that
    instead, whose files become the checkpoint's.
    """
    about = {"prepared_size": str(prepared_size)} | ({"saliency": saliency} if saliency else {})
    if source := source_of(recipe.data.prepared):
        about[SOURCE] = source
    if sources := hub_sources(cast(nn.Module, model)):
        about["hub"] = json.dumps(sources)  # the commits that training started from
    try:
        with atomic_dir(folder) as partial:
            state = model.checkpoint_state() if weights is None else weights
            write_weights(partial / WEIGHTS, state, about)
            (partial / RECIPE).write_text(dump_recipe(recipe), encoding="utf-8")
            tokenizer.save(partial / VOCABULARY)
            if training is not None:
                _write_training(partial / TRAINING, training)
            for file in [] if sharded is None else [*sharded.iterdir()]:
                file.rename(partial / file.name)
            write_checksums(partial)
    except (SafetensorError, OSError) as error:
        raise write_error(folder, error) from error


def _write_training(file: Path, training: dict[str, Any]) -> None:
    """As torch.save; OSError if the disk refuses, which torch covers with an error of its own."""
    try:
        with file.open("wb") as opened:
            torch.save(training, opened)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a checkpoint; raise CheckpointError without one that this radrep can read."""
    _check_files(folder, RECIPE)
    try:
        return load_recipe(str(folder / RECIPE))
    except RecipeError as error:
        raise CheckpointError(
            f"{folder} was made by an older radrep, whose recipes had other keys: rename them in "
            f"its {RECIPE}, or train again. {error}"
        ) from error


def _check_files(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not a radrep checkpoint: it has no {name}")


def load_checkpoint(
    folder: Path, *, verified: bool = False, built_by: Recipe | None = None
) -> Loaded:
    """Read a checkpoint, whose checksums are compared unless that was done already.

    `built_by` makes the model in place of the checkpoint's own recipe: one of the same tensors.

    Raises:
        CheckpointError: If a file is missing or broken, or weights, vocabulary and recipe do not
            fit one another.
    """
    if not verified:
        check_whole(folder, hashed=(RECIPE, VOCABULARY))
    with ThreadPoolExecutor(1) as pool:  # weights are hashed beside all else
        change = pool.submit(find_change, folder, () if verified else (WEIGHTS,))
        try:
            recipe = read_recipe(folder)
            tokenizer = Tokenizer.load(folder / VOCABULARY)
            with _as_large_as(folder):
                model = build_model(built_by or recipe, tokenizer.vocabulary, pretrained=False)
            about = _load_weights(model, folder, len(tokenizer.vocabulary))
        finally:  # of an error, too, a changed file is the reason
            _refuse(folder, change.result())
    codec = build_codec(recipe, tokenizer, model)
    size, saliency = int(about["prepared_size"]), about.get("saliency", "")
    return Loaded(folder, recipe, tokenizer, codec, model.eval(), size, saliency)


def _as_large_as(folder: Path) -> SizeLimit:
    """Refuses a model that the weights of a checkpoint cannot fill."""
    size = (folder / WEIGHTS).stat().st_size

    def error(limit: str) -> CheckpointError:
        return CheckpointError(
            f"{folder} cannot be read: its {RECIPE} describes a model of more than {limit}, and "
            f"its {WEIGHTS} has {size / 1e6:.1f} MB"
        )

    return SizeLimit(file_bytes(size), error)


def check_whole(folder: Path, hashed: Sequence[str] | None = None) -> None:
    """Raise CheckpointError if a checkpoint is not whole, see `find_damage`."""
    _check_files(folder, WEIGHTS, RECIPE, VOCABULARY)
    _refuse(folder, find_damage(folder, hashed=hashed))


def _refuse(folder: Path, damage: str) -> None:
    if damage:
        raise damage_error(f"{folder} cannot be read: {damage}", run_dir(folder))


def load_weights(model: TrainableModel, folder: Path) -> None:
    """Fill a model of the same recipe with the weights of a checkpoint."""
    check_whole(folder)
    _load_weights(model, folder, len(Tokenizer.load(folder / VOCABULARY).vocabulary))


def load_start(model: TrainableModel, recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Fill a new model with the weights of `train.start_from`, where a recipe has it.

    Raises:
        CheckpointError: If that is no run, or of another model or vocabulary.
    """
    start = recipe.train.start_from
    if start is None:
        return
    folder = find_checkpoint(start)
    check_whole(folder)
    other = _other_model(read_recipe(folder), recipe)
    if other:
        raise CheckpointError(f"train.start_from: {folder} is of another model: {other}")
    words, ours = Tokenizer.load(folder / VOCABULARY), len(tokenizer.vocabulary)
    if words != tokenizer:
        raise CheckpointError(
            f"train.start_from: {folder} has a vocabulary of {len(words.vocabulary)} words and the "
            f"training reports give {ours}: it learned from other data, another data.target or "
            "data.tokenizer"
        )
    _load_weights(model, folder, ours)


def _other_model(theirs: Recipe, ours: Recipe) -> str:
    """Where a model section differs in more than where weights came from and dropout; or ""."""
    for key, (one, other) in differences(theirs, ours).items():
        if key.startswith("model.") and key.rpartition(".")[2] not in _MAY_DIFFER:
            return f"its {key} is {one}, that of this recipe {other}"
    return ""


def _load_weights(model: TrainableModel, folder: Path, num_words: int) -> dict[str, str]:
    """Load the weights strictly and return the metadata of their file."""
    path = folder / WEIGHTS
    state, about = read_weights(path, verified=True)
    ours = model.checkpoint_state()
    name = "encoder_decoder.words.weight"
    if name in state and state[name].shape[0] != ours[name].shape[0]:
        raise CheckpointError(
            f"{folder / VOCABULARY} has {num_words} words and the weights beside "
            f"it were made for {state[name].shape[0] - 1}: the two are not of one run"
        )
    sources = _check_about(path, about, model)
    check_state_dict(state, ours, f"{path} is of another model than {folder / RECIPE} describes")
    model.load_state_dict(state, strict=False)  # frozen parts are not in a checkpoint
    for part, source in sources.items():  # as of a resumed run
        module = cast(nn.Module, model).get_submodule(part)
        module.__dict__.setdefault("hub_source", source)
    return about


def _check_about(path: Path, about: Mapping[str, str], model: TrainableModel) -> dict[str, str]:
    """The parts with weights of the hub by their name; CheckpointError for other metadata."""
    if "prepared_size" not in about:
        raise CheckpointError(f"{path} was not written by radrep: it has no prepared_size")
    if not re.fullmatch(r"[1-9]\d{0,4}", about["prepared_size"]):
        raise CheckpointError(
            f"{path} was not written by radrep: its prepared_size is "
            f"{about['prepared_size'][:20]!r}, expected pixels"
        )
    parts = dict(cast(nn.Module, model).named_modules())
    try:
        sources = load_json(about.get("hub", "{}"))
    except ValueError:
        sources = None
    if not isinstance(sources, dict) or not sources.keys() <= parts.keys():
        raise CheckpointError(
            f"{path} was not written by radrep: it names weights of the hub (hub) of other parts "
            "than the model has"
        )
    return {part: str(source) for part, source in sources.items()}


def load_training(folder: Path) -> dict[str, Any]:
    """The training state of a checkpoint; raise CheckpointError if it is missing or broken."""
    path = folder / TRAINING
    if not path.is_file():
        raise CheckpointError(f"{folder} cannot be trained further: it has no {TRAINING}")
    try:
        state = load_tensors(path)
    except Exception as error:  # unpickling raises many kinds, all mean a broken file
        reason = str(error).partition("\n")[0].partition(". ")[0]  # torch adds a paragraph
        raise CheckpointError(f"{path} cannot be read: {reason}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no training state but a {type(state).__name__}")
    return state


def find_checkpoint(
    name: Path | None, runs: Path = Path("runs"), *, reporter: Reporter | None = None
) -> Path:
    """The checkpoint that a user means; raise CheckpointError if there is none.

    `name` is a checkpoint, a run, for its best one, a bundle, or None for the newest run of a
    report model.
    """
    if name is None:
        best = [p.parent for depth in ("*", "*/*") for p in runs.glob(f"{depth}/{BEST}")]
        found = [run for run in best if best_checkpoint(run) and _has_output(run, "reports")]
        if not found:
            raise CheckpointError(
                f"{runs.resolve()} holds no trained report model. Train one with: radrep train "
                "csr_lmca_iu_cpu, or name a run or checkpoint"
            )
        name = max(found, key=lambda run: os.lstat(run / BEST).st_mtime)
    if not name.exists():
        hint = ""
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) and not name.parent.exists():
            hint = f"; a model of the hub is fetched first: hf download {name} --local-dir DIR"
        raise CheckpointError(f"{name} not found: neither a run nor a checkpoint{hint}")
    if is_bundle(name):
        return unpack(name, reporter or Reporter())
    if not name.is_dir():
        raise CheckpointError(
            f"{name} is a file and no bundle of radrep export --bundle; name the folder of a run "
            "or checkpoint"
        )
    if (name / WEIGHTS).is_file():
        return name
    return find_best(name)


def is_discriminator(name: Path) -> bool:
    """Whether a run or checkpoint is of SDAM's discriminator; False if it cannot be read."""
    return _has_output(name, "labels")


def _has_output(name: Path, output: str) -> bool:
    try:
        return read_recipe(find_checkpoint(name)).model.output == output
    except RadrepError:
        return False
