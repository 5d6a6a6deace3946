"""The settings of a recipe that validate best: trials on folds, proposed by optuna.

OUT/sweep.json     what is searched: recipe, folds, settings
OUT/journal.log    the trials, as optuna keeps them
OUT/trial-0, ...   the folds of each trial
OUT/best.yaml      the recipe with the best settings so far
"""

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from radrep.atomic import atomic_write_text, check_output, make_folder, written_by_one
from radrep.errors import CheckpointError, RadrepError, RecipeError, WriteError
from radrep.json_text import load_json
from radrep.progress import Reporter
from radrep.recipe.load import dump_recipe, load_recipe
from radrep.recipe.recipe import Recipe
from radrep.training.accelerator import refuse_launch
from radrep.training.folds import fold_recipe, train_folds
from radrep.training.loop import Interrupted
from radrep.training.repeats.seeds import validation_scores
from radrep.weights.folds import is_folds

SUFFIX = "-sweep"
BEST_RECIPE = "best.yaml"
_ABOUT, _JOURNAL, _LOCK = "sweep.json", "journal.log", ".lock"
_WIDE = 10  # from a factor of so much on, a range is searched by its logarithm


@dataclass(frozen=True)
class Setting:
    """What a key of the recipe is tried with: a range, or one of several values."""

    key: str
    low: float | int | None
    high: float | int | None
    values: tuple[str, ...] = ()

    def propose(self, trial: Any) -> object:
        """The value of a trial of optuna."""
        if self.values:
            return trial.suggest_categorical(self.key, self.values)
        assert self.low is not None, "it has values or a range"
        assert self.high is not None, "it has values or a range"
        log = self.low > 0 and self.high >= _WIDE * self.low
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=log)
        return trial.suggest_float(self.key, self.low, self.high, log=log)


@dataclass(frozen=True)
class Trial:
    """One trial; without a value it failed."""

    number: int
    value: float | None
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class SweepResult:
    """The trials, the best first."""

    folder: Path
    monitor: str
    trials: tuple[Trial, ...]


def parse_setting(typed: str) -> Setting:
    """Read "optim.lr=1e-5..1e-3" or "train.batch_size=8,16"; RadrepError if it is neither."""
    key, equals, value = (part.strip() for part in typed.partition("="))
    low, dots, high = value.partition("..")
    if equals and key and dots:
        try:
            first, last = _number(low), _number(high)
        except ValueError:
            first = last = math.nan
        if first < last < math.inf:
            return Setting(key, first, last)
    values = tuple(each.strip() for each in value.split(","))
    if equals and key and not dots and len(set(values)) == len(values) > 1 and all(values):
        return Setting(key, None, None, values)
    raise RadrepError(
        f"--param takes KEY=LOW..HIGH, such as optim.lr=1e-5..1e-3, or KEY=A,B,C, got '{typed}'"
    )


def _number(typed: str) -> int | float:
    return int(typed) if typed.strip().lstrip("-").isdecimal() else float(typed)


