"""The selective scan as its paper defines it: every faster backend is tested against it.

Mamba (Gu and Dao 2023, arXiv:2312.00752), Algorithm 2; upstream this is `selective_scan_ref` of
mamba_ssm/ops/selective_scan_interface.py. Letters as in the package's docstring.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# u, dt, A, B, C, D, z, dt_bias
Tensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]


def compute_dtype(u: Tensor) -> torch.dtype:
    """The type to compute in: float64 for float64 inputs, float32 for all others."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def selective_scan_reference(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    softplus: bool = True,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`selective_scan` one step at a time in plain PyTorch, without its checks."""
    dtype = compute_dtype(u)
    x, dt, A, B, C = (tensor.to(dtype) for tensor in (u, dt, A, B, C))
    if dt_bias is not None:
        dt = dt + dt_bias.to(dtype)
    if softplus:
        dt = F.softplus(dt)
    h = x.new_zeros(x.shape[0], *A.shape)  # (b, e, s)
    outputs = []
    for x_t, dt_t, B_t, C_t in zip(
        x.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True
    ):
        decay = torch.exp(dt_t[:, :, None] * A)  # (b, e, s)
        h = decay * h + (dt_t * x_t)[:, :, None] * B_t[:, None, :]
        outputs.append((h * C_t[:, None, :]).sum(-1))
    y = torch.stack(outputs, 1)  # (b, l, e)
    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    y = y.to(u.dtype)
    return (y, h) if return_last_state else y
