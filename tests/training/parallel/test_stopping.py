"""Signals and deaths outside of training's steps, and what is refused before processes meet."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import distributed

from radrep.training import accelerator
from radrep.training import run as run_module
from radrep.training.features import entry, image_pass
from tests.training.parallel.processes import command, run, said, start, wait
from tests.whole_way import TINY, radrep, write_recipe

FROZEN = {
    "backbone": TINY["model"]["backbone"] | {"frozen": True},
    "enhancer": {"mode": "none"},
}


def frozen_recipe(folder: Path, prepared: Path) -> Path:
    """One whose features are computed before training."""
    train = {"batch_size": 4, "epochs": 1}
    decode = {"max_new_tokens": 2, "select": None}
    return write_recipe(folder, prepared, model=FROZEN, train=train, decode=decode)


def await_it(there: Callable[[], object], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline, said(folder, 0)
        time.sleep(0.02)


@pytest.mark.slow
def test_a_signal_while_features_are_computed_has_slurm_start_the_job_again(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("RADREP_CACHE", str(cache))
    monkeypatch.setattr(entry, "BLOCK", 1)
    recipe, encode = frozen_recipe(tmp_path, phantoms), image_pass.encode_images

    def encode_slowly(*given: Any) -> list[torch.Tensor]:
        time.sleep(0.5)
        return encode(*given)

    def blocks() -> set[Path]:
        return {*cache.glob("features/*/*.npy")}

    kept: set[Path] = set()
    with monkeypatch.context() as patched:
        patched.setattr(image_pass, "encode_images", encode_slowly)
        for number in (signal.SIGUSR1, signal.SIGTERM):
            folder = tmp_path / str(number)
            started = start(folder, 2, command("train", recipe))
            await_it(lambda: blocks() - kept, folder)  # noqa: B023
            for process in started:
                os.kill(process, number)
            assert wait(started) == [75, 75], said(folder, 0)
            assert "stopped; what was finished is kept" in said(folder, 0)
            assert blocks() > kept, "what is done stays"
            kept = blocks()
    assert not (tmp_path / "run").exists()
    run(tmp_path / "again", 2, command("train", recipe))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_process_that_waits_for_the_others_ends_at_once(
    tmp_path: Path, phantoms: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet, waits = distributed.rendezvous, tmp_path / "waits"

    def note(*given: Any, **named: Any) -> Any:
        waits.touch()
        return meet(*given, **named)

    monkeypatch.setattr(distributed, "rendezvous", note)
    train = command("train", write_recipe(tmp_path, phantoms))
    started = start(tmp_path / "said", 2, lambda rank: 0 if rank else train(rank))
    await_it(waits.exists, tmp_path / "said")
    os.kill(started[0], number)
    asked = time.monotonic()
    assert wait(started) == [75, 0]
    assert time.monotonic() - asked < 30


@pytest.mark.slow
def test_a_process_that_dies_before_the_first_step_is_named_by_the_others(
    tmp_path: Path, phantoms: Path
) -> None:
    train = command("train", frozen_recipe(tmp_path, phantoms))

    def work(rank: int) -> int:
        if rank == 0:
            run_module.cached_features = lambda *_, **__: os._exit(9)
        return train(rank)

    started = start(tmp_path / "said", 2, work)
    assert wait(started) == [9, 2], said(tmp_path / "said", 1)
    assert "another of the 2 processes ended" in said(tmp_path / "said", 1)


@pytest.mark.slow
def test_no_process_ends_before_the_main_one_has_fitted_selection(
    tmp_path: Path, phantoms: Path
) -> None:
    """srun ends those that are left a minute after the first one."""
    train, fitted = command("train", frozen_recipe(tmp_path, phantoms)), tmp_path / "fitted"

    def fit_slowly(*_: object) -> None:
        time.sleep(5)
        fitted.touch()

    def work(rank: int) -> int:
        run_module._fit_selection = fit_slowly
        return train(rank) if rank == 0 else train(rank) or not fitted.is_file()

    run(tmp_path / "said", 2, work)


def launch_first_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process be one of two that were launched, which must not wait for the other."""

    def meet() -> None:
        raise AssertionError("waits for the others")

    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerator.PartialState, "_shared_state", {})
    monkeypatch.setattr(accelerator, "_await_others", meet)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"prepared": "nowhere"}}, "nowhere"),
        ({"data": {"context": ["prior_report"]}}, "prior_report"),
        ({"train": {"start_from": "nowhere"}}, "nowhere not found"),
        ({"model": {"backbone": FROZEN["backbone"] | {"weights": "nowhere"}}}, "neither a run"),
        ({"model": {"backbone": FROZEN["backbone"] | {"weights": "package:none-x"}}}, "none-x"),
        ({"train": {"start_from": "RUN"}}, "is of another model"),
        ({"parallel": {"compile": True}}, "parallel.compile"),
        ({"model": {"name": "discriminator", "labels": "table"}}, "labels"),
    ],
)
def test_what_cannot_work_is_refused_before_others_are_waited_for(
    changes: dict[str, Any],
    told: str,
    tmp_path: Path,
    phantoms: Path,
    trained_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile_nothing(*_: object) -> None:
        raise RuntimeError("no compiler")

    launch_first_of_two(monkeypatch)
    monkeypatch.setattr(torch, "compile", compile_nothing)
    data = {"random_crop": False} | changes.get("data", {})
    path = write_recipe(tmp_path, phantoms, **(changes | {"data": data}))
    recipe = yaml.safe_load(path.read_text())
    if recipe["model"]["name"] == "discriminator":
        recipe["model"] = changes["model"] | {"backbone": TINY["model"]["backbone"]}
        recipe["train"]["monitor"] = "val/auroc"
        del recipe["decode"]
    if recipe["train"].get("start_from") == "RUN":
        recipe["train"]["start_from"] = str(trained_run)
        recipe["model"]["transformer"]["num_layers"] += 1
    path.write_text(yaml.safe_dump(recipe))
    result = radrep("train", path)
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert told in " ".join(result.stderr.split())


def test_what_a_run_cannot_go_on_with_is_refused_before_others_are_waited_for(
    tmp_path: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch_first_of_two(monkeypatch)
    run = shutil.copytree(trained_run, tmp_path / "run", symlinks=True)
    result = radrep("train", run, "--resume", "--set", "train.epochs=3")
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert "was trained with 8 studies a step" in " ".join(result.stderr.split())
