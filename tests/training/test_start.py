"""Where a run starts or goes on: its recipe, its lock, starts that ended before a checkpoint."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
import yaml

from radrep.atomic import locked
from radrep.errors import CheckpointError
from radrep.training import run as run_module
from radrep.training import start
from radrep.training.loop import Interrupted, Progress
from radrep.weights import checkpoint
from radrep.weights.run_folder import last_checkpoint, read_seconds
from tests.whole_way import radrep, read_metrics, write_recipe


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of two epochs."""
    return Path(shutil.copytree(trained_run, tmp_path / "run", symlinks=True))


def plain(text: str) -> str:
    return " ".join(text.split())


def test_what_may_change_is_applied_and_written_down(run: Path) -> None:
    changes = ("--set", "train.epochs=3", "--set", "optim.lr=1.0e-05")
    before = read_seconds(run)
    result = radrep("train", run, "--resume", *changes)
    assert result.exit_code == 0, result.output
    assert "optim.lr: 1e-05 from step 8 on, was 0.0007" in plain(result.output)
    last = last_checkpoint(run)
    assert last is not None
    for folder in (run, last):
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        assert (recipe["optim"]["lr"], recipe["train"]["epochs"]) == (1e-5, 3)
    groups = torch.load(last / "training.pt", weights_only=True)["optimizer"]["param_groups"]
    tops = {group["name"]: group["top_lr"] for group in groups}
    assert tops == {"encoder": 5e-5, "rest": 1e-5}
    rates = {row["step"]: row["lr"] for row in read_metrics(run) if "lr" in row}
    assert max(rates) == 12
    assert max(rate for step, rate in rates.items() if step > 8) < 5e-5
    changed = json.loads((run / "environment.json").read_text())["changed"]
    assert {"step": 8, "key": "optim.lr", "from": 7e-4, "to": 1e-5} in changed
    assert (read_seconds(run) or 0) > (before or 0) > 0
    again = radrep("train", run, "--resume", "--set", "train.log_every=2")
    assert again.exit_code == 0, again.output
    assert len(json.loads((run / "environment.json").read_text())["changed"]) == 3


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("optim.amsgrad", False, "optim.amsgrad is False and was True"),
        ("train.batch_size", 4, "8 studies a step (1 x 8 x 1"),
        ("train.seed", 1, "train.seed is 1 and was 9233"),
        ("model.memory.top_k", 2, "model.memory.top_k is 2 and was 4"),
        ("decode.max_new_tokens", 13, "decode.max_new_tokens is 13 and was 12"),
    ],
)
@pytest.mark.parametrize("by", ["option", "file"])
def test_what_may_not_change_is_refused_by_name(
    run: Path, key: str, value: Any, told: str, by: str
) -> None:
    words = ["--set", f"{key}={json.dumps(value)}"] if by == "option" else []
    file = run / "recipe.yaml"
    if by == "file":
        recipe = yaml.safe_load(file.read_text())
        *sections, name = key.split(".")
        section = recipe
        for part in sections:
            section = section[part]
        section[name] = value
        file.write_text(yaml.safe_dump(recipe))
    before = file.read_bytes()
    result = radrep("train", run, "--resume", *words)
    assert result.exit_code == 2
    assert told in plain(result.stderr)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "progress",
    [None, {}, {"step": 1, "unknown": 2}, {"step": -1}, {"step": 2**50}, {"step": "1"},
     {"losses": 3}, {"losses": ["x"]}, {"others": [1]}, {"best": "high"}],
)  # fmt: skip
def test_progress_that_no_run_wrote_is_refused(progress: object) -> None:
    state = {} if progress == {} else {"progress": progress}
    with pytest.raises(CheckpointError, match="its progress is of another form"):
        start._read_progress(state, Path("last"))
    whole = asdict(Progress(step=3, best=0.5, losses=[1.0], others={"a": [2.0]}))
    assert start._read_progress({"progress": whole}, Path("last")) == Progress(**whole)


