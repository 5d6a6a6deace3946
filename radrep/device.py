"""The device that computes, and its arithmetic."""

from contextlib import AbstractContextManager, nullcontext

import torch

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def best_device() -> torch.device:
    """The accelerator of this machine, or its CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The arithmetic of a recipe's `train.precision` on a device."""
    dtype = _AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def why_not_compiled(device: torch.device) -> str:
    """Why torch cannot compile a function for a device; "" where it can."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of torch, Triton or the compiler, each by kinds of its own
        reason = " ".join(str(error).split())[:200]
        return (
            f"torch compiles nothing on this machine ({reason}). It needs a C++ compiler such as "
            "g++ and, for GPUs, Triton"
        )
    return ""


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """The precision of the tensors themselves; devices without autocast have no other."""
    if not torch.amp.is_autocast_available(device.type):  # such as "meta", of shapes alone
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
