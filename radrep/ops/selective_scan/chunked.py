"""The selective scan in plain PyTorch, a chunk of steps at a time: any device, bounded memory.

Decays and inputs of a chunk are computed at once; nothing is divided and no decay is accumulated,
so extreme steps are as safe as in the definition. Memory is O(b * CHUNK * e * s) and the states in
front of each chunk, from which the backward pass computes those inside again.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from radrep.ops.selective_scan.reference import Tensors

CHUNK = 32


def _run_chunk(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The decays exp(dt A) and the states of k steps, both (b, k, e, s), from the state h."""
    decay = torch.exp(dt[..., None] * A)
    states = (dt * u)[..., None] * B[:, :, None, :]
    for t in range(states.shape[1]):
        h = states[:, t].addcmul_(decay[:, t], h)
    return decay, states


class _Scan(torch.autograd.Function):
    """The recurrence alone; dt is the step itself. All that grows with l is allocated once.

    Small results allocated between the large ones of each chunk would pin those in the heap.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
    ) -> tuple[Tensor, Tensor]:
        starts = range(0, u.shape[1], CHUNK)
        before = u.new_zeros(len(starts) + 1, u.shape[0], *A.shape)  # (chunks + 1, b, e, s)
        y = torch.empty_like(u)
        for j, start in enumerate(starts):
            part = slice(start, start + CHUNK)
            _, states = _run_chunk(u[:, part], dt[:, part], A, B[:, part], before[j])
            y[:, part] = (states * C[:, part, None, :]).sum(-1)
            before[j + 1] = states[:, -1]
        ctx.save_for_backward(u, dt, A, B, C, before)
        return y, before[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        u, dt, A, B, C, before = ctx.saved_tensors
        grad_u, grad_dt, grad_A, grad_B, grad_C = (torch.zeros_like(x) for x in (u, dt, A, B, C))
        grad_h = grad_last.clone()
        for j, start in reversed(list(enumerate(range(0, u.shape[1], CHUNK)))):
            part = slice(start, start + CHUNK)
            decay, states = _run_chunk(u[:, part], dt[:, part], A, B[:, part], before[j])
            grad_C[:, part] = (states * grad_y[:, part, :, None]).sum(2)
            grad = grad_y[:, part, :, None] * C[:, part, None, :]  # of the states
            grad[:, -1] += grad_h
            for t in range(grad.shape[1] - 1, 0, -1):
                grad[:, t - 1].addcmul_(decay[:, t], grad[:, t])
            torch.mul(grad[:, 0], decay[:, 0], out=grad_h)
            grad_B[:, part] = (grad * (dt[:, part] * u[:, part])[..., None]).sum(2)
            grad_drive = (grad * B[:, part, None, :]).sum(-1)  # of dt u
            grad[:, 1:] *= states[:, :-1]
            grad[:, 0] *= before[j]
            grad *= decay  # now of dt A
            grad_u[:, part] = grad_drive * dt[:, part]
            grad_dt[:, part] = grad_drive * u[:, part] + (grad * A).sum(-1)
            grad_A += (grad * dt[:, part, :, None]).sum((0, 1))
        return grad_u, grad_dt, grad_A, grad_B, grad_C


def scan(*tensors: *Tensors, softplus: bool) -> tuple[Tensor, Tensor]:
    """Outputs (b, l, e) and last states (b, e, s); all tensors are float32, or all float64."""
    u, dt, A, B, C, D, z, dt_bias = tensors
    if dt_bias is not None:
        dt = dt + dt_bias
    if softplus:
        dt = F.softplus(dt)
    y, last = _Scan.apply(u, dt, A, B, C)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * F.silu(z)
    return y, last
