"""The runs of a folder: what each is and has reached, and what of it nobody needs."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from radrep.atomic import remove_tree
from radrep.errors import CheckpointError, RecipeError
from radrep.recipe.load import load_recipe
from radrep.recipe.recipe import Recipe
from radrep.weights.run_folder import (
    BEST,
    CHECKPOINTS,
    ENVIRONMENT,
    LOCK,
    METRICS,
    RECIPE,
    best_checkpoint,
    find_partials,
    hold,
    last_checkpoint,
    read_scores,
    read_seconds,
    step_folders,
    step_of,
)

_DEPTH = 4  # runs/NAME-seeds/seed-0/fold-0
_OF_EMPTY = {RECIPE, METRICS, LOCK, CHECKPOINTS, ENVIRONMENT, "tensorboard", "wandb"}


@dataclass(frozen=True)
class RunFacts:
    """One run.

    Attributes:
        recipe: None where this radrep cannot read it.
        step: Of the best checkpoint, None before the first validation.
        scores: Of the validation that chose it.
        seconds: That it was trained, up to its last checkpoint; None of an older radrep.
        changed: When its log last was.
    """

    folder: Path
    recipe: Recipe | None
    step: int | None
    scores: dict[str, float]
    seconds: float | None
    changed: datetime
    num_bytes: int

    @property
    def best(self) -> float | None:
        """The monitor's value of the best checkpoint."""
        return None if self.recipe is None else self.scores.get(self.recipe.train.monitor)


@dataclass(frozen=True)
class Waste:
    """A file or folder of a run that nothing needs."""

    run: Path
    path: Path
    reason: str
    num_bytes: int


def find_runs(folder: Path) -> list[Path]:
    """The runs in a folder, or the one that it is, those of folds and seeds too."""
    if _is_run(folder):
        return [folder]
    if not folder.is_dir():
        raise CheckpointError(f"{folder} not found; name the folder of your runs")
    patterns = ("/".join("*" * depth) for depth in range(1, _DEPTH))
    return sorted(p for pattern in patterns for p in folder.glob(pattern) if _is_run(p))


def describe_run(run: Path) -> RunFacts:
    """Read what a run is and has reached; its weights stay unread."""
    recipe = None
    with suppress(RecipeError):
        recipe = load_recipe(str(run / RECIPE))
    best = best_checkpoint(run)
    step = None if best is None else step_of(best)
    log = run / METRICS if (run / METRICS).is_file() else run / RECIPE
    changed = datetime.fromtimestamp(log.stat().st_mtime)
    scores = {} if step is None else read_scores(run, step)
    return RunFacts(run, recipe, step, scores, read_seconds(run), changed, _num_bytes(run))


def find_waste(run: Path) -> Iterator[Waste]:
    """What of a run can go; CheckpointError if it is being trained.

    Its best and its last checkpoint never can.
    """
    with ExitStack() as held:
        if (run / LOCK).is_file():
            hold(run, held)
        folders = step_folders(run)
        if not folders and not (run / BEST).exists() and _is_empty(run):
            yield Waste(run, run, "a run that ended before its first checkpoint", _num_bytes(run))
            return
        needed = {path.resolve() for path in (best_checkpoint(run), last_checkpoint(run)) if path}
        for path in folders:
            if path.resolve() not in needed:
                yield Waste(run, path, "neither the best nor the last checkpoint", _num_bytes(path))
        for path in run.glob(f"{CHECKPOINTS}/step-*.damaged"):
            yield Waste(run, path, "a damaged checkpoint", _num_bytes(path))
        for path in find_partials(run):
            yield Waste(run, path, "half written when a process was killed", _num_bytes(path))


def remove_waste(waste: Waste) -> list[OSError]:
    """Remove what a run still does not need; the errors of what stays."""
    for each in find_waste(waste.run):
        if each.path == waste.path:
            return remove_tree(waste.path)  # while the run's lock is held
    return []  # the run went on meanwhile


def _is_run(folder: Path) -> bool:
    return (folder / RECIPE).is_file() and (
        (folder / CHECKPOINTS).is_dir() or (folder / LOCK).is_file()
    )


def _is_empty(run: Path) -> bool:
    """Whether a run has nothing but what radrep writes before its first checkpoint."""
    own = {path.name for path in run.iterdir()} <= _OF_EMPTY
    return own and not any((run / CHECKPOINTS).glob("*"))


def _num_bytes(path: Path) -> int:
    total = 0
    for file in (path, *path.rglob("*")):
        with suppress(OSError):  # it goes while this counts
            total += file.lstat().st_size if not file.is_dir() or file.is_symlink() else 0
    return total
