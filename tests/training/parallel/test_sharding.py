"""Sharded models on CPUs: parity with one process, whole passes, saved and loaded by others."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy
from torch.distributed.tensor import DTensor

from radrep.modules.language_model import Float32Weights
from radrep.training.accelerator import build_accelerator
from radrep.training.parallel import sharding
from radrep.training.parallel.sharded_state import ShardedRun
from radrep.training.parallel.sharding import (
    gather_state,
    make_mesh,
    shard_model,
    share_statistics,
    to_full,
    whole,
)
from tests.training.parallel.processes import run

STUDIES = torch.arange(40.0).view(8, 5) / 40


class Block(nn.Module):
    """Learned in float32 beside frozen in bfloat16, as a language model with low-rank updates."""

    def __init__(self) -> None:
        super().__init__()
        self.learned = nn.Linear(5, 5)
        self.frozen = nn.Linear(5, 5).to(torch.bfloat16).requires_grad_(False)
        self.learned.weight._no_weight_decay = True  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.learned(x) + self.frozen(x.to(self.frozen.weight.dtype)).float()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x).square().mean()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    learned = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW([{"params": learned, "name": "rest"}], lr=1e-2, fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> tuple[Tensor, Tensor]:
    loss = model(x)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(list(model.parameters()), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach(), to_full(norm)


def train(
    folder: Path,
    shard: str | None,
    before: Path | None,
    steps: int,
    save: Path | None,
    offload: bool,
) -> None:
    """Take steps in this process, one of several, from a checkpoint on; write what was reached."""
    accelerator = build_accelerator()
    count, rank = accelerator.num_processes, accelerator.process_index
    model = Model()
    if before is not None:
        model.load_state_dict(load_file(before / "weights.safetensors"))
    if shard is not None and count > 1:
        shard_model(model, make_mesh("cpu", count, shard), offload=offload)
        kinds = {type(p.data) for p in model.parameters()}
        assert kinds == {DTensor}, "frozen ones too"
        assert all(
            getattr(layer.learned.weight, "_no_weight_decay", False) for layer in model.layers
        )
    optimizer = optimizer_of(model)
    sharded = ShardedRun(accelerator, model, optimizer)
    if before is not None:
        sharded.load_optimizer(before)
        assert optimizer.param_groups[0]["name"] == "rest"
    losses = []
    for _ in range(steps):
        loss, norm = step(model, optimizer, STUDIES[rank::count])
        if count > 1:
            dist.all_reduce(loss)
        losses += [loss / count, norm]
    with whole(model), torch.no_grad():
        cast = Float32Weights()
        for _ in range(rank + 1):  # as many passes as each process likes
            cast.set(model, True)
            validation = model(STUDIES)
            cast.set(model, False)
    loss, norm = step(model, optimizer, STUDIES[rank::count])  # and training goes on
    if count > 1:
        dist.all_reduce(loss)
    losses += [validation, loss / count, norm]
    state = gather_state(model.state_dict(), keep=rank == 0)
    if save is not None:
        sharded.save(save, {})
    if rank == 0:
        if save is not None:
            save_file(state, save / "weights.safetensors")
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"losses": torch.stack(losses)}, folder / "losses.safetensors")
    if count > 1:
        dist.barrier()


def curve(folder: Path, count: int, shard: str | None = "full", **given: Any) -> Tensor:
    given = {"before": None, "steps": 2, "save": None, "per_node": 0, "offload": False} | given
    per_node = given.pop("per_node")

    def work(_: int) -> int:
        train(folder, shard, **given)
        return 0

    run(folder / "said", count, work, per_node)
    return load_file(folder / "losses.safetensors")["losses"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor, Tensor]:
    """One process: the checkpoint after three steps, losses up to there, and of three more."""
    folder = tmp_path_factory.mktemp("alone")
    first = curve(folder / "a", 1, save=folder / "saved")
    return folder / "saved", first, curve(folder / "b", 1, before=folder / "saved")


@pytest.mark.parametrize(
    ("count", "shard", "per_node", "offload"),
    [(2, "full", 0, False), (2, "full", 0, True), (4, "hybrid", 2, False)],
)
@pytest.mark.slow
def test_a_sharded_model_learns_as_one_process(
    tmp_path: Path,
    alone: tuple[Path, Tensor, Tensor],
    count: int,
    shard: str,
    per_node: int,
    offload: bool,
) -> None:
    losses = curve(tmp_path, count, shard, per_node=per_node, offload=offload)
    torch.testing.assert_close(losses, alone[1], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_one_number_of_processes_saved_another_goes_on_with(
    tmp_path: Path, alone: tuple[Path, Tensor, Tensor]
) -> None:
    """2 -> 1 -> 4, each from where the one before stood, and 1 all the way."""
    curve(tmp_path / "two", 2, save=tmp_path / "of_two")
    one = curve(tmp_path / "one", 1, before=tmp_path / "of_two", save=tmp_path / "of_one")
    torch.testing.assert_close(one, alone[2], rtol=0, atol=1e-5)
    expected = curve(tmp_path / "alone", 1, before=tmp_path / "of_one")
    four = curve(tmp_path / "four", 4, before=tmp_path / "of_one")
    torch.testing.assert_close(four, expected, rtol=0, atol=1e-5)
    weights = load_file(tmp_path / "of_two/weights.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in weights.items()} == {
        n: (t.shape, t.dtype) for n, t in Model().state_dict().items()
    }


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False)])
def test_every_part_is_offloaded_by_torch(
    device: str, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies: list[object] = []

    def share(module: nn.Module, *, mesh: object, offload_policy: object) -> None:
        policies.append(offload_policy)

    monkeypatch.setattr(sharding, "fully_shard", share)
    mesh: Any = SimpleNamespace(device_type=device)
    model = nn.Sequential(nn.Linear(2, 2))
    shard_model(model, mesh, offload=True)
    shard_model(model, mesh)
    assert policies == [CPUOffloadPolicy(pin_memory=pinned), OffloadPolicy()]


def test_all_processes_go_on_with_the_running_statistics_that_are_saved(tmp_path: Path) -> None:
    def work(rank: int) -> int:
        model = nn.Sequential(nn.BatchNorm1d(5))
        model(STUDIES[rank::2])
        share_statistics(build_accelerator(), model)
        save_file(dict(model.named_buffers()), tmp_path / f"{rank}.safetensors")
        return 0

    run(tmp_path / "said", 2, work)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert first["0.running_mean"].any()


@pytest.fixture
def fresh_states() -> Iterator[None]:
    kept = [dict(state._shared_state) for state in (PartialState, AcceleratorState)]
    for state in (PartialState, AcceleratorState):
        state._shared_state.clear()
    yield
    for state, before in zip((PartialState, AcceleratorState), kept, strict=True):
        state._shared_state.clear()
        state._shared_state.update(before)


@pytest.mark.usefixtures("fresh_states")
def test_accelerate_does_not_shard_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary: once it does, radrep need not do it by itself."""
    for name in ("ACCELERATE_USE_FSDP", "FSDP_VERSION"):
        monkeypatch.setenv(name, "")  # it sets them, and monkeypatch takes them back
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    built = Accelerator(cpu=True, fsdp_plugin=plugin)
    assert built.distributed_type == DistributedType.NO
    model = built.prepare(Model())
    assert not any(isinstance(p.data, DTensor) for p in model.parameters())
    assert os.environ.get("ACCELERATE_USE_FSDP") == "true"