def check_optuna() -> None:
    """Raise RadrepError if optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise RadrepError("optuna is not installed. Install it with: pip install 'radrep[sweep]'")


def sweep(
    name: str,
    overrides: Sequence[str],
    settings: Sequence[Setting],
    *,
    num_folds: int,
    num_trials: int,
    out: Path | None = None,
    reporter: Reporter | None = None,
) -> SweepResult:
    """Try settings until a folder has `num_trials` trials; a trial that was stopped goes on.

    A trial's value is train.monitor of its folds' best checkpoints, averaged: of validation
    studies, never of those that a fold holds out. A trial whose settings do not go together, take
    more memory than a GPU has or whose loss is not finite has none.

    Raises:
        RecipeError, DataError, CheckpointError: As in training, from the first trial.
        DataError: If another process searches in the folder.
        WriteError: If the disk refuses a file; the same call goes on.
        Interrupted: If the user stopped it; the same call goes on.
    """
    refuse_launch("radrep sweep")
    check_optuna()
    recipe, reporter = load_recipe(name, overrides), reporter or Reporter()
    for setting in settings:  # a key that is misspelt, or a bound out of range
        for value in setting.values or (setting.low, setting.high):
            load_recipe(name, [*overrides, f"{setting.key}={value}"])
    settings = [_with_fractions(setting, name, overrides) for setting in settings]
    for number in range(num_folds):  # whether what folds start from has as many
        fold_recipe(recipe, number, num_folds)
    folder = out or recipe.out.with_name(recipe.out.name + SUFFIX)
    _open(folder, recipe, settings, num_folds)
    with written_by_one(folder, folder / _LOCK, "radrep sweep"):
        study = _open_study(folder, recipe)
        stopped = [trial for trial in study.trials if not trial.state.is_finished()]
        while stopped or len(study.trials) < num_trials:
            number, values = _next_trial(study, stopped, settings)
            # A process may have ended between two proposals; then the trial is begun anew.
            if len(values) < len(settings):
                _fail(study, number)
                continue
            shown = ", ".join(f"{key} {value}" for key, value in values.items())
            reporter.info("trial", f"{number + 1} of {num_trials}: {shown}")
            typed = [*overrides, *(f"{key}={value}" for key, value in values.items())]
            place = folder / f"trial-{number}"
            try:
                own = load_recipe(name, typed)
                found = _train_trial(own, num_folds, place, recipe.train.monitor, reporter)
            except Interrupted as stop:
                stop.run = folder
                raise
            except WriteError:  # no fault of the settings
                raise
            except (RadrepError, torch.OutOfMemoryError) as error:
                _fail(study, number)
                if not any(t.value is not None for t in study.trials):
                    raise
                reporter.warn(f"trial {number + 1} has no value: {error}")
                continue
            study.tell(number, found)
            text = f"{number + 1} of {num_trials}: {recipe.train.monitor} {found:.4g}"
            reporter.info("trial", text)
            best = [*overrides, *(f"{key}={v}" for key, v in study.best_params.items())]
            atomic_write_text(folder / BEST_RECIPE, dump_recipe(load_recipe(name, best)))
        trials = [Trial(t.number, t.value, dict(t.params)) for t in study.trials]
    sign = 1 if _is_loss(recipe) else -1
    trials.sort(key=lambda t: math.inf if t.value is None else sign * t.value)
    return SweepResult(folder, recipe.train.monitor, tuple(trials))


def _with_fractions(setting: Setting, name: str, overrides: Sequence[str]) -> Setting:
    """A range of whole numbers as one of any, where its key takes others: 0..1 of a share."""
    if not isinstance(setting.low, int) or not isinstance(setting.high, int):
        return setting
    try:
        load_recipe(name, [*overrides, f"{setting.key}={setting.low + 0.5}"])
    except RecipeError:
        return setting
    return replace(setting, low=float(setting.low), high=float(setting.high))


def _is_loss(recipe: Recipe) -> bool:
    return recipe.train.monitor == "val/loss"


def _open_study(folder: Path, recipe: Recipe) -> Any:
    """The trials of a folder, of a new one none."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / _JOURNAL)))
    done = len(storage.get_all_trials(0)) if storage.get_all_studies() else 0
    return optuna.create_study(
        storage=storage,
        study_name="sweep",
        direction="minimize" if _is_loss(recipe) else "maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=recipe.train.seed + done),
    )


def _next_trial(
    study: Any, stopped: list[Any], settings: Sequence[Setting]
) -> tuple[int, dict[str, Any]]:
    """The number and the settings of a stopped trial, which leaves the list, or of a new one."""
    if stopped:
        trial = stopped.pop(0)
        return trial.number, dict(trial.params)
    trial = study.ask()
    return trial.number, {setting.key: setting.propose(trial) for setting in settings}


def _train_trial(
    recipe: Recipe, num_folds: int, place: Path, monitor: str, reporter: Reporter
) -> float:
    """Train the folds of a trial, or those that are left; its value."""
    train_folds(recipe, num_folds, out=place, resume=is_folds(place), reporter=reporter)
    found = validation_scores(place).get(monitor, math.nan)
    if not math.isfinite(found):
        raise CheckpointError(f"the folds of {place} have no finite {monitor}")
    return found


def _fail(study: Any, number: int) -> None:
    from optuna.trial import TrialState

    study.tell(number, state=TrialState.FAIL)


def _open(folder: Path, recipe: Recipe, settings: Sequence[Setting], num_folds: int) -> None:
    """Make the folder of a sweep; CheckpointError if it is another one's, or anything else."""
    about = {
        "recipe": recipe.model_dump(mode="json"),
        "folds": num_folds,
        "settings": [vars(setting) | {"values": list(setting.values)} for setting in settings],
    }
    check_output(folder, "--out", folder=True, new=False)
    file = folder / _ABOUT
    if file.is_file():
        try:
            there = load_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); name another --out") from error
        if there != json.loads(json.dumps(about)):
            other = [key for key in about if there.get(key) != json.loads(json.dumps(about[key]))]
            raise CheckpointError(
                f"{folder} is a sweep with other {', '.join(other)}; name another --out"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} exists already and is no sweep; name another --out")
    else:
        make_folder(folder)
        atomic_write_text(file, json.dumps(about, indent=1) + "\n")
