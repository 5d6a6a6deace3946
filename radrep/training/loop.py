"""The one training loop.

Nothing random outlives a step: the order of the studies is a function of seed and epoch, and
every step seeds torch from (seed, step, process). So a run that goes on from a checkpoint repeats
to the bit what it would have done.
"""

import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import reduce
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.data.dataset import EpochOrder
from radrep.errors import RadrepError
from radrep.progress import Reporter
from radrep.recipe.training import Optim, Train
from radrep.training.optim import set_learning_rates
from radrep.training.run_log import MetricsLog


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done.
        step_in_epoch: Steps done in the current one.
        best: Best value of the metric that is kept, or None before the first validation.
        best_step: Step of that value.
        epochs_without_better: Epochs since then.
        num_processes: Processes that train together.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    best: float | None = None
    best_step: int = 0
    epochs_without_better: int = 0
    num_processes: int = 1

    def state(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Parts:
    """What the loop drives.

    Attributes:
        accelerator: Devices, precision and processes.
        model: The prepared model; calling it gives {"loss": ...}.
        optimizer: The prepared optimizer.
        order: Order of the training batches.
        batches: The training batches in that order.
        validate: Scores the model on validation: names to values.
        num_loss_terms: How many terms the mean of a batch's loss is over.
        save: Writes a checkpoint; told whether it is the best so far.
        metrics: metrics.jsonl; only the main process has it.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: EpochOrder
    batches: Iterable[Batch]
    validate: Callable[[], Mapping[str, float]]
    num_loss_terms: Callable[[Batch], int]
    save: Callable[[Progress, bool], None]
    metrics: MetricsLog | None


class Interrupted(RadrepError):  # noqa: N818 -- not a mistake: the user asked for it
    """The user stopped the run; a checkpoint of its last step is there."""


def steps_per_epoch(order: EpochOrder, train: Train) -> int:
    """Optimizer steps of one epoch."""
    return -(-order.num_batches // train.grad_accum_steps)


def run_loop(
    parts: Parts, progress: Progress, train: Train, optim: Optim, reporter: Reporter
) -> Progress:
    """Train from where ``progress`` stands to the last epoch, or until patience ends.

    Raises:
        Interrupted: If the user pressed Ctrl-C or the process was asked to end.
        RadrepError: If the loss is no longer finite.
    """
    epoch_steps = steps_per_epoch(parts.order, train)
    meter = _Meter(train.epochs * epoch_steps - progress.step)
    with _stop_requests() as stop_requested:
        while progress.epoch < train.epochs and not _out_of_patience(progress, train):
            parts.order.set_start(progress.epoch, progress.step_in_epoch * train.grad_accum_steps)
            batches = _accumulation_groups(parts.batches, train.grad_accum_steps, meter)
            for round_of_batches in batches:
                loss, norm, lr = _step(parts, progress, train, optim, round_of_batches)
                progress.step += 1
                progress.step_in_epoch += 1
                images = sum(int(batch.num_views.sum()) for batch in round_of_batches)
                meter.count(images * parts.accelerator.num_processes)
                _log_step(parts, progress, train, reporter, meter, (loss, norm, lr), epoch_steps)
                if _any_process(parts.accelerator, stop_requested()):
                    if progress.step_in_epoch < epoch_steps:
                        parts.save(progress, False)
                        raise Interrupted(f"stopped after step {progress.step}")
                    break  # the epoch is whole: validate and save it first
                every = train.save_every_steps
                if every and progress.step % every == 0 and progress.step_in_epoch < epoch_steps:
                    parts.save(progress, False)
            _finish_epoch(parts, progress, train, reporter)
            meter.pause()
            if _any_process(parts.accelerator, stop_requested()) and progress.epoch < train.epochs:
                raise Interrupted(f"stopped after epoch {progress.epoch}")
    return progress


def _out_of_patience(progress: Progress, train: Train) -> bool:
    return train.patience is not None and progress.epochs_without_better >= train.patience


def _accumulation_groups(
    batches: Iterable[Batch], size: int, meter: "_Meter"
) -> Iterator[list[Batch]]:
    """Groups of batches for one optimizer step each, with the wait for them measured."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        group = list(islice(iterator, size))
        meter.waited(time.perf_counter() - start)
        if not group:
            return
        yield group


def _step(
    parts: Parts, progress: Progress, train: Train, optim: Optim, batches: list[Batch]
) -> tuple[float, float, float]:
    """One optimizer step; the mean loss over all its batches, gradient norm, rate."""
    accelerator = parts.accelerator
    total = train.epochs * steps_per_epoch(parts.order, train)
    lr = set_learning_rates(parts.optimizer, optim, progress.step, total)
    seed = (train.seed * 1_000_003 + progress.step) * 1_009 + accelerator.process_index
    torch.manual_seed(seed)
    # Each batch weighs by the terms of its loss, tokens mostly, so that accumulation and several
    # processes give the gradient of one large batch and not of a mean of means.
    terms = [float(parts.num_loss_terms(batch)) for batch in batches]
    all_terms = _sum_over_processes(accelerator, sum(terms))
    loss_sum = 0.0
    for i, (batch, count) in enumerate(zip(batches, terms, strict=True)):
        last = i == len(batches) - 1
        with nullcontext() if last else accelerator.no_sync(parts.model):
            loss = parts.model(batch.to(accelerator.device))["loss"]
            loss_sum += loss.item() * count
            accelerator.backward(loss * (count * accelerator.num_processes / all_terms))
    mean_loss = _sum_over_processes(accelerator, loss_sum) / all_terms
    if not torch.isfinite(torch.tensor(mean_loss)):
        raise RadrepError(
            f"the loss is {mean_loss} at step {progress.step + 1}. Lower optim.lr "
            f"({optim.lr}) or set optim.clip_norm, then go on with --resume"
        )
    norm = accelerator.clip_grad_norm_(parts.model.parameters(), optim.clip_norm or float("inf"))
    parts.optimizer.step()
    parts.optimizer.zero_grad()
    return mean_loss, float(norm) if norm is not None else float("nan"), lr


def _sum_over_processes(accelerator: Accelerator, value: float) -> float:
    if accelerator.num_processes == 1:
        return value
    together = reduce(torch.tensor([value], device=accelerator.device), reduction="sum")
    assert isinstance(together, Tensor)
    return float(together)


def _any_process(accelerator: Accelerator, wanted: bool) -> bool:
    """Whether any process wants it: all must leave a loop together."""
    return _sum_over_processes(accelerator, float(wanted)) > 0


def _finish_epoch(parts: Parts, progress: Progress, train: Train, reporter: Reporter) -> None:
    progress.epoch += 1
    progress.step_in_epoch = 0
    scores = dict(parts.validate())
    value = scores[train.monitor]
    sign = -1.0 if train.monitor == "val/loss" else 1.0
    better = progress.best is None or sign * value > sign * progress.best
    if better:
        progress.best, progress.best_step, progress.epochs_without_better = value, progress.step, 0
    else:
        progress.epochs_without_better += 1
    if parts.metrics is not None:
        parts.metrics.write(progress.step, {"epoch": progress.epoch, **scores})
    parts.accelerator.log(scores, step=progress.step)
    shown = "  ".join(f"{name.removeprefix('val/')} {score:.3f}" for name, score in scores.items())
    best = "best so far" if better else f"best {progress.best:.3f} at step {progress.best_step}"
    reporter.info("val", f"epoch {progress.epoch}  {shown}  ({best} in {train.monitor})")
    parts.save(progress, better)


def _log_step(
    parts: Parts,
    progress: Progress,
    train: Train,
    reporter: Reporter,
    meter: "_Meter",
    values: tuple[float, float, float],
    epoch_steps: int,
) -> None:
    loss, norm, lr = values
    if progress.step % train.log_every and progress.step_in_epoch < epoch_steps:
        return
    row = {"loss": loss, "lr": lr, "grad_norm": norm}
    if parts.metrics is not None:
        parts.metrics.write(progress.step, row | {"epoch": progress.epoch})
    parts.accelerator.log({f"train/{name}": v for name, v in row.items()}, step=progress.step)
    reporter.log_metrics(
        {
            "epoch": f"{progress.epoch + 1}/{train.epochs}",
            "step": f"{progress.step_in_epoch}/{epoch_steps}",
            "loss": f"{loss:.3f}",
            "lr": f"{lr:.1e}",
            **meter.fields(),
        }
    )


class _Meter:
    """Speed, memory, share of time spent waiting for data, time left."""

    def __init__(self, steps_left: int) -> None:
        self._steps_left = steps_left
        self._steps = 0
        self._images = 0
        self._waiting = 0.0
        self._seconds = 0.0
        self._since: float | None = None

    def waited(self, seconds: float) -> None:
        """Count time that training stood still for data."""
        if self._since is None:  # the first batch of an epoch starts the clock
            self._since = time.perf_counter()
        else:
            self._waiting += seconds

    def count(self, images: int) -> None:
        """Count one step."""
        now = time.perf_counter()
        self._seconds += now - (self._since or now)
        self._since = now
        self._steps += 1
        self._steps_left -= 1
        self._images += images

    def pause(self) -> None:
        """Stop the clock: validation is not training."""
        self._since = None

    def fields(self) -> dict[str, object]:
        """The meter's part of a progress line."""
        seconds = max(self._seconds, 1e-9)
        left = int(self._steps_left * seconds / max(1, self._steps))
        hours, minutes = divmod(left // 60, 60)
        return {
            "img/s": f"{self._images / seconds:.0f}",
            "mem": f"{_memory_gib():.1f}G",
            "data": f"{100 * self._waiting / seconds:.0f}%",
            "eta": f"{hours}:{minutes:02d}:{left % 60:02d}",
        }


def _memory_gib() -> float:
    """Peak memory: of the device where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a wish; the second one ends at once."""
    wishes: list[int] = []

    def note(number: int, _frame: object) -> None:
        if wishes:
            raise KeyboardInterrupt
        wishes.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(number, note) for number in numbers]
    except ValueError:  # not the main thread: the caller looks after signals
        yield lambda: False
        return
    try:
        yield lambda: bool(wishes)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
