"""Cross-validation inside the training split: one run per fold, OUT/fold-0, OUT/fold-1, ...

Whose studies a fold holds out is decided by `radrep.data.store.Fold`. What a recipe starts from is
cross-fitted too: where that learned from reports or labels of the same data, fold K starts from
fold K of it, which never had a study of the patients held out.
"""

from pathlib import Path
from typing import Any

from radrep.atomic import atomic_write_text, check_output, make_folder
from radrep.data.store import Fold, PreparedStudies
from radrep.data.study import HELD_OUT
from radrep.errors import CheckpointError, DataError, RecipeError
from radrep.progress import Reporter
from radrep.recipe.load import change_section, dump_recipe
from radrep.recipe.recipe import Recipe
from radrep.training.accelerator import refuse_launch
from radrep.training.loop import Interrupted
from radrep.training.run import train
from radrep.training.run_log import taken_error
from radrep.weights.checkpoint import find_checkpoint, read_recipe
from radrep.weights.folds import (
    FOLDS,
    SUFFIX,
    fold_folder,
    is_folds,
    learned_reports_of,
    lineage,
    read_folds,
)
from radrep.weights.model_card import MODEL_CARD
from radrep.weights.run_folder import last_checkpoint

# Keys that may name a run.
_STARTS = (
    "model.backbone.weights",
    "model.encoder.weights",
    "model.lora.weights",
    "data.saliency.discriminator",
    "train.start_from",
)


