"""The one training loop.

Nothing random outlives a step: the order of the studies is a function of seed and epoch, and
every step seeds torch from (seed, step, process). So on CPUs a resumed run repeats to the bit
what it would have done without the stop; on GPUs some sums depend on the order of threads.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from radrep.data.batch import Batch
from radrep.data.dataset import EpochOrder
from radrep.device import autocast
from radrep.errors import RadrepError
from radrep.models.base import TrainableModel
from radrep.progress import Reporter
from radrep.recipe.recipe import Recipe
from radrep.recipe.training import Train
from radrep.training.accelerator import largest, new_cpu_group, sum_over_processes
from radrep.training.optim import set_learning_rates
from radrep.training.parallel.sharding import share_statistics, to_full, whole
from radrep.training.parallel.stopping import BY_MANAGER, stop_requests
from radrep.training.run_log import Meter, RunLog
from radrep.training.validation import SampleReport

# Steps between the exchanges of several processes on whether one was asked to stop.
_STOP_EVERY = 10


@runtime_checkable
class SampledTask(Protocol):
    """A task whose validation has reports to show."""

    def samples(self) -> Sequence[SampleReport]:
        """Write those of a few studies, in one process, and draw where the model attends."""


class Task(Protocol):
    """What a model is trained for."""

    def validate(self) -> Mapping[str, float]:
        """Score the model on validation, the work shared by all processes: names to values."""


@dataclass
class Progress:
    """Where a run stands; checkpoints keep it as plain values."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # epochs done
    step_in_epoch: int = 0
    best: float | None = None  # of the monitor; None before the first validation
    best_step: int = 0
    epochs_without_better: int = 0
    num_processes: int = 1
    losses: list[float] = field(default_factory=list)  # of the steps since the log's last line
    norms: list[float] = field(default_factory=list)  # of their gradients
    others: dict[str, list[float]] = field(default_factory=dict)  # what else their calls gave


class Checkpoints(Protocol):
    """Where a run is saved; all processes call these together."""

    def save(self, progress: Progress, best: bool) -> None:
        """Save where the run stands, the best so far or not; it may end later."""

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be saved."""

    def finish(self) -> None:
        """Wait until all of them are saved."""


class Interrupted(RadrepError):  # noqa: N818 -- no fault: the user asked for it
    """The user stopped the run; a checkpoint of its last step is there."""

    run: Path | None = None  # what goes on: a run's folder, or that of folds
    by_manager = False  # SIGTERM or SIGUSR1, not the user


@dataclass(frozen=True)
class Run:
    """All that the loop works on."""

    recipe: Recipe
    accelerator: Accelerator
    model: TrainableModel  # the bare one
    wrapped: nn.Module  # as several processes train it; calling it is `TrainableModel.loss`
    task: Task
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None  # of fp16 alone
    order: EpochOrder
    batches: Iterable[Batch]  # in that order
    checkpoints: Checkpoints
    log: RunLog | None  # None in all processes but the main one
    reporter: Reporter

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-self.order.num_batches // self.recipe.train.grad_accum_steps)


def fit(run: Run, progress: Progress) -> Progress:
    """Train from where ``progress`` stands to the last epoch, or until patience ends.

    Raises:
        Interrupted: At Ctrl-C, SIGTERM, SIGUSR1 or the end of the terminal.
        RadrepError: If the loss or a gradient is no longer finite, or nothing can be saved.
    """
    train, accelerator, epoch_steps = run.recipe.train, run.accelerator, run.epoch_steps
    group = new_cpu_group(accelerator)  # of wishes to stop, which wait for no GPU
    meter = Meter(train.epochs * epoch_steps - progress.step)
    recent: list[dict[str, Tensor]] = []  # losses and norms on the device that no line holds yet
    with stop_requests() as stop_requested:
        while progress.epoch < train.epochs and not _out_of_patience(progress, train):
            run.order.set_start(progress.epoch, progress.step_in_epoch * train.grad_accum_steps)
            for batches in _accumulation_groups(run.batches, train.grad_accum_steps, meter):
                recent.append(_step(run, progress, batches))
                progress.step += 1
                progress.step_in_epoch += 1
                run.checkpoints.check()
                images = sum(int(batch.num_views.sum()) for batch in batches)
                meter.count(images * accelerator.num_processes)
                ends = progress.step_in_epoch == epoch_steps
                if ends or progress.step % train.log_every == 0:
                    _read_losses(run, progress, recent)
                    _log_step(run, progress, meter)
                if ends:
                    continue  # the epoch is validated and saved below, also when asked to stop
                every = train.save_every_steps
                stop = _asks_to_stop(group, progress.step, stop_requested)
                if stop or (every and progress.step % every == 0):
                    _read_losses(run, progress, recent)
                    run.checkpoints.save(progress, False)
                if stop:
                    run.checkpoints.finish()
                    raise _interrupted(f"stopped after step {progress.step}", stop)
            validate(run, progress)
            meter.pause()
            stop = largest(stop_requested(), group)
            if stop and progress.epoch < train.epochs:
                run.checkpoints.finish()
                raise _interrupted(f"stopped after epoch {progress.epoch}", stop)
        run.checkpoints.finish()
    return progress


def _interrupted(text: str, number: int) -> Interrupted:
    stopped = Interrupted(text)
    stopped.by_manager = number in BY_MANAGER
    return stopped


def _out_of_patience(progress: Progress, train: Train) -> bool:
    """As in R2Gen's trainer: after more than ``patience`` epochs that are worse than the best."""
    return train.patience is not None and progress.epochs_without_better > train.patience


