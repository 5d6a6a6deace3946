"""A recipe with several seeds: OUT/seed-0, OUT/seed-1, ..., each a run or a folder of folds.

OUT/seeds.yaml is the recipe, with data.fold if each seed is cross-validated. Only train.seed
differs, and it counts on from that of the recipe: initial weights, order, crops and dropout change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from radrep.atomic import atomic_write_text, check_output, make_folder
from radrep.errors import CheckpointError
from radrep.progress import Reporter
from radrep.recipe.load import change_section, dump_recipe, load_recipe
from radrep.recipe.recipe import Recipe
from radrep.training.accelerator import refuse_launch
from radrep.training.folds import train_folds, with_fold
from radrep.training.loop import Interrupted
from radrep.training.run import train
from radrep.training.run_log import taken_error
from radrep.weights.folds import fold_folder, is_folds, read_folds
from radrep.weights.model_card import MODEL_CARD
from radrep.weights.run_folder import best_checkpoint, last_checkpoint, read_scores, step_of

SEEDS = "seeds.yaml"
SUFFIX = "-seeds"


@dataclass(frozen=True)
class Spread:
    """A score over seeds or folds."""

    name: str
    mean: float
    deviation: float  # the sample's standard deviation
    values: tuple[float, ...]  # of each


def is_seeds(folder: Path) -> bool:
    """Whether a folder holds the runs of several seeds."""
    return (folder / SEEDS).is_file()


def seed_folders(folder: Path) -> list[Path]:
    """The folder of each seed in order."""
    found = [p for p in folder.glob("seed-*") if p.name.removeprefix("seed-").isdecimal()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("seed-")))


def train_seeds(
    recipe: Recipe,
    num_seeds: int | None = None,
    num_folds: int | None = None,
    *,
    out: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Train a recipe once per seed, by default in its own folder with "-seeds"; return the folder.

    With `resume` recipe and numbers are the folder's: finished runs are kept, a stopped one goes
    on, and the others start.

    Raises:
        RecipeError, DataError, CheckpointError: Before any training, where a run cannot be made.
        RadrepError: In one of several processes.
        Interrupted: If the user stopped it.
    """
    refuse_launch("--seeds")
    reporter = reporter or Reporter()
    folder = out or recipe.out.with_name(recipe.out.name + SUFFIX)
    if resume:
        num_seeds, num_folds, recipe = _read(folder, num_seeds, num_folds)
    elif is_seeds(folder) or (folder.exists() and any(p for p in folder.rglob("*") if p.is_file())):
        raise taken_error(recipe, folder)
    assert num_seeds is not None, "a new folder has a number of seeds"
    check_output(folder, "--out", folder=True, new=False)
    if not resume:
        whole = recipe if num_folds is None else with_fold(recipe, 0, num_folds)
        for number in range(num_seeds):
            make_folder(folder / f"seed-{number}")
        atomic_write_text(folder / SEEDS, dump_recipe(whole))
    for number in range(num_seeds):
        own, run = _with_seed(recipe, number), folder / f"seed-{number}"
        reporter.info("seed", f"{number + 1} of {num_seeds}: {run}, seed {own.train.seed}")
        try:
            if num_folds is not None:
                goes_on = is_folds(run)
                train_folds(own, num_folds, out=run, resume=goes_on, reporter=reporter)
            elif not (run / MODEL_CARD).is_file():
                train(own, out=run, resume=last_checkpoint(run) is not None, reporter=reporter)
        except Interrupted as stopped:
            stopped.run = folder
            raise
    return folder


def _read(
    folder: Path, num_seeds: int | None, num_folds: int | None
) -> tuple[int, int | None, Recipe]:
    if not is_seeds(folder):
        raise CheckpointError(f"{folder} has no seeds to resume; start without --resume")
    recipe, seeds = load_recipe(str(folder / SEEDS)), len(seed_folders(folder))
    folds = None if recipe.data.fold is None else recipe.data.fold.of
    for option, typed, there in (("--seeds", num_seeds, seeds), ("--folds", num_folds, folds)):
        if typed not in (None, there):
            raise CheckpointError(f"{folder} has {there}, not {option} {typed}; leave it out")
    return seeds, folds, recipe


def _with_seed(recipe: Recipe, number: int) -> Recipe:
    section = recipe.train.model_dump() | {"seed": recipe.train.seed + number}
    return change_section(recipe, {"train": section}, title="this recipe")


def validation_scores(run: Path) -> dict[str, float]:
    """The validation that chose a run's best checkpoint; of folds the mean of theirs."""
    if is_folds(run):
        return {name: mean(values) for name, values in _of_all(fold_scores(run)).items()}
    best = best_checkpoint(run)
    return {} if best is None else read_scores(run, step_of(best))


def fold_scores(run: Path) -> list[dict[str, float]]:
    """The validation scores of each fold of a folder."""
    return [validation_scores(fold_folder(run, n)) for n in range(read_folds(run)[1])]


def spread(scores: Sequence[Mapping[str, float]]) -> list[Spread]:
    """Mean and standard deviation of each score that all seeds, or folds, have."""
    return [
        Spread(name, mean(values), stdev(values), values)
        for name, values in _of_all(scores).items()
    ]


def _of_all(scores: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """The values of each score that all have."""
    names = [name for name in scores[0] if all(name in each for each in scores)]
    return {name: tuple(each[name] for each in scores) for name in names}
