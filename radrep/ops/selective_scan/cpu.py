"""The selective scan on CPUs: Numba kernels on threads, under autograd, nothing of (b, l, e, s).

What is summed over tasks is summed here, in a fixed order: the same bits on any number of threads.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from radrep.ops.kernel_threads import Arrays, run_kernel
from radrep.ops.outside_graphs import outside_graphs
from radrep.ops.selective_scan import cpu_kernels as kernels
from radrep.ops.selective_scan.cpu_kernels import CHUNK, WIDTH
from radrep.ops.selective_scan.reference import Tensors


def _arrays(*tensors: Tensor) -> Arrays:
    return tuple(tensor.detach().numpy() for tensor in tensors)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        dt_bias: Tensor | None,
        softplus: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        b, steps, e = u.shape
        s = A.shape[1]
        u, dt, B, C = (tensor.contiguous() for tensor in (u, dt, B, C))
        decay = A.t().contiguous()
        # Copies: what NumPy has seen of a parameter, a sharded model could not free any more.
        skip = u.new_zeros(e) if D is None else D.clone()
        bias = u.new_zeros(e) if dt_bias is None else dt_bias.clone()
        gate = u if z is None else z.contiguous()  # u: an array that is there, not read as gate
        inputs = (u, dt, decay, B, C, skip, gate, bias)
        y = torch.empty_like(u)
        last = u.new_zeros(b, s, e)
        states = u.new_empty(b, -(-steps // CHUNK) if keep else 0, s, e)
        tasks = b * -(-e // WIDTH)
        outputs = _arrays(y, last, states)
        run_kernel(kernels.forward, tasks, _arrays(*inputs), softplus, z is not None, keep, outputs)
        ctx.save_for_backward(*inputs, states)
        ctx.softplus, ctx.gated = softplus, z is not None
        ctx.set_materialize_grads(False)
        return y, last.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
        *inputs, states = ctx.saved_tensors
        u, _, _, B, _, _, _, _ = inputs
        b, steps, e = u.shape
        s = states.shape[2]
        blocks = -(-e // WIDTH)
        grad_y = torch.zeros_like(u) if grad_y is None else grad_y.contiguous()
        grad_h = u.new_zeros(b, s, e)
        if grad_last is not None:
            grad_h.copy_(grad_last.transpose(1, 2))
        grad_u, grad_dt = torch.empty_like(u), torch.empty_like(u)
        grad_z = torch.empty_like(u) if ctx.gated else u.new_empty(0, 0, 0)
        grad_A, grad_D = torch.zeros_like(grad_h), u.new_empty(b, e)
        grad_B, grad_C = B.new_empty(blocks, b, steps, s), B.new_empty(blocks, b, steps, s)
        results = _arrays(grad_u, grad_dt, grad_z)
        sums = _arrays(grad_A, grad_B, grad_C, grad_D)
        flags = (ctx.softplus, ctx.gated)
        given = (states, grad_y, grad_h)
        run_kernel(
            kernels.backward, b * blocks, _arrays(*inputs), *flags, *_arrays(*given), results, sums
        )
        need = ctx.needs_input_grad
        return (
            grad_u,
            grad_dt,
            grad_A.sum(0).t() * math.log(2) if need[2] else None,  # of powers of 2, see _load_steps
            grad_B.sum(0) if need[3] else None,
            grad_C.sum(0) if need[4] else None,
            grad_D.sum(0) if need[5] else None,
            grad_z if ctx.gated else None,
            grad_dt.sum((0, 1)) if need[7] else None,
            None,
            None,
        )


@outside_graphs
def scan(*tensors: *Tensors, softplus: bool) -> tuple[Tensor, Tensor]:
    """Outputs (b, l, e) and last states (b, e, s); all tensors are float32, or all float64."""
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    return _Scan.apply(*tensors, softplus, keep)
