"""Processes that train together; the one place that configures Accelerate."""

import os
from datetime import timedelta
from typing import TypeVar, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor, distributed

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

_ADVICE = (
    "If no launcher started this one, unset what it left: unset RANK WORLD_SIZE LOCAL_RANK "
    "LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT; several processes are started by: accelerate launch "
    "-m radrep train RECIPE"
)
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
_LAUNCHER = (*_NUMBERS, "MASTER_ADDR")
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_MET: list[object] = []  # the store of the meeting, which Accelerate's own goes on with
_JOIN = timedelta(minutes=3)  # for the other processes of a launch to appear


def join_processes() -> PartialState:
    """The processes of a launch, joined once; RecipeError if the others do not come.

    What a launcher left in the environment of a process that is alone is dropped: torch would ask
    for the rest of it, or wait half an hour for others.
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if not PartialState._shared_state:
        for name in (*_NUMBERS, *_SIZES):
            value = os.environ.get(name, "")
            if value and not value.removeprefix("-").isdecimal():
                raise RecipeError("this run", [("train", f"{name} is '{value}'. {_ADVICE}")])
        most = max(int(os.environ.get(name) or 1) for name in (_SIZES if on_cpu else _SIZES[:1]))
        if most > 1 and (on_cpu or torch.cuda.is_available()) and "LOCAL_RANK" in os.environ:
            _await_others()
        elif most == 1:
            for name in _LAUNCHER:
                os.environ.pop(name, None)
    return PartialState(cpu=on_cpu)


def _await_others() -> None:
    """Meet the other processes, for minutes; torch's own bound must be long, for all that comes."""
    found = " ".join(f"{name}={os.environ[name]}" for name in _LAUNCHER if name in os.environ)
    try:
        _MET.append(next(distributed.rendezvous("env://", timeout=_JOIN)))
    except (ValueError, RuntimeError) as error:  # DistStoreError and DistNetworkError among them
        text = f"{found}: several processes, which did not meet ({error}). {_ADVICE}"
        raise RecipeError("this run", [("train", " ".join(text.split()))]) from error


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
    join_processes()
    # The loop does autocast itself: Accelerate keeps the precision of a process's first run, and
    # takes another one from the environment.
    return Accelerator(mixed_precision="no")


def is_main_process() -> bool:
    """Whether this process reports to the user."""
    return bool(join_processes().is_main_process)


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
