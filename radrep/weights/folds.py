"""Folders of cross-validated runs, as radrep train --folds makes them, and what they start from.

folds.yaml       the recipe, with data.fold for how many folds there are
fold-0, fold-1   their runs, whose recipes name the weights that each starts from

Which studies a fold holds out is decided by `radrep.data.store.Fold`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from radrep.data.manifest import source_of
from radrep.errors import CheckpointError, RadrepError
from radrep.json_text import load_json
from radrep.recipe.load import load_recipe
from radrep.recipe.recipe import Recipe
from radrep.weights.archive import is_bundle
from radrep.weights.checkpoint import SOURCE, find_checkpoint, read_recipe
from radrep.weights.files import read_header
from radrep.weights.pretrained import ABOUT
from radrep.weights.run_folder import RECIPE, WEIGHTS, best_checkpoint

FOLDS = "folds.yaml"
LEARNED = "learned"  # of the metadata of adapters and merged encoders, see `learned_from`

SUFFIX = "-folds"  # of the folder, behind the name of the recipe's own


def fold_folder(folder: Path, number: int) -> Path:
    """The run of a fold, counted from 0."""
    return folder / f"fold-{number}"


def is_folds(folder: Path | None) -> bool:
    """Whether a folder holds cross-validated runs."""
    return folder is not None and (folder / FOLDS).is_file()


def read_folds(folder: Path) -> tuple[Recipe, int]:
    """The recipe of cross-validated runs, and how many folds there are."""
    recipe = load_recipe(str(folder / FOLDS))
    if recipe.data.fold is None:
        raise CheckpointError(f"{folder / FOLDS} has no data.fold: radrep did not write it")
    return recipe, recipe.data.fold.of


def fold_checkpoints(folder: Path) -> list[Path]:
    """The best checkpoint of every fold in order; CheckpointError where one is missing."""
    _, num_folds = read_folds(folder)
    runs = [fold_folder(folder, number) for number in range(num_folds)]
    missing = [run.name for run in runs if best_checkpoint(run) is None]
    if missing:
        raise CheckpointError(
            f"{folder} has no finished epoch of {', '.join(missing)}, of {num_folds} folds. Go on "
            f"with: radrep train {folder} --resume"
        )
    return [find_checkpoint(run) for run in runs]


def lineage(start: Path) -> Iterator[Path]:
    """Weights, and what they started from, what that started from, ..., as far as it is here."""
    seen, left = {start}, [start]
    while left:
        yield (path := left.pop(0))
        recipe = _recipe_of(path)
        earlier = [] if recipe is None else _starts(recipe)
        left += [each for each in earlier if each not in seen and _is_whole(each)]
        seen.update(earlier)


def _starts(recipe: Recipe) -> list[Path]:
    weights, saliency = recipe.model.starting_weights, recipe.data.saliency
    masked = None if saliency is None else saliency.discriminator
    others = (weights.encoder, weights.adapters, recipe.train.start_from, masked)
    return [*weights.backbone, *(path for path in others if path is not None)]


def _is_whole(start: Path) -> bool:
    try:
        _recipe_of(start)
    except RadrepError:  # a run that was cleared, or of an older radrep
        return False
    return start.exists()


def learned_reports_of(start: Path, prepared: Path) -> bool:
    """Whether weights learned from reports or labels of what a prepared folder was made of.

    `start` is a run, a checkpoint, exported adapters or an encoder that they were merged into. Of
    published weights, and of data that are not here, nothing is known.
    """
    recipe = _recipe_of_reports(start)
    if recipe is not None and recipe.data.prepared.resolve() == prepared.resolve():
        return True
    source = source_of(prepared)
    return source != "" and source in learned_from(start).split(", ")


def learned_from(start: Path) -> str:
    """The sources of the reports or labels that weights learned from, as far as is known."""
    recipe = _recipe_of_reports(start)
    if recipe is None:
        return str(_about(start).get(LEARNED, ""))
    # What lies where its data were may be something else now.
    known = _about(find_checkpoint(start) / WEIGHTS).get(SOURCE, "")
    return str(known) or source_of(recipe.data.prepared)


def _recipe_of_reports(start: Path) -> Recipe | None:
    """The recipe of a run or checkpoint that learned from reports or labels."""
    recipe = _recipe_of(start)
    if recipe is None or (recipe.model.output == "encoder" and not recipe.model.needs_text):
        return None  # from images
    return recipe


def _recipe_of(start: Path) -> Recipe | None:
    """The recipe of a run, a checkpoint or a bundle; None for what was imported or merged."""
    if not start.is_dir() and not is_bundle(start):
        return None
    checkpoint = find_checkpoint(start)
    return read_recipe(checkpoint) if (checkpoint / RECIPE).is_file() else None


def _about(start: Path) -> Mapping[str, Any]:
    """The metadata of adapters or of a folder of an encoder; empty for anything else."""
    try:
        if start.is_file():
            return read_header(start)
        about = load_json((start / ABOUT).read_text(encoding="utf-8"))
    except (SafetensorError, OSError, ValueError):  # whoever loads it names what is broken
        return {}
    return about if isinstance(about, dict) else {}
