"""radrep runs: what is there, how two differ, and that cleaning keeps what is needed."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from radrep.cli import app
from radrep.weights.run_folder import BEST, CHECKPOINTS, best_checkpoint, hold, last_checkpoint
from radrep.weights.runs import find_waste, remove_waste
from tests.whole_way import radrep, read_metrics


@pytest.fixture
def runs(trained_run: Path, tmp_path: Path) -> Path:
    """Two runs, of which the second has another rate and reached another score."""
    for name in ("a", "b"):
        shutil.copytree(trained_run, tmp_path / "runs" / name, symlinks=True)
    other = tmp_path / "runs/b"
    recipe = other / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("lr: 0.0007", "lr: 0.25"))
    log = other / "metrics.jsonl"
    log.write_text(log.read_text().replace('"val/loss": ', '"val/loss": 1'))
    return tmp_path / "runs"


def test_runs_are_listed_with_what_they_reached(runs: Path, trained_run: Path) -> None:
    result = radrep("runs", "--runs", runs)
    assert result.exit_code == 0, result.output
    head, *rows = (line.split() for line in result.stdout.splitlines())
    assert head == ["run", "recipe", "data", "best", "value", "time", "changed", "MB"]
    assert [row[:2] for row in rows] == [["a", "tiny"], ["b", "tiny"]]
    best = min(row["val/loss"] for row in read_metrics(trained_run) if "val/loss" in row)
    assert rows[0][3:5] == ["loss", f"{best:.3f}"]
    assert rows[0][6] in ("s", "min"), "of a unit of its own"
    assert max(map(len, result.stdout.splitlines())) <= 80
    one = radrep("runs", "--runs", runs / "a")
    assert one.stdout.splitlines()[1].split()[0] == "a"
    assert radrep("runs", "--runs", runs / "none").exit_code == 2


def test_a_run_that_names_no_recipe_is_listed_by_its_model(runs: Path) -> None:
    older = runs / "a/recipe.yaml"
    lines = older.read_text().splitlines()
    assert lines[0] == "name: tiny"
    older.write_text("\n".join(lines[1:]))
    rows = [line.split() for line in radrep("runs", "--runs", runs).stdout.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["a", "(csr_lmca)"], ["b", "tiny"]]


def test_the_longest_names_of_a_cpu_recipe_and_its_run_fit_a_terminal(runs: Path) -> None:
    name = "csr_lmca_iu_cpu"
    for run in (runs / "a").rename(runs / name), runs / "b":
        text = (run / "recipe.yaml").read_text()
        (run / "recipe.yaml").write_text(text.replace("name: tiny", f"name: {name}", 1))
    lines = radrep("runs", "--runs", runs).stdout.splitlines()
    assert lines[2].split()[:2] == [name, name]
    assert max(map(len, lines)) <= 80


def test_a_run_of_another_radrep_is_listed_too(runs: Path) -> None:
    (runs / "b/recipe.yaml").write_text("no: recipe\n")
    result = radrep("runs", "--runs", runs)
    assert result.exit_code == 0, result.output
    assert "of another radrep" in result.stdout
    compared = radrep("runs", "compare", runs / "a", runs / "b")
    assert compared.exit_code == 2
    assert "cannot be read" in compared.stderr


def test_compare_shows_recipes_and_scores(runs: Path) -> None:
    result = radrep("runs", "compare", runs / "a", runs / "b")
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    assert rows["optim.lr"] == ["0.0007", "0.25"]
    assert "out" not in rows
    first, second, difference = map(float, rows["val/loss"])
    assert second == pytest.approx(10 + first, abs=1e-3)
    assert difference == pytest.approx(10, abs=1e-3)
    same = radrep("runs", "compare", runs / "a", runs / "a")
    assert "differ in nothing" in same.stdout
    assert radrep("runs", "compare", runs / "a", runs).exit_code == 2


def test_clean_asks_and_keeps_what_is_needed(runs: Path) -> None:
    run = runs / "a"
    best, last = best_checkpoint(run), last_checkpoint(run)
    assert best is not None
    assert last is not None
    old = run / CHECKPOINTS / "step-0000001"
    shutil.copytree(last, old)
    shutil.copytree(last, run / CHECKPOINTS / "step-0000099.damaged")
    (run / ".metrics.jsonl.7.partial").write_text("half")
    empty = runs / "empty"
    empty.mkdir()
    (empty / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    (empty / ".lock").touch()
    kept = runs / "kept"
    shutil.copytree(empty, kept)
    (kept / "notes.txt").write_text("mine")
    asked = CliRunner().invoke(app, ["runs", "clean", "--runs", str(runs)], input="n\n")
    assert "Nothing was removed" in asked.output
    assert old.is_dir()
    result = radrep("runs", "clean", "--runs", runs, "--yes")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1 + 4 + 1
    assert not any(path.exists() for path in (old, empty, run / ".metrics.jsonl.7.partial"))
    assert best.is_dir()
    assert last.is_dir()
    assert kept.is_dir()
    assert best_checkpoint(run) == best
    assert "nothing to remove" in radrep("runs", "clean", "--runs", runs).stdout


def test_a_run_that_is_trained_now_is_left_alone(runs: Path) -> None:
    (runs / "a/.metrics.jsonl.7.partial").write_text("half")
    with ExitStack() as held:
        hold(runs / "a", held)
        code = (
            f"from tests.whole_way import radrep; r = radrep('runs', 'clean', '--runs', "
            f"{str(runs)!r}, '--yes'); print(r.output); raise SystemExit(r.exit_code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "being trained" in done.stdout
    assert (runs / "a/.metrics.jsonl.7.partial").is_file()


def test_a_run_that_goes_on_while_clean_asks_costs_the_others_nothing(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [runs / name / ".metrics.jsonl.7.partial" for name in ("a", "b")]
    for path in left:
        path.write_text("half")
    with ExitStack() as held:

        def say_yes(_: str) -> bool:
            hold(runs / "a", held)
            return True

        monkeypatch.setattr("typer.confirm", say_yes)
        result = radrep("runs", "clean", "--runs", runs)
    assert result.exit_code == 0, result.output
    assert "being trained" in " ".join(result.stderr.split())
    assert [path.exists() for path in left] == [True, False]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.sets(st.integers(1, 40), min_size=1, max_size=6), data=st.data())
def test_neither_the_best_nor_the_last_checkpoint_ever_goes(
    tmp_path: Path, steps: set[int], data: st.DataObject
) -> None:
    run = tmp_path / "-".join(map(str, sorted(steps)))
    shutil.rmtree(run, ignore_errors=True)
    for step in steps:
        (run / CHECKPOINTS / f"step-{step:07d}").mkdir(parents=True)
    chosen = data.draw(st.sampled_from(sorted(steps)))
    os.symlink(f"{CHECKPOINTS}/step-{chosen:07d}", run / BEST)
    for waste in list(find_waste(run)):
        remove_waste(waste)
    left = {int(path.name[5:]) for path in (run / CHECKPOINTS).iterdir()}
    assert left == {chosen, max(steps)}
