"""The selective scan on NVIDIA GPUs: a thin call of mamba-ssm's public kernel, when installed."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MAX_STATE_DIM = 256  # fixed in mamba-ssm's kernel


@functools.cache
def load_kernel() -> tuple[Callable[..., Any], str]:
    """Mamba-ssm's selective_scan_fn, and the name and version of what it comes from.

    Raises:
        ImportError: If mamba-ssm is not installed, or does not fit this PyTorch.
    """
    import mamba_ssm
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn, f"mamba-ssm {mamba_ssm.__version__}"


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
    """The selective scan by mamba-ssm, which computes in float32; the last state has no gradient.

    Returns:
        Outputs (b, l, e) and last states (b, e, s) in float32.
    """
    kernel, _ = load_kernel()
    # The kernel wants one type for all that varies over the sequence: the widest loses nothing.
    dtype = functools.reduce(
        torch.promote_types, (x.dtype for x in (u, dt, B, C, z) if x is not None)
    )

    def turned(x: Tensor | None) -> Tensor | None:  # (b, l, x) -> (b, x, l), as the kernel has it
        return None if x is None else x.to(dtype).transpose(1, 2)

    y, last = kernel(
        turned(u),
        turned(dt),
        A.float(),
        turned(B),
        turned(C),
        None if D is None else D.float(),
        turned(z),
        None if dt_bias is None else dt_bias.float(),
        softplus,
        True,
    )
    return y.transpose(1, 2), last
