"""radrep sweep: settings that are searched, and that a stopped sweep goes on."""

import json
import math
import os
import signal
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

import radrep.training.repeats.sweep as module
from radrep.atomic import locked, make_folder
from radrep.errors import RadrepError, WriteError
from radrep.recipe.load import dump_recipe, load_recipe
from radrep.training.folds import fold_recipe, with_fold
from radrep.training.loop import Interrupted
from radrep.training.repeats.seeds import validation_scores
from radrep.training.repeats.sweep import parse_setting
from tests.training.test_folds import FEW, FROZEN, make_run
from tests.whole_way import radrep, write_recipe

pytestmark = pytest.mark.usefixtures("without_java", "shared_cache")


def test_settings_are_ranges_or_values() -> None:
    rate = parse_setting("optim.lr=1e-5..1e-3")
    assert (rate.key, rate.low, rate.high, rate.values) == ("optim.lr", 1e-5, 1e-3, ())
    size = parse_setting("train.batch_size = 8..32")
    assert (size.low, size.high) == (8, 32)
    assert isinstance(size.low, int)
    assert parse_setting("a.b=x, y").values == ("x", "y")


@pytest.mark.parametrize(
    "typed", ["optim.lr", "optim.lr=1e-3", "optim.lr=2..1", "a=1..x", "a=1,1", "=1..2", "a=1..inf"]
)
def test_a_setting_that_is_none_is_refused(typed: str) -> None:
    with pytest.raises(RadrepError, match=r"KEY=LOW\.\.HIGH"):
        parse_setting(typed)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ((), "name what to search"),
        (("optim.lrr=1..2",), "optim.lrr"),
        (("optim.lr=-1.0..2",), "optim.lr"),
        (("optim.lr=1..2", "optim.lr=2..3"), "two --param"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_any_trial(
    params: tuple[str, ...], words: str, phantoms: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    file = write_recipe(tmp_path, phantoms)
    result = radrep("sweep", file, *(word for each in params for word in ("--param", each)))
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "run-sweep").exists()


@pytest.mark.slow
def test_a_sweep_finds_the_better_rate_and_goes_on_after_a_stop(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    file = write_recipe(tmp_path, phantoms, train=FEW, model=FROZEN)
    words = ("sweep", file, "--param", "optim.lr=1e-9,1e-3", "--folds", 2, "--trials", 3)
    train_folds, calls = module.train_folds, []

    def stopped_once(*args: object, **options: object) -> Path:
        folder = train_folds(*args, **options)
        calls.append(options["resume"])
        if len(calls) == 2:
            raise Interrupted("stopped")
        return folder

    monkeypatch.setattr(module, "train_folds", stopped_once)
    first = radrep(*words)
    assert first.exit_code == 130, first.output
    folder = tmp_path / "run-sweep"
    result = radrep(*words)
    assert result.exit_code == 0, result.output
    assert calls == [False, False, True, False]
    assert sorted(p.name for p in folder.glob("trial-*")) == ["trial-0", "trial-1", "trial-2"]
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("trial-")]
    values = [float(row[1]) for row in rows]
    assert values == sorted(values)
    tried = {row[2] for row in rows}
    assert rows[0][2] == ("1e-3" if "1e-3" in tried else "1e-9")
    assert load_recipe(str(folder / "best.yaml")).optim.lr == float(rows[0][2])
    assert json.loads((folder / "sweep.json").read_text())["folds"] == 2
    losses = [validation_scores(folder / rows[0][0] / f"fold-{n}")["val/loss"] for n in range(2)]
    spread = f"mean {mean(losses):.3f}, s.d. {stdev(losses):.3f}"
    assert f"Best: {rows[0][0]}, val/loss of 2 folds: {spread}" in result.stdout
    other = radrep(*words[:-3], 3, *words[-2:])
    assert other.exit_code == 2
    assert "other folds" in other.stderr


@pytest.fixture
def sweep_of_three(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, ...]:
    """The words of a sweep whose folds are not trained: the higher the rate, the lower the loss."""
    pytest.importorskip("optuna")

    def score(place: Path) -> dict[str, float]:
        return {"val/loss": -load_recipe(str(place / "folds.yaml")).optim.lr}

    def train(recipe: Any, num_folds: int, *, out: Path, **_: object) -> Path:
        make_folder(out)
        (out / "folds.yaml").write_text(dump_recipe(with_fold(recipe, 0, num_folds)))
        return out

    monkeypatch.setattr(module, "train_folds", train)
    monkeypatch.setattr(module, "validation_scores", score)
    file = write_recipe(tmp_path, phantoms, train=FEW, model=FROZEN)
    return ("sweep", file, "--param", "optim.lr=1e-9..1e-1", "--folds", 2, "--trials", 3)


def test_a_full_disk_costs_a_sweep_no_trial(
    sweep_of_three: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = module.train_folds, []

    def fill(*args: Any, **options: Any) -> Path:
        calls.append(options["out"].name)
        if len(calls) == 2:
            raise WriteError("weights.safetensors could not be written: no space left")
        return train(*args, **options)

    monkeypatch.setattr(module, "train_folds", fill)
    full = radrep(*sweep_of_three)
    assert full.exit_code == 2
    assert "no space left" in full.stderr
    done = radrep(*sweep_of_three)
    assert done.exit_code == 0, done.output
    assert calls == ["trial-0", "trial-1", "trial-1", "trial-2"]
    assert done.stdout.count("trial-") == 4  # three rows, and what scores the best


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_outside_of_the_steps_costs_a_sweep_no_trial(
    number: int, sweep_of_three: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = module.train_folds, []

    def signalled(*args: Any, **options: Any) -> Path:
        calls.append(options["out"].name)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return train(*args, **options)

    monkeypatch.setattr(module, "train_folds", signalled)
    stopped = radrep(*sweep_of_three)
    assert stopped.exit_code == 75, stopped.output
    assert "stopped; the same command goes on with this trial" in stopped.stderr
    done = radrep(*sweep_of_three)
    assert done.exit_code == 0, done.output
    assert calls == ["trial-0", "trial-1", "trial-1", "trial-2"]


def test_settings_that_fail_cost_a_sweep_their_trial(
    sweep_of_three: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.3, math.nan, 0.2])
    monkeypatch.setattr(module, "validation_scores", lambda _: {"val/loss": next(scores)})
    result = radrep(*sweep_of_three)
    assert result.exit_code == 0, result.output
    assert "trial 2 has no value" in " ".join(result.stderr.split())
    rows = [line.split()[:2] for line in result.stdout.splitlines() if line.startswith("trial-")]
    assert rows == [["trial-2", "0.200"], ["trial-0", "0.300"], ["trial-1", "-"]]


def test_one_process_searches_in_a_folder(sweep_of_three: tuple[Any, ...], tmp_path: Path) -> None:
    assert radrep(*sweep_of_three[:-1], 1).exit_code == 0
    with locked(tmp_path / "run-sweep/.lock"):
        result = radrep(*sweep_of_three)
    assert result.exit_code == 2
    assert "another radrep sweep" in " ".join(result.stderr.split())
    assert radrep(*sweep_of_three).exit_code == 0


def test_folds_that_a_sweep_lacks_are_named_before_its_folder_is_made(
    phantoms: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    weights = tmp_path / "first"
    model = {"backbone": FROZEN["backbone"] | {"weights": str(weights)}}
    recipe = load_recipe(str(write_recipe(tmp_path, phantoms, train=FEW, model=FROZEN)))
    file = write_recipe(tmp_path, phantoms, train=FEW, model=model)
    make_run(tmp_path / "first-folds/fold-0", fold_recipe(recipe, 0, 2))
    (tmp_path / "first-folds/folds.yaml").write_text(dump_recipe(with_fold(recipe, 0, 2)))
    result = radrep("sweep", file, "--param", "optim.lr=1e-9..1e-1", "--folds", 2)
    assert result.exit_code == 2
    text = " ".join(result.stderr.split())
    assert "fold-1 is missing" in text
    assert "first-folds --resume" in text
    assert not (tmp_path / "run-sweep").exists()


def test_each_fold_of_a_trial_starts_from_the_same_fold_of_what_the_recipe_names(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    started: list[str] = []
    monkeypatch.setattr(
        "radrep.training.folds.train",
        lambda recipe, **_: started.append(recipe.model.backbone.weights),
    )
    monkeypatch.setattr(module, "validation_scores", lambda _: {"val/loss": 0.5})
    recipe = load_recipe(str(write_recipe(tmp_path, phantoms, train=FEW, model=FROZEN)))
    for number in range(2):
        make_run(tmp_path / f"first-folds/fold-{number}", fold_recipe(recipe, number, 2))
    model = {"backbone": FROZEN["backbone"] | {"weights": str(tmp_path / "first")}}
    file = write_recipe(tmp_path, phantoms, train=FEW, model=model)
    words = ("sweep", file, "--param", "optim.lr=1..3", "--folds", 2, "--trials", 2)
    result = radrep(*words)
    assert result.exit_code == 0, result.output
    assert started == [str(tmp_path / f"first-folds/fold-{n}") for n in (0, 1, 0, 1)]
    # A range of a key that takes fractions has them, though its bounds are whole.
    best = load_recipe(str(tmp_path / "run-sweep/best.yaml")).optim.lr
    assert 1 < best < 3
    assert best != 2


def test_a_range_of_whole_numbers_stays_one(
    sweep_of_three: tuple[Any, ...], tmp_path: Path
) -> None:
    words = [
        each if "optim.lr" not in str(each) else "train.batch_size=4..9" for each in sweep_of_three
    ]
    result = radrep(*words)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("trial-")]
    assert all(4 <= int(row[2]) <= 9 for row in rows)
