"""Processes that train together; the one place that configures Accelerate."""

import os
from typing import TypeVar, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor

from radrep.errors import RecipeError
from radrep.parallel import count_cores
from radrep.recipe.training import Train

Value = TypeVar("Value")
_SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}


def build_accelerator(section: Train) -> Accelerator:
    """Devices and processes, as the launcher set them up; RecipeError if they cannot be had."""
    for variable, name in _SHARDED.items():
        if os.environ.get(variable, "").lower() in ("1", "true", "yes"):
            text = (
                f"radrep trains with data parallelism alone and was launched with {name}; launch "
                "it with: accelerate launch --multi_gpu -m radrep train RECIPE"
            )
            raise RecipeError("this run", [("train", text)])
    if section.precision == "fp16" and not torch.cuda.is_available():
        text = "'fp16' needs CUDA, and this machine has none; use bf16 or fp32"
        raise RecipeError("this run", [("train.precision", text)])
    # The loop does autocast itself: Accelerate keeps the precision of a process's first run, and
    # takes another one from the environment.
    return Accelerator(mixed_precision="no")


def is_main_process() -> bool:
    """Whether this process reports to the user."""
    return bool(PartialState().is_main_process)


def count_workers(accelerator: Accelerator, wanted: int) -> int:
    """Worker processes for data: this process's share of the machine's cores at most."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    return min(wanted, max(1, count_cores() // local))


def broadcast(accelerator: Accelerator, value: Value) -> Value:
    """The main process's value, in every process."""
    if accelerator.num_processes == 1:
        return value
    return cast(Value, broadcast_object_list([value])[0])


def gather(accelerator: Accelerator, mine: list[Value]) -> list[Value]:
    """The lists of all processes as one, by pickle: no views of large tensors."""
    return gather_object(mine) if accelerator.num_processes > 1 else mine


def sum_over_processes(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Element by element."""
    if accelerator.num_processes == 1:
        return values
    return cast(Tensor, reduce(values, reduction="sum"))


def any_process(accelerator: Accelerator, wanted: bool) -> bool:
    """Whether any process wants it: all leave a loop together."""
    if accelerator.num_processes == 1:
        return wanted
    wishes = torch.tensor([float(wanted)], device=accelerator.device)
    return float(sum_over_processes(accelerator, wishes)) > 0