def _asks_to_stop(
    group: distributed.ProcessGroup | None, step: int, requested: Callable[[], int]
) -> int:
    """The number of a signal that any process had, or 0."""
    if group is not None and step % _STOP_EVERY:
        return 0
    return largest(requested(), group)


def _accumulation_groups(
    batches: Iterable[Batch], size: int, meter: Meter
) -> Iterator[list[Batch]]:
    """Groups of batches for one optimizer step each, with the wait for them measured."""
    iterator = iter(batches)
    while True:
        with meter.waiting():
            group = list(islice(iterator, size))
        if not group:
            return
        yield group


def _step(run: Run, progress: Progress, batches: list[Batch]) -> dict[str, Tensor]:
    """Take a step, without waiting for a GPU to finish it: what is given is still on the device.

    That is this process's part of the mean loss, and of the means over studies of what else a call
    gives, and under "grad_norm" the norm of the gradients of all processes.
    """
    accelerator, section = run.accelerator, run.recipe.train
    total = section.epochs * run.epoch_steps
    set_learning_rates(run.optimizer, run.recipe.optim, progress.step, total)
    seed = (section.seed * 1_000_003 + progress.step) * 1_009 + accelerator.process_index
    torch.manual_seed(seed)
    # Each batch weighs by the terms of its loss, tokens mostly, so that accumulation and several
    # processes give the gradient of one large batch and not of a mean of means.
    terms = [float(run.model.num_loss_terms(batch)) for batch in batches]
    device = accelerator.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    mine = torch.full((), sum(terms), dtype=wide, device=device)
    all_terms = sum_over_processes(accelerator, mine)
    mean_loss = torch.zeros((), dtype=wide, device=device)
    others: dict[str, Tensor] = {}
    # Every process has as many studies.
    num_studies = sum(len(batch.ids) for batch in batches) * accelerator.num_processes
    for i, (batch, count) in enumerate(zip(batches, terms, strict=True)):
        last = i == len(batches) - 1
        with nullcontext() if last else accelerator.no_sync(run.wrapped):
            with autocast(device, section.precision):
                given = run.wrapped(batch.to(device))
            loss = given["loss"]
            mean_loss += loss.detach().to(wide) * count
            for name in given.keys() - {"loss"}:
                part = given[name].detach().to(device, wide) * (len(batch.ids) / num_studies)
                others[name] = others[name] + part if name in others else part
            weight = (count * accelerator.num_processes / all_terms).to(loss.dtype)
            weighted = loss * weight
            (weighted if run.scaler is None else run.scaler.scale(weighted)).backward()
    mean_loss = mean_loss / all_terms
    if run.scaler is not None:
        run.scaler.unscale_(run.optimizer)
    most = math.inf if run.recipe.optim.clip_norm is None else run.recipe.optim.clip_norm
    norm = to_full(nn.utils.clip_grad_norm_(list(run.model.parameters()), most))
    # A GPU's is read with the losses. In fp16 the scaler skips a step that overflowed, and lowers
    # its scale.
    if norm.device.type == "cpu" and run.scaler is None and not norm.isfinite():
        _refuse_not_finite(run, progress.step + 1, float(mean_loss), float(norm))
    if run.scaler is None:
        run.optimizer.step()
    else:
        run.scaler.step(run.optimizer)
        run.scaler.update()
    run.optimizer.zero_grad()
    return {"loss": mean_loss, "grad_norm": norm, **{name: others[name] for name in sorted(others)}}


