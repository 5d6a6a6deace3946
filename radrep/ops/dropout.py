"""Dropout whose random numbers do not cost more than the arithmetic around it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from radrep.ops.outside_graphs import outside_graphs

_LEVELS = 1 << 16


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability p, in [0, 1), and scale the rest so that the mean stays.

    On CPUs torch draws one Bernoulli number after the other, a tenth of a training step. Here one
    64-bit draw decides on four elements; p is rounded to 1/65536, and the scale fits that.
    """
    if p == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return _dropout_on_cpu(x, p)


@outside_graphs  # which have no random_
def _dropout_on_cpu(x: Tensor, p: float) -> Tensor:
    dropped = round(p * _LEVELS)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _LEVELS // 2
    return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))
