"""The selective scan on NVIDIA GPUs without mamba-ssm: Triton kernels, under autograd.

What is summed over programs is summed here: the same inputs give the same bits.
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from radrep.ops.outside_graphs import outside_graphs
from radrep.ops.selective_scan import triton_kernels as kernels
from radrep.ops.selective_scan.reference import Tensors

CHUNK = 32  # steps whose states are recomputed together, in memory of (b, CHUNK, e, s)
BLOCK = 256  # states of a program: 8 for each thread of its one warp


def _width(state_dim: int) -> int:
    """Channels of a program."""
    return max(1, BLOCK // triton.next_power_of_2(state_dim))


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _launch(kernel: Any, inputs: Tensors, others: list[Tensor | None], softplus: bool) -> None:
    u, dt, A, B, C, _, z, _ = inputs
    b, steps, e = u.shape
    s = A.shape[1]
    strides = [stride for x in (u, dt, B, C, u if z is None else z) for stride in x.stride()[:2]]
    with torch.cuda.device_of(u):  # Triton launches on the current one
        kernel[(triton.cdiv(e, _width(s)), b)](
            *inputs,
            *others,
            steps,
            e,
            s,
            *strides,
            SOFTPLUS=softplus,
            CHUNK=CHUNK,
            WIDTH=_width(s),
            STATES=triton.next_power_of_2(s),
            num_warps=1,
        )


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
        u, dt, B, C = map(_rows, (u, dt, B, C))
        A = A.contiguous()
        D, dt_bias = (None if x is None else x.contiguous() for x in (D, dt_bias))
        inputs = (u, dt, A, B, C, D, None if z is None else _rows(z), dt_bias)
        y = u.new_empty(u.shape)
        last = A.new_empty(len(u), *A.shape)
        kept = A.new_empty(len(u), triton.cdiv(u.shape[1], CHUNK), *A.shape) if keep else None
        _launch(kernels.forward, inputs, [y, last, kept], softplus)
        ctx.save_for_backward(*inputs, kept)
        ctx.softplus = softplus
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
        *inputs, kept = ctx.saved_tensors
        u, dt, A, B, C, D, z, dt_bias = inputs
        b, _, e = u.shape
        s = A.shape[1]
        grad_y = u.new_zeros(u.shape) if grad_y is None else grad_y.contiguous()
        grad_last = A.new_zeros(b, e, s) if grad_last is None else grad_last.contiguous()
        grad_u, grad_dt = u.new_empty(u.shape), dt.new_empty(u.shape)
        grad_z = None if z is None else z.new_empty(u.shape)
        grad_A, grad_D, grad_bias = A.new_empty(b, e, s), A.new_empty(b, e), A.new_empty(b, e)
        grad_B, grad_C = (A.new_empty(triton.cdiv(e, _width(s)), *B.shape) for _ in range(2))
        inside = A.new_empty(b, CHUNK, e, s)
        results = [grad_u, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias]
        given = [kept, grad_y, grad_last, inside]
        _launch(kernels.backward, inputs, [*given, *results], ctx.softplus)
        return (
            grad_u,
            grad_dt,
            grad_A.sum(0),
            grad_B.sum(0).to(B.dtype),
            grad_C.sum(0).to(C.dtype),
            None if D is None else grad_D.sum(0),
            grad_z,
            None if dt_bias is None else grad_bias.sum(0),
            None,
            None,
        )


@outside_graphs
def scan(*tensors: *Tensors, softplus: bool) -> tuple[Tensor, Tensor]:
    """Outputs (b, l, e) in the type of u, and last states (b, e, s) in float32."""
    u, dt, A, B, C, D, z, dt_bias = tensors
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    D, dt_bias = (None if x is None else x.float() for x in (D, dt_bias))
    return _Scan.apply(u, dt, A.float(), B, C, D, z, dt_bias, softplus, keep)


def try_kernels(device: torch.device) -> None:
    """Scan one number there and back on a GPU; raises whatever keeps Triton from it.

    Its launcher needs a C compiler and Python's headers, and the driver has to know its code: what
    is missing shows only here.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(1, 1, 1, device=device, requires_grad=True)
        y, _ = scan(x, x, -x[0], x, x, None, None, None, softplus=True)  # softplus(x) x^3
        slope = torch.autograd.grad(y.sum(), x)[0].item()
    right = 3 * math.log1p(math.e) + 1 / (1 + math.exp(-1))
    if abs(slope - right) > 1e-4:
        raise RuntimeError(f"a scan of one number has the gradient {slope}, expected {right:.4f}")
