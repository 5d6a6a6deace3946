"""Numba kernels as machine code, run over independent tasks on as many threads as torch uses."""

import functools
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

# What a debugging session left in the environment: without the compiler there are no kernels, its
# dumps go to stdout, and a number of Numba's own threads, which are not used, may stop its import.
_LEFT_OVER = re.compile(r"NUMBA_(DISABLE_JIT|NUM_THREADS|DEBUG.*|DUMP_.*|TRACE)")


def _drop_left_over() -> None:
    for name in filter(_LEFT_OVER.fullmatch, list(os.environ)):
        del os.environ[name]
    if (loaded := sys.modules.get("numba")) is not None:
        loaded.core.config.reload_config()


_drop_left_over()

import numba  # noqa: E402

SCALAR_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}
KERNEL_OPTIONS = SCALAR_OPTIONS | {"nogil": True, "fastmath": {"contract", "reassoc"}}

Arrays = tuple[np.ndarray, ...]

_COMPILED: dict[tuple[Callable[..., None], np.dtype], Callable[..., None]] = {}


def compile_kernel(kernel: Callable[..., None], signature: tuple[Any, ...]) -> Callable[..., None]:
    """Machine code from the disk cache, or else compiled (seconds) and put there."""
    try:
        compiled = numba.njit(cache=True, **KERNEL_OPTIONS)(kernel)
        compiled.compile(signature)
    except (OSError, RuntimeError):  # no cache folder can be written, or not any more
        compiled = numba.njit(**KERNEL_OPTIONS)(kernel)
        compiled.compile(signature)
    return compiled


@functools.cache
def _workers() -> ThreadPoolExecutor:
    # Never on the caller's threads: here subnormal numbers, in which states and gradients that die
    # away end and which make a backward pass five times slower, can be flushed to 0.
    return ThreadPoolExecutor(
        os.cpu_count() or 1, "radrep-kernel", torch.set_flush_denormal, (True,)
    )


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not live on in a fork


def run_kernel(kernel: Callable[..., None], tasks: int, inputs: Arrays, *others: Any) -> None:
    """Run kernel(start, stop, inputs, *others) over all tasks, on as many threads as torch uses.

    The type of the first of `inputs` decides those of all arguments; arrays are C-contiguous. Tasks
    must write to places of their own: the result then has the same bits however many threads run.
    """
    key = kernel, inputs[0].dtype
    if key not in _COMPILED:
        signature = (numba.typeof(x) for x in (tasks, tasks, inputs, *others))
        _COMPILED[key] = compile_kernel(kernel, tuple(signature))
    compiled = _COMPILED[key]
    threads = min(torch.get_num_threads(), tasks)
    share = -(-tasks // (4 * threads))  # a few shares a thread, so that none waits long at the end
    starts = iter(range(0, tasks, share))

    def work() -> None:
        for start in starts:
            compiled(start, min(start + share, tasks), inputs, *others)

    for future in [_workers().submit(work) for _ in range(threads)]:
        future.result()
