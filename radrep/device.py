"""The device that computes, and its arithmetic."""

from contextlib import AbstractContextManager

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
