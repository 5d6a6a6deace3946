"""Processes that train together; the one place that configures Accelerate."""

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import TypeVar, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, pad_across_processes, reduce
from accelerate.utils import gather as gather_tensors
from torch import Tensor, distributed

from radrep.errors import RadrepError, RecipeError
from radrep.parallel.processes import own_cores, share_cores
from radrep.recipe.training import Parallel, Train

Value = TypeVar("Value")
_ADVICE = (
    "If no launcher started this one, unset what it left: unset RANK WORLD_SIZE LOCAL_RANK "
    "LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT; several processes are started by what radrep train "
    "RECIPE --print-launch torchrun prints"
)
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
_LAUNCHER = (*_NUMBERS, "MASTER_ADDR")
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_MET: list[object] = []  # the store of the meeting, which Accelerate's own goes on with
_DONE = "radrep: the main process has done what it does alone"
CUDA_AND_CPU = "cuda:nccl,cpu:gloo"
_JOIN = timedelta(minutes=10)  # for the other processes of a launch to load a model and appear


def join_processes(offload: bool = False) -> PartialState:
    """The processes of a launch, joined once; RecipeError if the others do not come.

    Those of GPUs exchange tensors of the CPU too where parameters are offloaded.
    """
    if PartialState._shared_state:
        return PartialState()
    several, on_cpu = read_launch() > 1, _on_cpu()
    if several and "LOCAL_RANK" in os.environ:
        _await_others()
    both = offload and several and not on_cpu and torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, **{"backend": CUDA_AND_CPU} if both else {})
    if state.num_processes > 1:
        here, own = socket.gethostname(), own_cores()
        found = gather_object([(here, own)])
        share_cores(own, [cores for machine, cores in found if machine == here])
    return state


def _on_cpu() -> bool:
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    # By itself Accelerate would take each of several processes for one alone.
    return asked or (_num_launched() > 1 and not torch.accelerator.is_available())


def _num_launched() -> int:
    return max(int(os.environ.get(name) or 1) for name in _SIZES)


def read_launch() -> int:
    """How many processes were launched together; RecipeError if the variables make no sense.

    What a launcher left in the environment of a process that is alone is dropped: torch would ask
    for the rest of it, or wait half an hour for others.
    """
    for name in (*_NUMBERS, *_SIZES):
        value = os.environ.get(name, "")
        if value and not value.removeprefix("-").isdecimal():
            raise RecipeError("this run", [("train", f"{name} is '{value}'. {_ADVICE}")])
    most = _num_launched()
    if most == 1:
        for name in _LAUNCHER:
            os.environ.pop(name, None)
    return most


def check_offload(section: Parallel) -> None:
    """Raise RecipeError where there are no processes to share the parts that are offloaded."""
    if section.cpu_offload and read_launch() == 1:
        text = "is for several processes, and this is one: start more (radrep train RECIPE "
        text += "--print-launch torchrun), or set it to false"
        raise RecipeError("this run", [("parallel.cpu_offload", text)])


def refuse_launch(option: str) -> None:
    """Raise RadrepError where several processes were launched for what one of them does."""
    count = read_launch()
    if count > 1:
        raise RadrepError(
            f"{option} trains run after run in one process, and a launcher started {count}: start "
            "it without a launcher"
        )


def _await_others() -> None:
    """Meet the other processes, for minutes; torch's own bound must be long, for all that comes."""
    found = " ".join(f"{name}={os.environ[name]}" for name in _LAUNCHER if name in os.environ)
    store: Future[object] = Future()

    def meet() -> None:
        try:
            store.set_result(next(distributed.rendezvous("env://", timeout=_JOIN)))
        except Exception as error:
            store.set_exception(error)

    # In a thread of its own: torch waits without handling signals, which this thread has to.
    threading.Thread(target=meet, daemon=True).start()
    try:
        _MET.append(store.result())
    except (ValueError, RuntimeError) as error:  # DistStoreError and DistNetworkError among them
        text = f"{found}: several processes, which did not meet ({error}). {_ADVICE}"
        raise RecipeError("this run", [("train", " ".join(text.split()))]) from error


