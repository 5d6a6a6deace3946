"""The selective scan in plain PyTorch, a chunk of steps at a time: any device, bounded memory.

Decays and inputs of a chunk are computed at once, so that a step costs one fused multiply-add over
(b, e, s). Nothing is divided and no decay is accumulated: extreme steps are as safe as in the
definition. Memory is O(b * CHUNK * e * s), for each chunk is computed again in the backward pass.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

CHUNK = 32


class _Recurrence(torch.autograd.Function):
    """h_t = decay_t h_{t-1} + drive_t over k steps, from h (b, e, s); all others (b, k, e, s)."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, h: Tensor) -> Tensor:
        states = drive.clone()
        before = h
        for t in range(states.shape[1]):
            before = states[:, t].addcmul_(decay[:, t], before)
        ctx.save_for_backward(decay, states, h)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, states, h = ctx.saved_tensors
        grad = grad_states.clone()
        for t in range(grad.shape[1] - 1, 0, -1):
            grad[:, t - 1].addcmul_(decay[:, t], grad[:, t])
        before = torch.cat([h[:, None], states[:, :-1]], 1)
        return grad * before, grad, grad[:, 0] * decay[:, 0]


def _scan_chunk(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    decay = torch.exp(dt[..., None] * A)  # (b, k, e, s)
    drive = (dt * u)[..., None] * B[:, :, None, :]
    states = _Recurrence.apply(decay, drive, h)
    return (states * C[:, :, None, :]).sum(-1), states[:, -1]


def scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """The selective scan on any device, all tensors of one type, float32 or float64.

    Returns:
        Outputs (b, l, e) and last states (b, e, s).
    """
    if dt_bias is not None:
        dt = dt + dt_bias
    if softplus:
        dt = F.softplus(dt)
    h = u.new_zeros(u.shape[0], *A.shape)  # (b, e, s)
    outputs = []
    for u_k, dt_k, B_k, C_k in zip(*(x.split(CHUNK, 1) for x in (u, dt, B, C)), strict=True):
        y, h = checkpoint(
            _scan_chunk, u_k, dt_k, A, B_k, C_k, h, use_reentrant=False, preserve_rng_state=False
        )
        outputs.append(y)
    y = torch.cat(outputs, 1)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * F.silu(z)
    return y, h