def train_folds(
    recipe: Recipe,
    num_folds: int | None = None,
    *,
    out: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Train a recipe once per fold, by default in its own folder with "-folds"; return the folder.

    With `resume` the recipe is the folder's: finished folds are kept, a stopped one goes on, and
    the others start.

    Raises:
        RecipeError, DataError, CheckpointError: Before any training, if a fold cannot be made.
        RadrepError: In one of several processes.
        Interrupted: If the user stopped it.
    """
    refuse_launch("--folds")
    reporter = reporter or Reporter()
    folder = out or default_folder(recipe)
    if resume:
        if not is_folds(folder):
            raise CheckpointError(f"{folder} has no folds to resume; start without --resume")
        recipe, there = read_folds(folder)
        if num_folds not in (None, there):
            raise CheckpointError(f"{folder} has {there} folds, not {num_folds}; leave --folds out")
        num_folds = there
    elif folder.exists() and any(file.name != FOLDS for file in folder.iterdir()):
        raise taken_error(recipe, folder)
    assert num_folds is not None, "new folds have a number"
    check_output(folder, "--out", folder=True, new=False)
    recipes = [fold_recipe(recipe, number, num_folds) for number in range(num_folds)]
    if not resume:
        make_folder(folder)
        atomic_write_text(folder / FOLDS, dump_recipe(with_fold(recipe, 0, num_folds)))
    for number, own in enumerate(recipes):
        run = fold_folder(folder, number)
        finished = (run / MODEL_CARD).is_file()
        state = ", finished already" if finished else ""
        reporter.info("fold", f"{number + 1} of {num_folds}: {run}{state}")
        if not finished:
            try:
                train(own, out=run, resume=last_checkpoint(run) is not None, reporter=reporter)
            except Interrupted as stopped:
                stopped.run = folder
                raise
    return folder


def _is_apart(theirs: Path, ours: Path, fold: Fold) -> bool:
    """Whether a fold of one prepared folder was trained without the patients of another's."""
    if theirs.resolve() == ours.resolve():
        return True

    def patients(prepared: Path, part: str) -> set[str]:
        studies = PreparedStudies(prepared, part, fold=fold)
        return {study.patient_id or f"study {study.id}" for study in studies}

    try:
        seen = patients(theirs, "train") | patients(theirs, "val")
    except DataError as error:
        raise CheckpointError(
            f"the folds of {theirs} cannot be compared with those of {ours}: {error}"
        ) from error
    return not seen & patients(ours, HELD_OUT)


def default_folder(recipe: Recipe) -> Path:
    """Where the folds of a recipe go: its own folder with "-folds"."""
    return recipe.out.with_name(recipe.out.name + SUFFIX)


def fold_recipe(recipe: Recipe, number: int, num_folds: int) -> Recipe:
    """The recipe of one fold, with the fold's own runs where it starts from runs."""
    whole = with_fold(recipe, number, num_folds)
    dumped = whole.model_dump()
    problems = []
    for key in _STARTS:
        *sections, name = key.split(".")
        section: Any = dumped
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or section.get(name) is None:
            continue
        try:
            start = section[name]
            several = isinstance(start, tuple)  # of an average
            parts = start if several else (start,)
            own = tuple(_of_fold(part, recipe, number, num_folds) for part in parts)
            section[name] = own if several else own[0]
        except CheckpointError as error:
            problems.append((key, str(error)))
    if problems:
        raise RecipeError(f"fold {number + 1} of {num_folds}", problems)
    return change_section(whole, dumped, title=f"fold {number + 1} of {num_folds}")


def with_fold(recipe: Recipe, number: int, num_folds: int) -> Recipe:
    """The recipe of one fold, which starts from what the recipe starts from."""
    data = recipe.data.model_dump() | {"fold": {"number": number, "of": num_folds}}
    return change_section(recipe, {"data": data}, title="this recipe")


def _of_fold(start: Path | str, recipe: Recipe, number: int, num_folds: int) -> Path | str:
    """What a fold starts from in place of `start`, which is a run or anything else."""
    path, kind, fold = Path(start), type(start), Fold(number, num_folds)
    for folder in (path, path.with_name(path.name + SUFFIX)) if path.name else ():
        run = fold_folder(folder, number)
        if not run.is_dir() and is_folds(folder):
            raise CheckpointError(
                f"{run} is missing: fold {number + 1} starts from it. Train the folds that are "
                f"left: radrep {read_folds(folder)[0].task} {folder} --resume"
            )
        if not run.is_dir():
            continue
        learned = read_recipe(find_checkpoint(run)).data
        if learned.fold is None or learned.fold.of != num_folds:
            raise CheckpointError(f"{run} is of other folds than these {num_folds}")
        leak = _find_leak(run, recipe.data.prepared, fold)
        if leak == run:
            raise CheckpointError(
                f"{run} learned from reports of patients that fold {number + 1} of "
                f"{recipe.data.prepared} holds out: it was trained on {learned.prepared}, whose "
                f"folds are others. Train folds of it with data.prepared={recipe.data.prepared}"
            )
        if leak is not None:
            raise _leak_error(run, leak, recipe.data.prepared, fold)
        return kind(run)
    leak = _find_leak(path, recipe.data.prepared, fold)
    if leak is not None:
        raise _leak_error(path, leak, recipe.data.prepared, fold)
    return start


def _find_leak(start: Path, prepared: Path, fold: Fold) -> Path | None:
    """What of weights and all that they started from learned from reports that a fold holds out."""
    for path in lineage(start):
        if not learned_reports_of(path, prepared):
            continue
        try:
            data = read_recipe(find_checkpoint(path)).data
        except CheckpointError:  # adapters, or a merged encoder
            return path
        same = data.fold is not None and (data.fold.number, data.fold.of) == (fold.number, fold.of)
        if not same or not _is_apart(data.prepared, prepared, fold):
            return path
    return None


def _leak_error(start: Path, leak: Path, prepared: Path, fold: Fold) -> CheckpointError:
    who = f"{start}" if leak == start else f"{start} started from {leak}, which"
    problem = (
        f"{who} learned from the reports of {prepared}, those that fold {fold.number + 1} holds "
        "out too"
    )
    try:
        task = read_recipe(find_checkpoint(leak)).task
    except CheckpointError:  # adapters, or a merged encoder
        return CheckpointError(f"{problem}: start the folds from something else")
    whose = "its folds" if leak == start else f"folds of {leak}, and of what starts from it,"
    return CheckpointError(
        f"{problem}. Train {whose} first: radrep {task} RECIPE --folds {fold.of}"
    )
