"""The command in several processes: one curve, whatever their number, and an end if one is lost."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from radrep.weights.run_folder import step_folders
from tests.training.parallel.processes import command, run, said, start
from tests.training.test_emrrg import MODEL
from tests.whole_way import radrep, read_metrics, write_recipe

GLOBAL_BATCH = 8


def write(folder: Path, prepared: Path, processes: int, data: str, **train: Any) -> Path:
    """EMRRG without dropout: with it, each process draws its own."""
    folder.mkdir(exist_ok=True)
    path = write_recipe(folder, prepared)
    recipe = yaml.safe_load(path.read_text())
    recipe["model"] = MODEL | {"lora": {"target": "X", "rank": 2, "dropout": 0.0}}
    recipe["data"] |= {"random_crop": False, "max_tokens": 12}
    size = GLOBAL_BATCH // processes
    recipe["train"] |= {"epochs": 1, "batch_size": size, "save_every_steps": 1} | train
    recipe["parallel"] = {"data": data.removesuffix("+offload")}
    if data.endswith("+offload"):
        recipe["parallel"]["cpu_offload"] = True
    recipe["decode"] = {"method": "greedy", "max_new_tokens": 2, "select": None}
    path.write_text(yaml.safe_dump(recipe))
    return path


def curve(run_folder: Path) -> list[tuple[float, ...]]:
    """Loss and gradient's norm of each step, and the loss on validation."""
    rows = read_metrics(run_folder)
    steps = [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "loss" in row]
    scores = [(row["step"], row["val/loss"], 0.0) for row in rows if "val/loss" in row]
    return [*steps, *scores]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> list[tuple[float, ...]]:
    folder = tmp_path_factory.mktemp("alone")
    done = radrep("train", write(folder, phantoms, 1, "ddp", epochs=2))
    assert done.exit_code == 0, done.output
    return curve(folder / "run")


def agree(found: list[tuple[float, ...]], expected: list[tuple[float, ...]]) -> None:
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "data"), [(2, "ddp"), (4, "ddp"), (2, "fsdp+offload"), (4, "fsdp")]
)
def test_any_number_of_processes_learns_one_curve(
    tmp_path: Path,
    phantoms: Path,
    alone: list[tuple[float, ...]],
    processes: int,
    data: str,
) -> None:
    recipe = write(tmp_path, phantoms, processes, data, epochs=2)
    run(tmp_path / "said", processes, command("train", recipe))
    agree(curve(tmp_path / "run"), alone)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, phantoms: Path, data: str, alone: list[tuple[float, ...]]
) -> None:
    """2 -> 1 -> 4, stopped inside an epoch each time."""
    recipe = write(tmp_path, phantoms, 2, data, epochs=2)
    folder = tmp_path / "run"
    stop_after(2, recipe, tmp_path / "two", 2)
    refused = radrep("train", folder, "--resume")
    assert refused.exit_code == 2
    assert "with 8 studies a step (2 x 4 x 1" in refused.stderr
    stop_after(1, folder, tmp_path / "one", 5, "--resume", "--set", "train.batch_size=8")
    words = ("train", folder, "--resume", "--set", "train.batch_size=2")
    run(tmp_path / "four", 4, command(*words))
    agree(curve(folder), alone)


def test_progress_of_a_sharded_run_lies_with_its_optimizer(tmp_path: Path, phantoms: Path) -> None:
    recipe, folder = write(tmp_path, phantoms, 1, "fsdp"), tmp_path / "run"
    run(tmp_path / "one", 1, command("train", recipe))
    (newest,) = step_folders(folder)
    names = {path.name for path in newest.iterdir()}
    assert {".metadata", "__0_0.distcp"} < names
    assert "training.pt" not in names
    part, steps = newest / "__0_0.distcp", len(curve(folder))
    for file, damage, told in (
        (part, part.read_bytes()[:-1], "its __0_0.distcp is not what was written"),
        (newest / "checksums.json", b"{", "its checksums.json cannot be read"),
    ):
        content = file.read_bytes()
        file.write_bytes(damage)
        refused = radrep("train", folder, "--resume", "--set", "train.epochs=2")
        assert refused.exit_code == 2
        assert told in " ".join(refused.stderr.split())
        file.write_bytes(content)
    run(tmp_path / "on", 1, command("train", folder, "--resume", "--set", "train.epochs=2"))
    assert len(curve(folder)) > steps


def stop_after(count: int, recipe: Path, folder: Path, steps: int, *words: str) -> None:
    """Train in processes until so many steps are saved, then kill all of them."""
    started = start(folder, count, command("train", recipe, *words))
    run_folder = recipe if recipe.is_dir() else recipe.parent / "run"
    await_steps(run_folder, steps, started, folder)
    for process in started:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def await_steps(run_folder: Path, steps: int, started: list[int], folder: Path) -> None:
    """Wait for the checkpoint of a step."""
    deadline = time.monotonic() + 600
    while max((int(p.name[5:]) for p in run_folder.glob("checkpoints/step-*")), default=0) < steps:
        assert os.waitpid(started[0], os.WNOHANG) == (0, 0), said(folder, 0)
        assert time.monotonic() < deadline, said(folder, 0)
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["ddp", "fsdp"])
def test_a_killed_process_ends_the_others_and_the_run_goes_on(
    tmp_path: Path, phantoms: Path, data: str
) -> None:
    recipe = write(tmp_path, phantoms, 2, data, epochs=200)
    folder = tmp_path / "said"
    started = start(folder, 2, command("train", recipe))
    await_steps(tmp_path / "run", 3, started, folder)
    os.kill(started[1], signal.SIGKILL)
    os.waitpid(started[1], 0)
    lost, ended = time.monotonic(), (0, 0)
    while ended == (0, 0) and time.monotonic() < lost + 60:
        ended = os.waitpid(started[0], os.WNOHANG)
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == 2, said(folder, 0)
    assert "another of the 2 processes ended" in said(folder, 0)
    words = ("train", tmp_path / "run", "--resume", "--set", "train.epochs=2")
    run(tmp_path / "again", 2, command(*words))
    assert (tmp_path / "run/MODEL_CARD.md").is_file()
