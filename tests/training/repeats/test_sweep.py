"""radrep sweep: settings that are searched, and that a stopped sweep goes on."""

import json
from pathlib import Path

import pytest

import radrep.training.repeats.sweep as module
from radrep.errors import RadrepError
from radrep.recipe.load import load_recipe
from radrep.training.loop import Interrupted
from radrep.training.repeats.sweep import parse_setting
from tests.training.test_folds import FEW, FROZEN
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
    other = radrep(*words[:-3], 3, *words[-2:])
    assert other.exit_code == 2
    assert "other folds" in other.stderr
