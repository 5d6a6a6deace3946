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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radrep.atomic import atomic_write_text, check_output, make_folder
from radrep.errors import CheckpointError, RadrepError
from radrep.json_text import load_json
from radrep.progress import Reporter
from radrep.recipe.load import dump_recipe, load_recipe
from radrep.recipe.recipe import Recipe
from radrep.training.accelerator import refuse_launch
from radrep.training.folds import train_folds
from radrep.training.loop import Interrupted
from radrep.training.repeats.seeds import validation_scores
from radrep.weights.folds import is_folds

SUFFIX = "-sweep"
BEST_RECIPE = "best.yaml"
_ABOUT, _JOURNAL = "sweep.json", "journal.log"
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
    studies, never of those that a fold holds out. A trial whose settings do not go together or
    whose loss is not finite has none.

    Raises:
        RecipeError, DataError, CheckpointError: As in training, from the first trial.
        Interrupted: If the user stopped it; the same call goes on.
    """
    refuse_launch("radrep sweep")
    check_optuna()
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    recipe, reporter = load_recipe(name, overrides), reporter or Reporter()
    for setting in settings:  # a key that is misspelt, or a bound out of range
        for value in setting.values or (setting.low, setting.high):
            load_recipe(name, [*overrides, f"{setting.key}={value}"])
    folder = out or recipe.out.with_name(recipe.out.name + SUFFIX)
    _open(folder, recipe, settings, num_folds)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    is_loss = recipe.train.monitor == "val/loss"
    storage = JournalStorage(JournalFileBackend(str(folder / _JOURNAL)))

    def open_study() -> Any:
        done = len(storage.get_all_trials(0)) if storage.get_all_studies() else 0
        return optuna.create_study(
            storage=storage,
            study_name="sweep",
            direction="minimize" if is_loss else "maximize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=recipe.train.seed + done),
        )

    study = open_study()
    running = [trial for trial in study.trials if not trial.state.is_finished()]
    while running or len(study.trials) < num_trials:
        if running:
            stopped = running.pop(0)
            number, values = stopped.number, dict(stopped.params)
            trial: Any = number
            # A process may have ended between two proposals; then the trial is begun anew.
            if len(values) < len(settings):
                study.tell(number, state=optuna.trial.TrialState.FAIL)
                continue
        else:
            trial = study.ask()
            number = trial.number
            values = {setting.key: setting.propose(trial) for setting in settings}
        shown = ", ".join(f"{key} {value}" for key, value in values.items())
        reporter.info("trial", f"{number + 1} of {num_trials}: {shown}")
        place, typed = folder / f"trial-{number}", [f"{k}={v}" for k, v in values.items()]
        try:
            own = load_recipe(name, [*overrides, *typed])
            train_folds(own, num_folds, out=place, resume=is_folds(place), reporter=reporter)
        except Interrupted as stop:
            stop.run = folder
            raise
        except RadrepError as error:
            if not any(t.value is not None for t in study.trials):
                study.tell(number, state=optuna.trial.TrialState.FAIL)
                raise
            reporter.warn(f"trial {number + 1} has no value: {error}")
            study.tell(number, state=optuna.trial.TrialState.FAIL)
            continue
        value = validation_scores(place)[recipe.train.monitor]
        study.tell(number, value)
        reporter.info("trial", f"{number + 1} of {num_trials}: {recipe.train.monitor} {value:.4g}")
        best = [*overrides, *(f"{key}={v}" for key, v in study.best_params.items())]
        atomic_write_text(folder / BEST_RECIPE, dump_recipe(load_recipe(name, best)))
    trials = [Trial(t.number, t.value, dict(t.params)) for t in study.trials]
    worst, sign = math.inf, 1 if is_loss else -1
    trials.sort(key=lambda t: worst if t.value is None else sign * t.value)
    return SweepResult(folder, recipe.train.monitor, tuple(trials))


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
