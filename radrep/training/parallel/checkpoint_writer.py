"""Saves where a run stands: while its steps wait or, from copies, beside the next ones."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from radrep.data.manifest import read_image_size
from radrep.data.tokenizer import Tokenizer
from radrep.models.base import TrainableModel
from radrep.recipe.recipe import Recipe
from radrep.training.accelerator import new_cpu_group
from radrep.training.loop import Progress
from radrep.training.parallel.sharded_state import ShardedRun
from radrep.training.parallel.sharding import gather_state
from radrep.training.run_log import RunLog
from radrep.weights import checkpoint, run_folder


@dataclass
class CheckpointWriter:
    """The checkpoints of a run; all processes call its methods together.

    With `train.async_checkpoints` a thread writes them, one at a time, from copies in the CPU's
    memory. Either way a checkpoint has its name, and is the best one, once all of it is on disk.
    """

    run: Path
    recipe: Recipe
    accelerator: Accelerator
    model: TrainableModel
    wrapped: nn.Module  # as several processes train it
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    tokenizer: Tokenizer
    fingerprint: str  # of the prepared shards
    masks: str  # fingerprint of the masked images; empty without any
    log: RunLog | None  # None in all processes but the main one
    _thread: ThreadPoolExecutor = field(init=False)
    _group: distributed.ProcessGroup | None = field(init=False, default=None)
    _writing: Future[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "radrep-checkpoint")
        if self._is_async and self._is_sharded:
            # Apart from the exchanges of the steps, whose order it would disturb.
            self._group = new_cpu_group(self.accelerator)

    @property
    def _is_async(self) -> bool:
        return self.recipe.train.async_checkpoints

    @property
    def _is_sharded(self) -> bool:
        return self.recipe.parallel.data == "fsdp"

    def save(self, progress: Progress, best: bool) -> None:
        """Save a step, the best so far or not, once the one before is written.

        Raises CheckpointError where one of them cannot be written; see `check`.
        """
        self._wait()
        training: dict[str, Any] = {
            "progress": asdict(progress),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "data": self.fingerprint,
        }
        state, is_main = self.model.checkpoint_state(), self.accelerator.is_main_process
        parts, await_parts = None, _nothing
        if self._is_sharded:
            state = gather_state(state, keep=is_main)
            parts = run_folder.optimizer_folder(self.run, progress.step)
            await_parts = self._save_parts(parts, training)
        else:
            training["optimizer"] = self.optimizer.state_dict()
            if self._is_async and is_main:
                state, training = _copy(state), _copy(training)
        if self.log is not None:
            self.log.sync()

        def write() -> None:
            await_parts()
            if is_main:
                self._write(progress_step, best, state, None if parts else training, parts)

        progress_step = progress.step
        if self._is_async:
            self._writing = self._thread.submit(write)
            return
        write()
        self.accelerator.wait_for_everyone()

    def check(self) -> None:
        """Raise the CheckpointError of a thread that could not write."""
        if self._writing is not None and self._writing.done():
            self._wait()

    def finish(self) -> None:
        """Wait until what was saved is on disk, in all processes; CheckpointError if it is not."""
        self._wait()
        if self._is_async:
            self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """End the thread, after what it writes."""
        self._thread.shutdown()

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _save_parts(self, folder: Path, training: dict[str, Any]) -> Callable[[], None]:
        """Save optimizer and progress, or begin to; what is returned waits for the end."""
        run = ShardedRun(self.accelerator, self.wrapped, self.optimizer)
        if self._is_async:
            return run.begin_saving(folder, training, self._group)
        run.save(folder, training)
        return _nothing

    def _write(
        self,
        step: int,
        best: bool,
        state: dict[str, Tensor],
        training: dict[str, Any] | None,
        parts: Path | None,
    ) -> None:
        folder = run_folder.step_folder(self.run, step)
        checkpoint.save_checkpoint(
            folder,
            model=self.model,
            recipe=self.recipe,
            tokenizer=self.tokenizer,
            prepared_size=read_image_size(self.recipe.data.prepared),
            saliency=self.masks,
            training=training,
            weights=state,
            sharded=parts,
        )
        if parts is not None:
            parts.rmdir()
        if best:
            run_folder.link_best(self.run, folder)
        run_folder.drop_old_checkpoints(self.run)


def _nothing() -> None:
    """Parts that are written already, or that there are none of."""


def _copy(value: Any) -> Any:
    """Tensors of a state, however deep, as copies in the CPU's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list) else value
