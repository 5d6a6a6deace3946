"""train.async_checkpoints: the bytes of a run that waits for its checkpoints, also when it ends."""

import errno
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.checkpoint as dcp
from torch import Tensor

from radrep.weights import checkpoint, run_folder
from radrep.weights.files import write_weights
from tests.training.parallel.processes import command, run, said, start, wait
from tests.training.parallel.test_processes import agree, curve, write
from tests.whole_way import radrep, read_metrics, write_recipe

TRAIN = {"epochs": 2, "save_every_steps": 3, "async_checkpoints": True}


def logged(run_folder: Path) -> int:
    """The last step in a run's log."""
    return max((row["step"] for row in read_metrics(run_folder)), default=0)


def await_step(folder: Path, step: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not (folder / "metrics.jsonl").is_file() or logged(folder) < step:
        assert time.monotonic() < deadline, f"step {step} waits for a checkpoint"
        time.sleep(0.01)


def instead(monkeypatch: pytest.MonkeyPatch, before: Callable[[Path, int], None]) -> None:
    """Call something in front of the writing of weights, with the run and the step."""

    def slow(file: Path, state: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
        before(file.parents[2], int(file.parent.name.split(".")[1].removeprefix("step-")))
        write_weights(file, state, about)

    monkeypatch.setattr(checkpoint, "write_weights", slow)


def contents(folder: Path) -> dict[str, bytes]:
    """All checkpoints, but for their recipes."""
    files = [p for p in folder.glob("checkpoints/*/*") if p.suffix in (".safetensors", ".pt")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def waits(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> dict[str, bytes]:
    """The checkpoints of a run that waits for them, the old ones too."""
    folder = tmp_path_factory.mktemp("waits")
    recipe = write_recipe(folder, phantoms, train=TRAIN | {"async_checkpoints": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "drop_old_checkpoints", lambda _: None)
        assert radrep("train", recipe).exit_code == 0
    return contents(folder / "run")


def test_steps_go_on_while_the_one_before_is_written(
    tmp_path: Path, phantoms: Path, waits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "drop_old_checkpoints", lambda _: None)
    instead(monkeypatch, lambda run, step: await_step(run, min(step + 1, 8)))
    result = radrep("train", write_recipe(tmp_path, phantoms, train=TRAIN))
    assert result.exit_code == 0, result.output
    found = contents(tmp_path / "run")
    assert {name.split("/")[1] for name in found} == {f"step-000000{n}" for n in (3, 4, 6, 8)}
    assert found.keys() == waits.keys()
    assert [name for name in found if found[name] != waits[name]] == []


def test_a_kill_while_one_is_written_leaves_the_one_before(
    tmp_path: Path, phantoms: Path, waits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = write_recipe(tmp_path, phantoms, train=TRAIN), tmp_path / "run"
    with monkeypatch.context() as patch:
        instead(patch, lambda _, step: time.sleep(600 if step == 4 else 0))
        (process,) = start(tmp_path / "said", 1, command("train", recipe))
        await_step(folder, 5)
        os.kill(process, signal.SIGKILL)
        assert wait([process]) == [-signal.SIGKILL]
    assert [path.name for path in run_folder.step_folders(folder)] == ["step-0000003"]
    assert list(folder.glob("checkpoints/.step-0000004.*"))
    result = radrep("train", folder, "--resume")
    assert result.exit_code == 0, result.output
    assert "step 8" in result.output
    weights = "checkpoints/step-0000008/weights.safetensors"
    assert (folder / weights).read_bytes() == waits[weights]


def refuse(_: Path, step: int) -> None:
    if step == 4:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_ends_the_run_and_it_goes_on(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = TRAIN | {"epochs": 50, "save_every_steps": 199}
    recipe = write_recipe(tmp_path, phantoms, train=long)
    with monkeypatch.context() as patch:
        instead(patch, refuse)
        result = radrep("train", recipe)
    assert result.exit_code == 2
    text = " ".join(result.stderr.split())
    assert "step-0000004 could not be written" in text
    assert "then resume with --resume" in text
    assert logged(tmp_path / "run") < 12, "it ends before the next checkpoint"
    assert not run_folder.step_folders(tmp_path / "run")
    words = ("train", tmp_path / "run", "--resume", "--set", "train.epochs=1")
    assert radrep(*words).exit_code == 0


@pytest.mark.parametrize("full", [False, True])
def test_sigterm_waits_for_the_checkpoint(
    tmp_path: Path, phantoms: Path, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before(_: Path, step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(0.5)
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    instead(monkeypatch, before)
    result = radrep("train", write_recipe(tmp_path, phantoms, train=TRAIN | {"epochs": 50}))
    last = run_folder.last_checkpoint(tmp_path / "run")
    assert last is not None
    if full:
        assert result.exit_code == 2
        assert "could not be written" in " ".join(result.stderr.split())
        assert last.name == "step-0000003"
        return
    assert result.exit_code == 75
    assert run_folder.step_of(last) == logged(tmp_path / "run") > 3
    assert run_folder.newest_whole(tmp_path / "run") == (last, [])
    assert not list(tmp_path.glob("run/checkpoints/.*"))


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["killed", "full"])
def test_parts_of_several_processes_are_written_beside_the_steps(
    tmp_path: Path, phantoms: Path, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = {"epochs": 2, "save_every_steps": 2, "async_checkpoints": True}
    recipe = write(tmp_path, phantoms, 2, "fsdp", **often)
    folder = tmp_path / "run"

    write_parts = dcp.FileSystemWriter.write_data

    def slow(self: dcp.FileSystemWriter, plan: Any, planner: Any) -> Any:
        step = int(Path(self.path).name.split(".")[1].removeprefix("optimizer-"))
        if os.environ["RANK"] == "1":  # the second process
            if step < 6:
                await_step(folder, step + 1)
            elif ends == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            else:
                time.sleep(600)
        return write_parts(self, plan, planner)

    with monkeypatch.context() as patch:
        patch.setattr(dcp.FileSystemWriter, "write_data", slow)
        started = start(tmp_path / "said", 2, command("train", recipe))
        if ends == "killed":
            await_step(folder, 7, 600)
            for process in started:
                os.kill(process, signal.SIGKILL)
        codes = wait(started)
    words = "\n".join(said(tmp_path / "said", rank) for rank in (0, 1))
    assert codes == ([-9, -9] if ends == "killed" else [2, 2]), words
    assert ends == "killed" or "could not be written" in words
    assert run_folder.last_checkpoint(folder).name == "step-0000004"  # type: ignore[union-attr]
    run(tmp_path / "again", 1, command("train", folder, "--resume", "--set", "train.batch_size=8"))
    assert logged(folder) == 8
    alone = write(tmp_path / "alone", phantoms, 1, "ddp", epochs=2)
    run(tmp_path / "one", 1, command("train", alone))
    agree(curve(folder), curve(tmp_path / "alone/run"))
