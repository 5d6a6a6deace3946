"""A stranger's optimizer, saved in parts, runs no code and leads out of no folder."""

import io
import os
import pickle
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from radrep.errors import CheckpointError
from radrep.training.parallel.sharded_state import load_optimizer, save_optimizer


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch owned",)


def made() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    groups = [{"params": list(model.parameters()), "name": "rest", "top_lr": 0.5}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model, optimizer = made()
    save_optimizer(tmp_path / "saved", Accelerator(cpu=True), model, optimizer)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "saved"


def load(folder: Path) -> dict[str, object]:
    model, optimizer = made()
    for state in optimizer.state.values():
        state["exp_avg"].zero_()
    optimizer.param_groups[0]["lr"] = 9.0
    load_optimizer(folder, Accelerator(cpu=True), model, optimizer)
    return optimizer.state_dict()


def test_what_was_saved_comes_back(saved: Path) -> None:
    _, optimizer = made()
    state, expected = load(saved), optimizer.state_dict()
    assert state["param_groups"] == expected["param_groups"]
    for key, own in expected["state"].items():
        for name, tensor in own.items():
            assert torch.equal(state["state"][key][name], tensor), (key, name)  # type: ignore[index]


def test_a_disk_that_refuses_is_an_error_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model, optimizer = made()
    with pytest.raises(CheckpointError, match=r"saved could not be written: .*Not a directory"):
        save_optimizer(tmp_path / "file/saved", Accelerator(cpu=True), model, optimizer)


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
    model, optimizer = made()
    optimizer.param_groups[0]["name"] = name
    folder = saved.with_name("other")
    save_optimizer(folder, Accelerator(cpu=True), model, optimizer)
    part = next(folder.glob("*.distcp"))
    content = part.read_bytes()
    assert bytes_of(name) in content
    part.write_bytes(content.replace(bytes_of(name), evil))
    with pytest.raises(CheckpointError, match="has no optimizer that can be read"):
        load(folder)
    assert not Path("owned").exists()
