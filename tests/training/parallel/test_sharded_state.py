"""Optimizer and progress in parts: a stranger's run no code and lead out of no folder."""

import io
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from torch import nn

from radrep.errors import CheckpointError
from radrep.training.parallel.sharded_state import ShardedRun, load_progress

PROGRESS = {"progress": {"step": 7, "losses": [0.1 + 0.2, 1e-30]}, "scaler": None, "data": "a1"}


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch owned",)


def made() -> ShardedRun:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    groups = [{"params": list(model.parameters()), "name": "rest", "top_lr": 0.5}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return ShardedRun(Accelerator(cpu=True), model, optimizer)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made().save(tmp_path / "saved", PROGRESS)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "saved"


def load(folder: Path) -> dict[str, object]:
    run = made()
    for state in run.optimizer.state.values():
        state["exp_avg"].zero_()
    run.optimizer.param_groups[0]["lr"] = 9.0
    run.load_optimizer(folder)
    return run.optimizer.state_dict()


def test_what_was_saved_comes_back(saved: Path) -> None:
    state, expected = load(saved), made().optimizer.state_dict()
    assert state["param_groups"] == expected["param_groups"]
    for key, own in expected["state"].items():
        for name, tensor in own.items():
            assert torch.equal(state["state"][key][name], tensor), (key, name)  # type: ignore[index]


def test_progress_is_read_without_the_other_processes(saved: Path) -> None:
    assert load_progress(saved) == PROGRESS


def test_copies_hold_the_progress_too(tmp_path: Path) -> None:
    made().begin_saving(tmp_path / "saved", PROGRESS, None)()
    assert load_progress(tmp_path / "saved") == PROGRESS


@pytest.mark.parametrize("written", ["no JSON", "[1]"])
def test_progress_that_radrep_did_not_write_is_refused(
    tmp_path: Path, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "dumps", lambda _: written)
    made().save(tmp_path / "saved", PROGRESS)
    with pytest.raises(CheckpointError, match=r"no progress that can be read: Expect|but a list"):
        load_progress(tmp_path / "saved")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_an_optimizer_of_an_older_radrep_has_no_progress(tmp_path: Path) -> None:
    dcp.save({"optimizer": {"step": 1}}, checkpoint_id=tmp_path / "saved", no_dist=True)
    with pytest.raises(CheckpointError, match="has no progress that can be read: Missing key"):
        load_progress(tmp_path / "saved")


def test_a_disk_that_refuses_is_an_error_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"saved could not be written: .*Not a directory"):
        made().save(tmp_path / "file/saved", PROGRESS)


def test_a_part_that_is_missing_is_named(saved: Path) -> None:
    next(saved.glob("*.distcp")).unlink()
    with pytest.raises(CheckpointError, match=r"No such file .*\.distcp"):
        load(saved)


def test_code_in_the_index_is_not_run(saved: Path) -> None:
    (saved / ".metadata").write_bytes(pickle.dumps(Code()))
    with pytest.raises(CheckpointError, match=r"names posix\.system, which is not run"):
        load(saved)
    assert not Path("owned").exists()


def test_an_index_that_never_ends_is_refused(saved: Path) -> None:
    twice = b")" + b"".join(b"\x94h%c\x86" % place for place in range(60))
    (saved / ".metadata").write_bytes(b"\x80\x04" + twice + b".")
    with pytest.raises(CheckpointError, match="tuples of more than"):
        load(saved)


def test_an_index_leads_out_of_no_folder(saved: Path) -> None:
    part = next(saved.glob("*.distcp"))
    index = (saved / ".metadata").read_bytes()
    name = part.name.encode()
    assert name in index
    (saved / ".metadata").write_bytes(index.replace(name, b"../" + name[3:]))
    with pytest.raises(CheckpointError, match=r"\.metadata names '\.\./"):
        load(saved)


def bytes_of(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_code_in_a_part_is_not_run(saved: Path) -> None:
    """A value's place is known from the index: one of the same length takes it."""
    evil = bytes_of([Code()])
    name = next(n for n in map("r".__mul__, range(999)) if len(bytes_of(n)) == len(evil))
    run = made()
    run.optimizer.param_groups[0]["name"] = name
    folder = saved.with_name("other")
    run.save(folder, PROGRESS)
    part = next(folder.glob("*.distcp"))
    content = part.read_bytes()
    assert bytes_of(name) in content
    part.write_bytes(content.replace(bytes_of(name), evil))
    with pytest.raises(CheckpointError, match="has no optimizer that can be read"):
        load(folder)
    assert not Path("owned").exists()


def test_code_in_the_progress_is_not_run(saved: Path) -> None:
    evil = bytes_of([Code()])
    text = next(t for t in map("7".__mul__, range(999)) if len(bytes_of(t)) == len(evil))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json, "dumps", lambda _: text)
        made().save(saved.with_name("other"), PROGRESS)
    part = next(saved.with_name("other").glob("*.distcp"))
    content = part.read_bytes()
    assert bytes_of(text) in content
    part.write_bytes(content.replace(bytes_of(text), evil))
    with pytest.raises(CheckpointError, match="has no progress that can be read"):
        load_progress(saved.with_name("other"))
    assert not Path("owned").exists()