def _refuse_not_finite(run: Run, step: int, loss: float, norm: float) -> None:
    raise RadrepError(
        f"at step {step} the loss is {loss} and the norm of the gradients {norm}; nothing of this "
        f"step was kept. Lower optim.lr ({run.recipe.optim.lr}) or set optim.clip_norm: start "
        "again, or go on from the last checkpoint with --resume --set optim.lr=VALUE"
    )


def _read_losses(run: Run, progress: Progress, recent: list[dict[str, Tensor]]) -> None:
    """Move what the last steps gave from the device into ``progress``."""
    if not recent:
        return
    norms = torch.stack([means.pop("grad_norm") for means in recent]).tolist()
    table = torch.stack([means[name] for name in recent[0] for means in recent])
    values = sum_over_processes(run.accelerator, table).view(-1, len(recent)).tolist()
    found = dict(zip(recent[0], values, strict=True))
    losses = found.pop("loss")
    first = progress.step - len(recent) + 1
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), first):
        if not math.isfinite(loss) or (run.scaler is None and not math.isfinite(norm)):
            _refuse_not_finite(run, step, loss, norm)
    recent.clear()
    progress.losses += losses
    progress.norms += norms
    for name, steps in found.items():
        progress.others[name] = progress.others.get(name, []) + steps


def _log_step(run: Run, progress: Progress, meter: Meter) -> None:
    """One line, means over the steps since the last one."""
    train = run.recipe.train
    row = {
        "loss": math.fsum(progress.losses) / len(progress.losses),
        "lr": max(group["lr"] for group in run.optimizer.param_groups),
        "grad_norm": math.fsum(progress.norms) / len(progress.norms),
    }
    others = {name: math.fsum(each) / len(each) for name, each in progress.others.items()}
    progress.losses.clear()
    progress.norms.clear()
    progress.others.clear()
    if run.log is not None:
        run.log.write(progress.step, row | others | {"epoch": progress.epoch})
    shown = {name: f"{others[name]:.3f}" for name in ("reward",) if name in others}
    run.reporter.log_metrics(
        {
            "epoch": f"{progress.epoch + 1}/{train.epochs}",
            "step": f"{progress.step_in_epoch}/{run.epoch_steps}",
            "loss": f"{row['loss']:.3f}",
            **shown,
            "lr": f"{row['lr']:.1e}",
            **meter.fields(run.accelerator),
        }
    )


def validate(run: Run, progress: Progress) -> None:
    """End an epoch: score, compare with the best so far, save."""
    monitor = run.recipe.train.monitor
    progress.epoch += 1
    progress.step_in_epoch = 0
    samples: Sequence[SampleReport] = ()
    share_statistics(run.accelerator, run.model)
    with whole(run.model):
        scores = dict(run.task.validate())
        if run.log is not None and run.log.shows_samples and isinstance(run.task, SampledTask):
            samples = run.task.samples()
    value = scores[monitor]
    sign = -1.0 if monitor == "val/loss" else 1.0
    better = progress.best is None or sign * value >= sign * progress.best  # ties too, as R2Gen
    if better:
        progress.best, progress.best_step, progress.epochs_without_better = value, progress.step, 0
    else:
        progress.epochs_without_better += 1
    if run.log is not None:
        run.log.write(progress.step, {"epoch": progress.epoch, **scores})
        run.log.write_samples(progress.step, samples)
    shown = "  ".join(f"{name.removeprefix('val/')} {score:.3f}" for name, score in scores.items())
    best = "best so far" if better else f"best {progress.best:.3f} at step {progress.best_step}"
    run.reporter.info("val", f"epoch {progress.epoch}  {shown}  ({best} in {monitor})")
    run.checkpoints.save(progress, better)
