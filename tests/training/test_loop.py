"""The loop on a model of one matrix."""

import json
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.data.dataset import EpochOrder
from radrep.errors import RadrepError
from radrep.progress import Reporter
from radrep.recipe.load import load_recipe
from radrep.training.accelerator import build_accelerator
from radrep.training.loop import Interrupted, Progress, Run, fit
from radrep.training.optim import build_optimizer
from radrep.training.run_log import RunLog
from tests.whole_way import write_recipe

STUDIES = 12


class OneMatrix(nn.Module):
    """Learns to map its input to itself; its gradients are NaN once it was called often enough."""

    def __init__(self, nan_at: int = 0) -> None:
        super().__init__()
        self.matrix = nn.Linear(3, 3)
        self.calls, self.nan_at = 0, nan_at

    def encoder_parameters(self) -> list[nn.Parameter]:
        return []

    def num_loss_terms(self, batch: Batch) -> int:
        return len(batch.ids)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.images is not None
        self.calls += 1
        loss = (self.matrix(batch.images) - batch.images).square().mean()
        if self.calls == self.nan_at:  # a finite loss of infinite slope
            loss = loss + (self.matrix.weight.sum() * 0).sqrt()
        return {"loss": loss}


class Scores:
    """A task whose validations give fixed values."""

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def validate(self) -> dict[str, float]:
        return {"val/bleu4": next(self.values)}


class Saved:
    """Keeps what is saved in a list."""

    def __init__(self, saved: list[Any]) -> None:
        self.saved = saved

    def save(self, progress: Progress, best: bool) -> None:
        self.saved.append((asdict(progress), best))

    def check(self) -> None:
        pass

    def finish(self) -> None:
        pass


class Batches:
    def __init__(self, order: EpochOrder) -> None:
        self.order = order

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.order:
            images = torch.stack([torch.full((3,), 0.1 * (i + 1)) for _, i in keys])
            yield Batch(tuple(str(i) for _, i in keys), torch.ones(len(keys)), images)


def run_on(
    folder: Path, model: OneMatrix, values: list[float], saved: list[Any], **train: Any
) -> Run:
    path = write_recipe(folder, folder, train={"monitor": "val/bleu4", "batch_size": 2} | train)
    recipe = load_recipe(str(path))
    order = EpochOrder([STUDIES], 2, seed=0)
    return Run(
        recipe=recipe,
        accelerator=build_accelerator(),
        model=model,  # type: ignore[arg-type]
        wrapped=model,
        task=Scores(values),
        optimizer=build_optimizer(model, recipe.optim),  # type: ignore[arg-type]
        scaler=None,
        order=order,
        batches=Batches(order),  # type: ignore[arg-type]
        checkpoints=Saved(saved),
        log=RunLog(folder, recipe, 0),
        reporter=Reporter(),
    )


def losses_of(folder: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def test_gradients_that_are_not_finite_stop_before_the_step(tmp_path: Path) -> None:
    model, saved = OneMatrix(nan_at=3), list[Any]()
    run = run_on(tmp_path, model, [0.0], saved, epochs=1, save_every_steps=1, log_every=1)
    with pytest.raises(RadrepError, match=r"at step 3 the loss is [\d.]+ and the norm .* nan"):
        fit(run, Progress())
    assert [state["step"] for state, _ in saved] == [1, 2]
    assert all(bool(p.isfinite().all()) for p in model.parameters())


class OnGpu(Tensor):
    """A norm that seems to be a GPU's: to read it would wait for the step."""

    device = property(lambda self: torch.device("cuda"))  # type: ignore[assignment]

    def isfinite(self) -> Tensor:
        raise AssertionError("a step waits for a GPU")

    __float__ = __bool__ = isfinite  # type: ignore[assignment]


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2]), (None, [])])
def test_norms_of_a_gpu_are_read_at_lines_and_before_anything_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int | None, steps: list[int]
) -> None:
    clip = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *given: clip(*given).as_subclass(OnGpu))
    model, saved = OneMatrix(nan_at=3), list[Any]()
    run = run_on(tmp_path, model, [0.0], saved, epochs=1, save_every_steps=every, log_every=5)
    with pytest.raises(RadrepError, match=r"at step 3 the loss is [\d.]+ and the norm .* nan"):
        fit(run, Progress())
    assert model.calls == (3 if every else 5)
    assert [state["step"] for state, _ in saved] == steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_stop_request_saves_the_step(tmp_path: Path, number: signal.Signals) -> None:
    model, saved = OneMatrix(), list[Any]()
    hook = model.register_forward_hook(lambda *_: hook.remove() or os.kill(os.getpid(), number))
    if (before := signal.getsignal(number)) is signal.SIG_IGN:
        pytest.skip("pytest was started by nohup, which ignores it")
    with pytest.raises(Interrupted, match="stopped after step 1") as stopped:
        fit(run_on(tmp_path, model, [0.0], saved, epochs=1), Progress())
    assert stopped.value.by_manager is (number in (signal.SIGTERM, signal.SIGUSR1))
    assert [state["step"] for state, _ in saved] == [1]
    assert signal.getsignal(number) is before


