"""What Numba kernels read of a tensor: the memory of its rows, wherever a view has them."""

import math

import numpy as np
import torch
from torch import Tensor

Rows = tuple[np.ndarray, int]

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def as_rows(x: Tensor) -> Rows:
    """The flat memory of (..., c), bfloat16 as its bits, and how far its rows are apart in it.

    That of a copy if the numbers of a row, or the rows, do not follow each other evenly.
    """
    x = x.detach()
    if not _evenly(x):
        x = x.contiguous()
    width = x.shape[-1]
    span = x.stride(-2) if x.shape[-2] > 1 else width
    size = (math.prod(x.shape[:-1]) - 1) * span + width
    flat = x.as_strided((size,), (1,))
    return (flat.view(torch.uint16) if x.dtype == torch.bfloat16 else flat).numpy(), span


def _evenly(x: Tensor) -> bool:
    span = x.stride(-2) if x.shape[-2] > 1 else x.shape[-1]
    for size, stride in zip(x.shape[-2::-1], x.stride()[-2::-1], strict=True):
        if size > 1 and stride != span:
            return False
        span *= size
    return x.shape[-1] == 1 or x.stride(-1) == 1


def as_array(x: Tensor) -> np.ndarray:
    """The same of a contiguous tensor, as an array of its shape."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
