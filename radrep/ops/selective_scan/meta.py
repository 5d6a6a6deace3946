"""The selective scan of shapes alone, on the device "meta": what mamba-ssm's kernel allocates."""

from typing import Any

import torch
from torch import Tensor

from radrep.ops.selective_scan.cuda import widest_type
from radrep.ops.selective_scan.reference import Tensors

_STEPS = 2048  # between the states that the kernel keeps for its backward pass


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, A: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:
        b, e, steps = u.shape
        kept = A.new_empty(b, e, -(-steps // _STEPS), 2 * A.shape[1])  # states are in float32
        y, gated = torch.empty_like(u), torch.empty_like(u)
        ctx.save_for_backward(u, A, *others, kept, y)
        return gated, kept[..., -1, : A.shape[1]]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, _kept, _y = ctx.saved_tensors
        return tuple(None if x is None else torch.empty_like(x) for x in inputs)


def scan(*tensors: *Tensors, softplus: bool) -> tuple[Tensor, Tensor]:
    """Outputs (b, l, e) and last states (b, e, s)."""
    u, dt, A, B, C, D, z, dt_bias = tensors
    dtype = widest_type(u, dt, B, C, z)
    rows = [
        None if x is None else x.to(dtype).transpose(1, 2).contiguous() for x in (u, dt, B, C, z)
    ]
    first, *others = rows
    assert first is not None, "the scan has inputs"
    wide = [None if x is None else x.float() for x in (A, D, dt_bias)]
    y, last = _Scan.apply(first, wide[0], *others, *wide[1:])
    return y.transpose(1, 2), last
