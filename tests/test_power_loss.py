"""A power loss at any moment of a writer leaves what can be gone on with; see crash/power_loss.py.

In each state the writer is run again, as a user would: it must end as if nothing had happened, or
refuse with an error whose advice leads there. What it had reported as done must be there already.
"""

import os
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from radrep.errors import CheckpointError, RadrepError
from radrep.modules import language_model
from radrep.preparation import pipeline
from radrep.training.parallel.checkpoint_writer import CheckpointWriter
from radrep.weights import run_folder
from radrep.weights.checkpoint import find_checkpoint, load_checkpoint
from radrep.weights.files import read_weights
from tests.crash.contents import name_differences, read_contents
from tests.crash.power_loss import Recorder
from tests.saliency.test_sdam import write_discriminator
from tests.weights.test_adapters import write_checkpoint
from tests.whole_way import TINY, draw_prepared, radrep, write_recipe

pytestmark = pytest.mark.slow

# States that are checked of a writer, drawn by chance where there are more.
_MOST = int(os.environ.get("RADREP_STATES", "40"))


class Disk:
    """A folder whose writer loses power at every moment, one after the other."""

    def __init__(self, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
        self.folder, self.whole = tmp_path / "disk", tmp_path / "whole"
        self.folder.mkdir()
        self._record = record_property
        self._recorder = Recorder(self.folder)

    def mark(self, done: object) -> None:
        """Note what the writer has just reported as done."""
        self._recorder.mark(done)

    def replay(self, write: Callable[[], object], check: Callable[[list[Any]], str]) -> None:
        """Run a writer, then the check in the states that a power loss may leave of it."""
        self._recorder.start()
        try:
            write()
            self.mark("all")
        finally:
            self._recorder.stop()
        self.folder.rename(self.whole)
        states = self._recorder.crash_states()
        random.Random(0).shuffle(states)
        states.sort(key=lambda each: "all" not in each[1])  # first those after the last word
        ends = sum("all" in done for _, done in states)
        chosen = states[: min(ends, _MOST // 2)] + states[ends : ends + _MOST - _MOST // 2]
        ended, failed = Counter[str](), Counter[str]()
        for state, done in chosen:
            self.folder.mkdir()
            state.restore(self.folder)
            try:
                ended[check(done)] += 1
            except (AssertionError, RadrepError) as error:
                failed[str(error).partition("\nassert ")[0]] += 1
            shutil.rmtree(self.folder)
        counts = ", ".join(f"{count} {end}" for end, count in ended.items())
        events, checked = self._recorder.now, len(chosen)
        self._record("counted", f"{events} events, {len(states)} states; of {checked}: {counts}")
        assert not failed, "\n".join(
            f"{count} of {checked}: {text}" for text, count in failed.items()
        )

    def assert_as_whole(self, folder: Path) -> None:
        """A folder or file holds what it would without the loss of power."""
        wanted = read_contents(self.whole / folder.relative_to(self.folder))
        different = name_differences(read_contents(folder), wanted)
        assert not different, different


@pytest.fixture
def disk(tmp_path: Path, record_property: Callable[[str, object], None]) -> Disk:
    return Disk(tmp_path, record_property)


def refused(result: Result, *advice: str) -> bool:
    """Whether a command ended in one error, which must then give some advice."""
    told = " ".join(result.output.split())
    if result.exit_code == 2:
        assert any(each in told for each in advice), f"no advice: {told[-300:]}"
        return True
    assert result.exit_code == 0, f"{result.exception!r} {told[-300:]}"
    return False


def test_training(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = draw_prepared(tmp_path / "data", 12)
    recipe = write_recipe(tmp_path, prepared, train={"save_every_steps": 1, "batch_size": 4})
    run = disk.folder / "runs" / "run"
    words = ("train", recipe, "--out", run)

    def write() -> None:
        def save(writer: CheckpointWriter, step: int, *others: Any) -> None:
            saved(writer, step, *others)
            disk.mark(step)

        saved = CheckpointWriter._write
        with monkeypatch.context() as patch:
            patch.setattr(CheckpointWriter, "_write", save)
            assert radrep(*words).exit_code == 0

    def check(done: list[Any]) -> str:
        saved = max((step for step in done if step != "all"), default=0)
        newest, _ = run_folder.newest_whole(run)
        found = 0 if newest is None else int(newest.name.removeprefix("step-"))
        assert found >= saved, f"step {saved} was saved, and {found} is left"
        with suppress(CheckpointError) if saved < 2 else nullcontext():  # of the first epoch
            load_checkpoint(find_checkpoint(run))
        resumed, end = radrep(*words, "--resume"), "resumed"
        if refused(resumed, "start it without --resume"):
            assert not done, "a saved run cannot be resumed"
            resumed, end = radrep(*words), "begun again"
            assert not refused(resumed), resumed.output
        disk.assert_as_whole(run)
        return end

    disk.replay(write, check)


def test_preparation(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SHARD_STUDIES", 4)
    out = disk.folder / "new" / "data"

    def write() -> None:
        draw_prepared(out, 12)

    def check(done: list[Any]) -> str:
        before = out.is_dir()
        assert before or not done, "a prepared folder is gone"
        write()
        disk.assert_as_whole(out)
        assert not refused(radrep("data", "check", out))
        return "whole" if before else "resumed"

    disk.replay(write, check)


def test_masked_images(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SHARD_STUDIES", 4)
    prepared = draw_prepared(disk.folder / "data", 24)
    trained = radrep("train", write_discriminator(tmp_path, prepared))
    assert not refused(trained), trained.output
    words = ("prepare", "saliency", "--data", prepared, "--checkpoint", tmp_path / "run")

    def write() -> None:
        assert not refused(radrep(*words))

    def check(done: list[Any]) -> str:
        before = len(list(prepared.glob("saliency/*/contact_sheet.png")))
        assert before or not done, "masked images are gone"
        assert not refused(radrep(*words))
        disk.assert_as_whole(prepared)
        return "whole" if before else "resumed"

    disk.replay(write, check)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    return write_checkpoint(folder, draw_prepared(folder / "data", 12), lora={"target": "X"})


@pytest.mark.parametrize("what", ["adapters", "merge"])
def test_weights(disk: Disk, adapted: Path, what: str) -> None:
    name = "adapters.safetensors" if what == "adapters" else "merged"
    out = disk.folder / "new" / name
    command = ("export", adapted, "--adapters") if what == "adapters" else ("merge", adapted)

    def write() -> Result:
        return radrep(*command, "--out", out)

    def check(done: list[Any]) -> str:
        before = out.exists()
        assert before or not done, "what was written is gone"
        if before:
            state = read_weights(out if out.is_file() else out / "weights.safetensors")[0]
            assert all(tensor.isfinite().all() for tensor in state.values())
            assert refused(write(), "exists already and is not overwritten")
        else:
            assert not refused(write())
        disk.assert_as_whole(out)
        return "whole" if before else "written again"

    disk.replay(write, check)


def test_feature_cache(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = draw_prepared(tmp_path / "data", 12)
    backbone = TINY["model"]["backbone"] | {"frozen": True}
    decode = TINY["decode"] | {"select": None, "edit": None}
    recipe = write_recipe(
        tmp_path, prepared, model={"backbone": backbone}, train={"epochs": 1}, decode=decode
    )
    cache, runs = disk.folder / "cache", tmp_path / "runs"
    monkeypatch.setenv("RADREP_CACHE", str(cache))

    def write() -> str:
        shutil.rmtree(runs, ignore_errors=True)
        result = radrep("train", recipe, "--out", runs)
        assert not refused(result)
        return result.stderr

    def check(done: list[Any]) -> str:
        told = write()
        assert not done or "from the cache" in told, "what was computed is gone"
        disk.assert_as_whole(cache / "features")
        return "from the cache" if told.count("from the cache") == 2 else "computed again"

    disk.replay(write, check)


def test_converted_language_model(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = language_model.load_language_model("tiny:llama", cache_folder=tmp_path)
    real, conversions = language_model._from_transformers, list[str]()

    def convert(name: str, source: str, **settings: Any) -> object:
        if "gguf_file" not in settings:
            return real(name, source, **settings)
        conversions.append(name)
        return made.model, made.tokenizer

    monkeypatch.setattr(language_model, "_from_transformers", convert)
    file = tmp_path / "model-Q4_1.gguf"
    file.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 0))

    def write() -> language_model.LanguageModel:
        return language_model.load_language_model(str(file), cache_folder=disk.folder / "cache")

    def check(done: list[Any]) -> str:
        conversions.clear()
        loaded = write()
        assert not done or not conversions, "what was converted is gone"
        for name, tensor in made.model.state_dict().items():
            assert torch.equal(tensor, loaded.model.state_dict()[name]), name
        return "converted again" if conversions else "whole"

    disk.replay(write, check)