def coming_device() -> torch.device:
    """The device that this process will have once it has joined the others."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None or _on_cpu():
        return torch.device("cpu")
    return torch.device(kind.type, int(os.environ.get("LOCAL_RANK") or 0))


def build_accelerator(*, offload: bool = False) -> Accelerator:
    """Devices and processes, as the launcher set them up; RecipeError if they cannot be had."""
    join_processes(offload)
    # The loop does autocast, accumulation and sharding itself: Accelerate keeps the precision of a
    # process's first run, and takes another one from the environment.
    return Accelerator(mixed_precision="no")


def set_arithmetic(section: Train) -> None:
    """TF32 and determinism, as in a recipe; both hold for the whole process."""
    torch.set_float32_matmul_precision("high" if section.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = section.tf32
    torch.use_deterministic_algorithms(section.deterministic)
    # Nothing reads memory before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if section.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts


def is_main_process() -> bool:
    """Whether this process reports to the user; the others need not have been joined."""
    if PartialState._shared_state:
        return bool(PartialState().is_main_process)
    if read_launch() == 1:
        return True
    return int(next((os.environ[name] for name in _RANKS if os.environ.get(name)), 0)) == 0


def explain_lost_process(accelerator: Accelerator, error: RuntimeError) -> RadrepError | None:
    """The error of a collective that failed since another process ended; None for other errors."""
    text = str(error)
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL")
    lost = isinstance(error, distributed.DistError) or any(sign in text for sign in signs)
    if accelerator.num_processes == 1 or isinstance(error, RadrepError) or not lost:
        return None
    first = " ".join(text.split())[:200]
    return RadrepError(
        f"another of the {accelerator.num_processes} processes ended or cannot be reached; its "
        f"output ends with the reason ({first}). Start all of them again, with --resume where the "
        "run has a folder"
    )


def broadcast(accelerator: Accelerator, value: Value) -> Value:
    """The main process's value, in every process."""
    if accelerator.num_processes == 1:
        return value
    return cast(Value, broadcast_object_list([value])[0])


def await_main(accelerator: Accelerator, work: Callable[[], None]) -> None:
    """Have the main process do work alone; the others, behind which launchers end it, wait for it.

    They wait without a collective, which has a bound in time and handles no signals.
    """
    if accelerator.is_main_process:
        work()
    if accelerator.num_processes == 1:
        return
    store = distributed.distributed_c10d._get_default_store()
    if accelerator.is_main_process:
        store.set(_DONE, "")
    while not store.check([_DONE]):
        time.sleep(0.2)
    accelerator.wait_for_everyone()  # the store ends with the main process
    if accelerator.is_main_process:
        store.delete_key(_DONE)  # for another run of these processes


def gather(accelerator: Accelerator, mine: list[Value]) -> list[Value]:
    """The lists of all processes as one, by pickle: no views of large tensors."""
    return gather_object(mine) if accelerator.num_processes > 1 else mine


def sum_over_processes(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Element by element."""
    if accelerator.num_processes == 1:
        return values
    return cast(Tensor, reduce(values, reduction="sum"))


def gather_rows(accelerator: Accelerator, mine: Tensor) -> Tensor:
    """The rows of all processes, process by process; each may have another number of them."""
    if accelerator.num_processes == 1:
        return mine
    mine = mine.to(accelerator.device)
    counts = gather_tensors(torch.tensor([len(mine)], device=mine.device)).tolist()
    padded = gather_tensors(pad_across_processes(mine)).split(max(counts))
    return torch.cat([rows[:count] for rows, count in zip(padded, counts, strict=True)])


def new_cpu_group(accelerator: Accelerator) -> distributed.ProcessGroup | None:
    """In which processes exchange what their CPUs hold: NCCL waits for GPUs. None for one alone."""
    if accelerator.num_processes == 1:
        return None
    group = distributed.new_group(backend="gloo")
    assert isinstance(group, distributed.ProcessGroup), "all processes are members"
    return group


def largest(value: int, group: distributed.ProcessGroup | None) -> int:
    """The largest of a CPU group: of wishes to stop, so that all leave a loop together."""
    if group is None:
        return value
    values = torch.tensor(value)
    distributed.all_reduce(values, distributed.ReduceOp.MAX, group)
    return int(values)
