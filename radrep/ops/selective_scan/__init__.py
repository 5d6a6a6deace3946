"""The selective scan of Mamba: one function, the fastest backend that fits, and the definition.

u inputs, y outputs, h states, dt step sizes, A decay rates, B input weights, C output weights,
D skip weights, z gate. b sequences, l steps, e channels, s states of a channel.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from radrep.errors import RadrepError
from radrep.ops.selective_scan.choose import (
    BACKENDS,
    BackendChoice,
    has_fused_kernels,
    select_backend,
    why_unavailable,
)
from radrep.ops.selective_scan.reference import compute_dtype, selective_scan_reference

__all__ = [
    "BackendChoice",
    "has_fused_kernels",
    "select_backend",
    "selective_scan",
    "selective_scan_reference",
]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def selective_scan(
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
    backend: str = "auto",
) -> Any:
    """Run the selective state-space recurrence (Mamba, arXiv:2312.00752, Algorithm 2).

        h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t        y_t = C_t h_t + D u_t

    with h_0 = 0. Computes in float32 (float64 when u is float64) whatever the inputs are, also
    under autocast. Differentiable once in every tensor, and through the last state.

    Args:
        u: (b, l, e).
        dt: (b, l, e), before dt_bias is added and softplus taken.
        A: (e, s), all negative.
        B: (b, l, s).
        C: (b, l, s).
        D: (e,).
        z: (b, l, e); y is multiplied with silu(z).
        dt_bias: (e,).
        softplus: Whether dt + dt_bias goes through softplus.
        return_last_state: Return (y, h_l) and not y, (b, l, e), alone: h (b, e, s) in the type
            computed in, y in that of u.
        backend: "auto" for the choice of `select_backend`, or one of `BACKENDS`.

    Raises:
        ValueError: If a shape, a type or a device does not fit, or there is no such backend.
        RadrepError: If the backend asked for cannot run here.
    """
    tensors: tuple[Tensor | None, ...] = (u, dt, A, B, C, D, z, dt_bias)
    names = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias")
    given = {name: x for name, x in zip(names, tensors, strict=True) if x is not None}
    _check(given)
    name = _resolve(backend, given, return_last_state)
    if name == "reference":
        return selective_scan_reference(
            u, dt, A, B, C, D, z, dt_bias, softplus=softplus, return_last_state=return_last_state
        )
    if name not in ("cpu", "cuda", "triton", "meta"):  # which read the narrow types
        dtype = compute_dtype(u)
        tensors = tuple(None if x is None else x.to(dtype) for x in tensors)
    # By name: Numba takes half a second to import, and Triton is not everywhere.
    y, last = import_module(f"{__name__}.{name}").scan(*tensors, softplus=softplus)
    y = y.to(u.dtype)
    return (y, last) if return_last_state else y


def _check(given: dict[str, Tensor]) -> None:
    u, A = given["u"], given["A"]
    for name, ndim, dims in (("u", 3, "(b, l, e)"), ("A", 2, "(e, s)")):
        if given[name].ndim != ndim or 0 in given[name].shape:
            shape = tuple(given[name].shape)
            raise ValueError(f"{name} has shape {shape}, expected {dims}, none of them 0")
    b, l, e = u.shape  # noqa: E741  (the name that steps have everywhere)
    s = A.shape[1]
    expected = {"dt": (b, l, e), "A": (e, s), "B": (b, l, s), "C": (b, l, s)}
    expected |= {"D": (e,), "z": (b, l, e), "dt_bias": (e,)}
    for name, tensor in given.items():
        shape = tuple(tensor.shape)
        if shape != expected.get(name, shape):
            raise ValueError(
                f"{name} has shape {shape}, expected {expected[name]}"
                f" for u of shape {(b, l, e)} and A of shape {tuple(A.shape)}"
            )
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name} is of type {tensor.dtype}, expected one of {_DTYPES}")
        if tensor.device != u.device:
            raise ValueError(f"{name} is on {tensor.device}, but u is on {u.device}")


def _resolve(backend: str, given: dict[str, Tensor], return_last_state: bool) -> str:
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend is {backend!r}, expected 'auto' or one of {BACKENDS}")
    u, state_dim = given["u"], given["A"].shape[1]
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in given.values())
    last_state_grad = return_last_state and differentiated
    if backend == "auto":
        return select_backend(
            u.device, u.dtype, state_dim=state_dim, last_state_grad=last_state_grad
        ).name
    problem = why_unavailable(backend, u.device, u.dtype, state_dim, last_state_grad)
    if problem is not None:
        raise RadrepError(
            f"selective_scan(backend={backend!r}) cannot run: {problem}. With backend='auto' the "
            "fastest one that can is used."
        )
    return backend
