"""Processes and devices."""

import os
import pickle
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed

from radrep.data.batch import Batch
from radrep.errors import RecipeError
from radrep.ops.selective_scan.choose import why_unavailable
from radrep.parallel.processes import count_cores
from radrep.recipe.training import Train
from radrep.training import accelerator, pretraining_task
from radrep.training.accelerator import (
    build_accelerator,
    gather_rows,
    is_main_process,
    join_processes,
    largest,
    new_cpu_group,
    set_arithmetic,
)
from radrep.training.pretraining_task import PretrainingTask
from tests.training.parallel.processes import run
from tests.whole_way import radrep, write_recipe


def test_accelerate_is_given_no_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert build_accelerator().mixed_precision == "no"


@pytest.mark.parametrize("on", [False, True])
def test_the_arithmetic_is_the_recipe_s(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        set_arithmetic(Train(epochs=1, batch_size=1, tf32=on, deterministic=on))
        assert torch.get_float32_matmul_precision() == ("high" if on else "highest")
        assert torch.backends.cudnn.allow_tf32 is on
        assert torch.are_deterministic_algorithms_enabled() is on
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is on
        problem = why_unavailable("cuda", torch.device("cuda"), torch.float32, 16, False)
        assert ("train.deterministic" in str(problem)) is on
    finally:
        set_arithmetic(Train(epochs=1, batch_size=1))


@pytest.mark.parametrize("bound", [False, True])
def test_processes_share_the_cores_that_they_have_in_common(bound: bool, tmp_path: Path) -> None:
    def work(rank: int) -> int:
        first = 8 * rank if bound else 0  # a launcher may have bound each to its own
        accelerator.own_cores = lambda: {*range(first, first + 8)}
        build_accelerator()
        assert count_cores() == (8 if bound else 4)
        return 0

    run(tmp_path, 2, work)


def test_gathered_rows_do_not_carry_their_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a tensor is pickled with all rows: 48 times too much for a batch of 48."""

    class Embeds(torch.nn.Module):
        def embed_images(self, images: torch.Tensor, num_views: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(images.flatten(1), dim=-1)

        def embed_texts(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(tokens.float(), dim=-1)

        def logit_scale(self) -> torch.Tensor:
            return torch.ones(())

    b, dim = 48, 256
    batch = Batch(
        ids=tuple(map(str, range(b))),
        num_views=torch.ones(b, dtype=torch.long),
        images=torch.rand(b, dim),
        tokens=torch.randint(9, (b, dim)),
        lengths=torch.full((b,), dim),
    )

    class On:
        accelerator = build_accelerator()

        class recipe:  # noqa: N801
            train = Train(epochs=1, batch_size=1)

        def batches(self, _size: int) -> list[Batch]:
            return [batch]

    sizes: list[int] = []

    def gather(_accelerator: object, rows: list[object]) -> list[object]:
        sizes.append(len(pickle.dumps(rows)))
        return rows

    monkeypatch.setattr(pretraining_task, "gather", gather)
    task = PretrainingTask(On())  # type: ignore[arg-type]
    found = task._retrieval(Embeds())  # type: ignore[arg-type]
    assert found["loss"] > 0
    assert sizes[0] < 1.5 * 2 * b * dim * 4


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not yet joined others; its variables come back afterwards."""
    for name in (*accelerator._LAUNCHER, *accelerator._SIZES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(accelerator.PartialState, "_shared_state", {})


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("names", [["RANK"], ["RANK", "WORLD_SIZE", "LOCAL_RANK"], ["MASTER_PORT"]])
def test_a_process_alone_ignores_what_a_launcher_left(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"WORLD_SIZE": "1", "MASTER_PORT": "29500"}
    for name in names:
        monkeypatch.setenv(name, values.get(name, "0"))
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert join_processes().num_processes == 1
    assert is_main_process()
    assert build_accelerator().num_processes == 1


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("train", "tiny.yaml", "--folds", 2), "--folds"),
        (("train", "tiny.yaml", "--seeds", 2), "--seeds"),
        (("sweep", "tiny.yaml", "--param", "optim.lr=1e-4..1e-3"), "radrep sweep"),
    ],
)
def test_what_trains_run_after_run_is_refused_in_several_processes(
    words: tuple[str, ...], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[0] == "sweep":
        pytest.importorskip("optuna")
    write_recipe(tmp_path, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    result = radrep(*words)
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert f"{option} trains run after run in one process, and a launcher started 2" in said
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"])
def test_a_launcher_variable_that_is_no_number_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "two")
    with pytest.raises(RecipeError, match=f"{name} is 'two'.*unset RANK WORLD_SIZE"):
        join_processes()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("missing", ["MASTER_ADDR", None])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_ranks_that_never_come_are_not_waited_for_long(
    rank: str, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "_JOIN", timedelta(milliseconds=200))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    left = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
    for name, value in (left | {"WORLD_SIZE": "2"}).items():
        if name != missing:
            monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=f"RANK={rank} WORLD_SIZE=2.*did not meet"):
        join_processes()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("offload", [False, True])
def test_offloaded_parts_are_exchanged_through_gloo_beside_nccl(
    offload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary too: Accelerate hands a backend that it is given on to torch."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(accelerator, "_await_others", lambda: None)

    def init(backend: str, **_: object) -> None:
        asked.append(backend)
        raise ZeroDivisionError  # what follows needs the other process

    monkeypatch.setattr(torch.distributed, "init_process_group", init)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ZeroDivisionError):
        join_processes(offload)
    assert asked == ["cuda:nccl,cpu:gloo" if offload else "nccl"]


def test_one_process_alone_offloads_nothing(phantoms: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, phantoms, parallel={"data": "fsdp", "cpu_offload": True})
    result = radrep("train", recipe)
    assert result.exit_code == 2
    assert "parallel.cpu_offload  is for several processes, and this is one" in result.stderr
    assert not (tmp_path / "run").exists()


def test_processes_exchange_rows_and_wishes(tmp_path: Path) -> None:
    """Rows of any number in each, and wishes to stop by a group that no GPU is in."""

    def exchange(rank: int) -> int:
        built = build_accelerator()
        rows = torch.full((rank * 2, 3), float(rank))  # none of the first process
        assert gather_rows(built, rows).tolist() == [[1.0] * 3] * 2
        more = torch.arange(rank + 1.0)[:, None]
        assert gather_rows(built, more).ravel().tolist() == [0, 0, 1]
        group = new_cpu_group(built)
        assert distributed.get_backend(group) == "gloo"
        assert largest(15 * rank, group) == 15
        return 0

    run(tmp_path / "said", 2, exchange)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("rank", ["0", "1"])
def test_who_reports_is_known_before_the_processes_meet(
    rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() is (rank == "0")
    assert not torch.distributed.is_initialized()
    assert not accelerator.PartialState._shared_state
