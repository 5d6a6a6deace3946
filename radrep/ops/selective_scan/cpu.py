"""The selective scan on CPUs: Numba kernels on threads, under autograd, nothing of (b, l, e, s).

What is summed over tasks is summed here, in a fixed order: the same bits on any number of threads.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from radrep.ops.kernel_rows import KERNEL_DTYPES, as_array, as_rows
from radrep.ops.kernel_threads import run_kernel
from radrep.ops.outside_graphs import outside_graphs
from radrep.ops.selective_scan import cpu_kernels as kernels
from radrep.ops.selective_scan.cpu_kernels import CHUNK, WIDTH
from radrep.ops.selective_scan.reference import Tensors, compute_dtype


def _kernel_inputs(rows: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """`inputs` and `spans` of the kernels."""
    given = [as_rows(x) for x in rows]
    inputs = (*(flat for flat, _ in given), *(as_array(x) for x in weights))
    return inputs, (rows[0].shape[1], *(span for _, span in given))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor | None,
        dt_bias: Tensor,
        orders: Tensor,
        scale: float,
        softplus: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        directions, b, steps, e = u.shape
        s = A.shape[2]
        rows = (u, dt, B, C, u if z is None else z)  # u: memory that is there, not read as gate
        # Copies: what NumPy has seen of a parameter, a sharded model could not free any more.
        weights = (A.transpose(1, 2).contiguous(), D.clone(), dt_bias.clone(), orders.contiguous())
        inputs, spans = _kernel_inputs(rows, weights)
        y = u.new_empty(b, steps, e)
        last = A.new_empty(directions, b, s, e)
        states = A.new_empty(directions, b, -(-steps // CHUNK) if keep else 0, s, e)
        flags = (softplus, z is not None)
        outputs = (as_array(y).reshape(-1), as_array(last), as_array(states))
        tasks = b * -(-e // WIDTH)
        run_kernel(kernels.forward, tasks, inputs, spans, flags, scale, keep, outputs)
        ctx.save_for_backward(*rows, *weights, states)
        ctx.flags, ctx.scale = flags, scale
        ctx.set_materialize_grads(False)
        return y, last.transpose(2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
        *given, states = ctx.saved_tensors
        rows, weights = tuple(given[:5]), tuple(given[5:])
        u, B, A = rows[0], rows[2], weights[0]
        directions, b, steps, e = u.shape
        s, blocks = A.shape[1], -(-e // WIDTH)
        grad_y = u.new_zeros(b, steps, e) if grad_y is None else grad_y
        grad_h = A.new_zeros(directions, b, s, e)
        if grad_last is not None:
            grad_h.copy_(grad_last.transpose(2, 3))
        grad_u, grad_dt = u.new_empty(u.shape), u.new_empty(u.shape)
        grad_z = u.new_empty(b, steps, e) if ctx.flags[1] else u.new_empty(0)
        grad_A = torch.empty_like(grad_h)
        grad_D, grad_bias = A.new_empty(directions, b, e), A.new_empty(directions, b, e)
        grad_BC = A.new_empty(blocks, directions, b, steps, 2 * s)
        run_kernel(
            kernels.backward,
            b * blocks,
            *_kernel_inputs(rows, weights),
            ctx.flags,
            ctx.scale,
            as_array(states),
            as_rows(grad_y),
            as_array(grad_h),
            tuple(as_array(x).reshape(-1) for x in (grad_u, grad_dt, grad_z)),
            tuple(as_array(x) for x in (grad_A, grad_BC, grad_D, grad_bias)),
        )
        need = ctx.needs_input_grad
        grad_B, grad_C = grad_BC.sum(0).to(B.dtype).split(s, dim=-1)
        return (
            grad_u,
            grad_dt,
            grad_A.sum(1).transpose(1, 2) * math.log(2)  # of powers of 2, see _load_chunk
            if need[2]
            else None,
            grad_B,
            grad_C,
            grad_D.sum(1) if need[5] else None,
            grad_z if ctx.flags[1] else None,
            grad_bias.sum(1) if need[7] else None,
            *(None,) * 4,
        )


def _of_one_type(*tensors: Tensor) -> list[Tensor]:
    """All as they are, if they have one type that the kernels know, or in the type computed in."""
    first = tensors[0].dtype
    if first in KERNEL_DTYPES and all(x.dtype == first for x in tensors):
        return list(tensors)
    wide = compute_dtype(tensors[0])
    return [x.to(wide) for x in tensors]


def _keep(*tensors: Tensor | None) -> bool:
    """Whether a backward pass may follow."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


@outside_graphs
def scan(*tensors: *Tensors, softplus: bool) -> tuple[Tensor, Tensor]:
    """Outputs (b, l, e) and last states (b, e, s), which are float32, or float64 as u is."""
    u, dt, A, B, C, D, z, dt_bias = tensors
    wide = compute_dtype(u)
    none = A.new_zeros(len(A), dtype=wide)
    varying = _of_one_type(u, dt, B, C, *(() if z is None else (z,)))
    y, last = _Scan.apply(
        *(x[None] for x in varying[:2]),
        A[None].to(wide),
        *(x[None] for x in varying[2:4]),
        (none if D is None else D.to(wide))[None],
        None if z is None else varying[4],
        (none if dt_bias is None else dt_bias.to(wide))[None],
        torch.arange(u.shape[1])[None],
        1.0,
        softplus,
        _keep(*tensors),
    )
    return y, last[0]


def scan_directions(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    dt_bias: Tensor,
    orders: Tensor,
    *,
    scale: float,
) -> Tensor:
    """`selective_scan` of j sequences over orders of their own, summed and scaled, (b, l, e).

    u and dt are (j, b, l, e), B and C (j, b, l, s), z (b, l, e), all in one order; A is (j, e, s),
    D and dt_bias (j, e). Step t of a sequence is at the place orders[j, t], of j permutations.
    """
    u, dt, B, C, z = _of_one_type(u, dt, B, C, z)
    keep = _keep(u, dt, A, B, C, D, z, dt_bias)
    y: Tensor = _Scan.apply(u, dt, A, B, C, D, z, dt_bias, orders, scale, True, keep)[0]
    return y
