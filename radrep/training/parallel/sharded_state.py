"""The optimizer of a sharded model, saved by all processes and read by any number of them.

Through torch.distributed.checkpoint: each process writes a file NAME.distcp, the first one also
.metadata, into the folder of the checkpoint.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from radrep.errors import CheckpointError

# By the names of parameters, which do not depend on the number of processes.
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)


def save_optimizer(
    folder: Path, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the parts of all processes into a new folder; all call this together."""
    alone = accelerator.num_processes == 1
    state = get_optimizer_state_dict(model, optimizer, options=_OPTIONS)
    with _quiet():
        dcp.save({"optimizer": state}, checkpoint_id=folder, no_dist=alone)


def load_optimizer(
    folder: Path, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Read this process's part; all call this together. Raises CheckpointError."""
    alone = accelerator.num_processes == 1
    state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_OPTIONS)
    try:
        with _quiet():
            dcp.load({"optimizer": state}, checkpoint_id=folder, no_dist=alone)
    except Exception as error:  # of files that are missing, cut off or of another model
        raise CheckpointError(f"{folder} has no optimizer that can be read: {error}") from error
    set_optimizer_state_dict(model, optimizer, state, options=_OPTIONS)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remark that a process alone is alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield
