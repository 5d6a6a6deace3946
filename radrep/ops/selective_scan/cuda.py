"""The selective scan on NVIDIA GPUs: a thin call of mamba-ssm's public kernel, when installed."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from radrep.ops.selective_scan.reference import Tensors

MAX_STATE_DIM = 256  # fixed in mamba-ssm's kernel
# Its build imports the installed torch; newer sources compile their CUDA extension only on request.
INSTALL = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation 'mamba-ssm>=2.3'"


@functools.cache
def import_kernel() -> tuple[Callable[..., Any] | None, str]:
    """Mamba-ssm's selective_scan_fn and "mamba-ssm VERSION", or None and what is missing."""
    try:
        import mamba_ssm
        from mamba_ssm.ops import selective_scan_interface as interface
    except ModuleNotFoundError as error:
        if error.name == "mamba_ssm":
            return None, f"mamba-ssm is not installed; install it with: {INSTALL}"
        return None, f"mamba-ssm cannot be imported ({error})"
    except (ImportError, OSError, RuntimeError) as error:  # built for another PyTorch or CUDA
        return None, f"mamba-ssm cannot be imported ({error}); reinstall it with: {INSTALL}"
    version = f"mamba-ssm {mamba_ssm.__version__}"
    if getattr(interface, "selective_scan_cuda", None) is None:
        return None, f"{version} was built without its CUDA extension; reinstall it with: {INSTALL}"
    return interface.selective_scan_fn, version


def widest_type(*tensors: Tensor | None) -> torch.dtype:
    """Of what varies over the sequence: the kernel wants one type, and this one loses nothing."""
    return functools.reduce(torch.promote_types, (x.dtype for x in tensors if x is not None))


def scan(*tensors: *Tensors, softplus: bool) -> tuple[Tensor, Tensor]:
    """Outputs (b, l, e) and last states (b, e, s), which have no gradient, in float32."""
    u, dt, A, B, C, D, z, dt_bias = tensors
    kernel, problem = import_kernel()
    assert kernel is not None, problem
    dtype = widest_type(u, dt, B, C, z)

    def transposed(x: Tensor | None) -> Tensor | None:  # (b, l, x) -> (b, x, l)
        return None if x is None else x.to(dtype).transpose(1, 2)

    y, last = kernel(
        transposed(u),
        transposed(dt),
        A.float(),
        transposed(B),
        transposed(C),
        None if D is None else D.float(),
        transposed(z),
        None if dt_bias is None else dt_bias.float(),
        softplus,
        True,
    )
    return y.transpose(1, 2), last