def test_the_docs_have_every_key_that_may_change() -> None:
    text = (Path(__file__).parents[2] / ".github/docs/weights.md").read_text()
    assert not [key for key in start._MAY_CHANGE if f"`{key}`" not in text]


def test_another_machine_is_told_and_written_down(run: Path) -> None:
    file = run / "environment.json"
    environment = json.loads(file.read_text())
    environment["num_threads"] += 1
    environment["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(environment))
    told = plain(radrep("train", run, "--resume").stderr)
    threads = environment["num_threads"]
    assert f"num_threads was {threads} and is {threads - 1}" in told
    assert "versions.torch was 1.0 and is" in told
    assert "platform was" not in told
    assert "may differ" not in radrep("train", run, "--resume").stderr


def test_a_recipe_that_is_not_the_runs_own_is_told(run: Path, phantoms: Path) -> None:
    recipe = write_recipe(run.parent, phantoms, optim={"lr": 1e-3})
    result = radrep("train", recipe, "--resume")
    assert result.exit_code == 0, result.output
    assert "goes on with its own, which differs here in: optim.lr" in plain(result.output)


def test_a_run_that_is_trained_is_not_resumed_by_a_second_process(run: Path) -> None:
    lock = "import sys, time; from pathlib import Path; from radrep.atomic import locked\n"
    lock += "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", lock, str(run / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        refused = radrep("train", run, "--resume")
        other.kill()
    assert refused.exit_code == 2
    assert f"{run} is being trained by another process" in plain(refused.stderr)
    resumed = radrep("train", run, "--resume")  # the lock has died with its process
    assert resumed.exit_code == 0, resumed.output


def test_a_new_run_is_locked_while_it_trains(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def look(*_: object) -> None:
        with pytest.raises(filelock.Timeout), locked(tmp_path / "run/.lock", timeout=0):
            pass
        seen.append(True)
        raise Interrupted("stopped after step 3")

    monkeypatch.setattr(run_module, "fit", look)
    result = radrep("train", write_recipe(tmp_path, phantoms))
    assert result.exit_code == 130
    assert seen == [True]


def test_a_stop_names_the_run_itself(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Interrupted("stopped after step 3")

    monkeypatch.setattr(run_module, "fit", stop)
    recipe, out = write_recipe(tmp_path, phantoms), tmp_path / "other one"
    result = radrep("train", recipe, "--out", out)
    assert result.exit_code == 130
    assert f"Go on with: radrep train '{out}' --resume" in plain(result.stderr)
    folds = radrep("train", recipe, "--folds", "2")
    assert f"Go on with: radrep train {tmp_path / 'run-folds'} --resume" in plain(folds.stderr)


@pytest.mark.parametrize("way", ["run", "recipe", "again"])
def test_a_start_that_ended_before_its_first_checkpoint_is_started_again(
    way: str, tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, phantoms, train={"epochs": 1})

    def fail(*_: object, **__: object) -> None:
        raise CheckpointError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", fail)
        assert radrep("train", recipe).exit_code == 2
    partial = tmp_path / "run/checkpoints/.step-0000004.77.partial"
    partial.mkdir(parents=True)
    (partial / "weights.safetensors").touch()
    words = {
        "run": (tmp_path / "run", "--resume"),
        "recipe": (recipe, "--resume"),
        "again": (recipe, "--out", tmp_path / "run"),
    }[way]
    result = radrep("train", *words)
    assert result.exit_code == 0, result.output
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3, 4, 4]
    assert not partial.exists()


def test_resume_removes_what_kills_left_and_nothing_else(run: Path) -> None:
    (run / "checkpoints/.step-0000009.77.partial").mkdir()
    left = (run / ".best.77.partial", run / ".MODEL_CARD.md.77.partial")
    others = (run / ".scores-val.json.78.partial", run / "notes.partial")  # of a radrep eval
    for file in (*left, *others):
        file.touch()
    assert radrep("train", run, "--resume").exit_code == 0
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in others)
    assert not list(run.glob("checkpoints/.*"))
