"""radrep train --seeds: what differs, what is summed up, what a resume keeps."""

from pathlib import Path
from statistics import mean, stdev

import pytest

from radrep.training.repeats.seeds import seed_folders, spread, validation_scores
from radrep.weights.folds import is_folds
from tests.training.test_folds import FEW, FROZEN
from tests.whole_way import radrep, write_recipe

pytestmark = pytest.mark.usefixtures("without_java", "shared_cache")


def test_spread_is_that_of_the_sample() -> None:
    found = spread([{"a": 1.0, "b": 2.0}, {"a": 4.0}, {"a": 4.0, "b": 0.0}])
    assert [each.name for each in found] == ["a"]
    assert found[0].mean == mean([1, 4, 4])
    assert found[0].deviation == pytest.approx(stdev([1, 4, 4]))


@pytest.mark.slow
def test_seeds_differ_in_their_seed_and_are_summed_up(phantoms: Path, tmp_path: Path) -> None:
    file = write_recipe(tmp_path, phantoms, train=FEW | {"seed": 7}, model=FROZEN)
    result = radrep("train", file, "--seeds", 2)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "run-seeds"
    runs = seed_folders(folder)
    texts = [(run / "recipe.yaml").read_text() for run in runs]
    assert ["seed: 7\n" in texts[0], "seed: 8\n" in texts[1]] == [True, True]
    losses = [validation_scores(run)["val/loss"] for run in runs]
    assert losses[0] != losses[1]
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("val/loss"))
    assert row[1:3] == [f"{mean(losses):.3f}", f"{stdev(losses):.3f}"]
    before = [(run / "best/weights.safetensors").stat().st_mtime_ns for run in runs]
    assert radrep("train", file, "--seeds", 2).exit_code == 2
    again = radrep("train", folder, "--resume")
    assert again.exit_code == 0, again.output
    assert [(run / "best/weights.safetensors").stat().st_mtime_ns for run in runs] == before
    other = radrep("train", folder, "--resume", "--seeds", 3)
    assert other.exit_code == 2
    assert "has 2, not --seeds 3" in other.stderr


@pytest.mark.slow
def test_seeds_of_folds_are_scored_on_what_folds_held_out(phantoms: Path, tmp_path: Path) -> None:
    file = write_recipe(tmp_path, phantoms, train=FEW, model=FROZEN)
    result = radrep("train", file, "--seeds", 2, "--folds", 2)
    assert result.exit_code == 0, result.output
    runs = seed_folders(tmp_path / "run-seeds")
    assert all(is_folds(run) and (run / "scores-heldout.json").is_file() for run in runs)
    assert "2 seeds: what folds held out" in result.stdout
    assert "published cider" in result.stdout