def test_a_hang_up_that_nohup_ignores_stops_nothing(tmp_path: Path) -> None:
    model, saved = OneMatrix(), list[Any]()
    model.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert fit(run_on(tmp_path, model, [0.0], saved, epochs=1), Progress()).epoch == 1
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_line_has_the_mean_of_the_steps_since_the_last(tmp_path: Path) -> None:
    curves = []
    for name, every in (("each", 1), ("fourth", 4)):
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        fit(run_on(tmp_path / name, OneMatrix(), [0.0], [], epochs=1, log_every=every), Progress())
        curves.append(losses_of(tmp_path / name))
    each = [loss for _, loss in curves[0]]
    assert [step for step, _ in curves[1]] == [4, 6]  # an epoch ends with a line
    assert curves[1][0][1] == pytest.approx(sum(each[:4]) / 4)
    assert curves[1][1][1] == pytest.approx(sum(each[4:]) / 2)


def test_a_resumed_line_counts_the_steps_before_the_stop(tmp_path: Path) -> None:
    saved: list[Any] = []
    torch.manual_seed(0)
    run = run_on(tmp_path, OneMatrix(), [0.0], saved, epochs=1, log_every=4, save_every_steps=3)
    fit(run, Progress())
    state = saved[0][0]
    assert state["step"] == 3
    assert len(state["losses"]) == len(state["norms"]) == 3
    assert Progress(**json.loads(json.dumps(state))).losses == state["losses"]


@pytest.mark.parametrize(
    ("values", "epochs", "best"),
    [
        ([0.5, 0.4, 0.3, 0.2], 4, 0.5),  # three worse ones: more than a patience of two
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 6, 0.5),  # ties are not worse
        ([0.5, 0.4, 0.4, 0.6, 0.5, 0.5], 6, 0.6),
    ],
)
def test_patience_counts_as_the_released_code_does(
    tmp_path: Path, values: list[float], epochs: int, best: float
) -> None:
    run = run_on(tmp_path, OneMatrix(), values, [], epochs=6, patience=2)
    progress = fit(run, Progress())
    assert progress.epoch == epochs
    assert progress.best == best


def test_the_device_is_read_once_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a loss before its backward leaves a GPU without work."""
    reads: list[int] = []
    for name in ("item", "__float__", "tolist"):
        real = getattr(Tensor, name)
        monkeypatch.setattr(
            Tensor, name, lambda self, real=real: reads.append(1) or real(self), raising=True
        )
    run = run_on(tmp_path, OneMatrix(), [0.0], [], epochs=1, log_every=6, grad_accum_steps=2)
    before = len(reads)
    real_backward = Tensor.backward
    seen: list[int] = []

    def backward(self: Tensor, *args: Any, **kwargs: Any) -> None:
        seen.append(len(reads) - before)
        real_backward(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "backward", backward)
    fit(run, Progress())
    assert len(seen) == 6
    # Between the two micro-batches of a step nothing is read.
    assert all(seen[i] == seen[i + 1] for i in range(0, 6, 2))
    assert not math.isnan(losses_of(tmp_path)[0][1])
