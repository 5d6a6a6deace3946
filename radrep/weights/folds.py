"""Folders of cross-validated runs, as radrep train --folds makes them.

folds.yaml       the recipe, with data.fold for how many folds there are
fold-0, fold-1   their runs, whose recipes name the weights that each starts from

Which studies a fold holds out is decided by `radrep.data.store.Fold`.
"""

from pathlib import Path

from radrep.errors import CheckpointError
from radrep.recipe.load import load_recipe
from radrep.recipe.recipe import Recipe
from radrep.weights.checkpoint import find_checkpoint
from radrep.weights.run_folder import best_checkpoint

FOLDS = "folds.yaml"

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
