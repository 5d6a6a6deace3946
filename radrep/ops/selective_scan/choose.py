"""Which path of the selective scan runs where, and why: the one place that decides."""

from dataclasses import dataclass

import torch

from radrep.ops.selective_scan import cuda

BACKENDS = ("cpu", "cuda", "chunked", "reference")


@dataclass(frozen=True)
class BackendChoice:
    """A path and why it was taken.

    Attributes:
        name: "cpu", "cuda" or "chunked".
        reason: What it runs on, or why nothing faster could be taken; `radrep doctor` prints it.
    """

    name: str
    reason: str


def why_unavailable(
    name: str, device: torch.device, dtype: torch.dtype, state_dim: int, last_state_grad: bool
) -> str | None:
    """Why a path cannot run, or None when it can; arguments as for `select`."""
    if name == "cpu":
        return _cpu_obstacle(device)
    if name == "cuda":
        return _cuda_obstacle(device, dtype, state_dim, last_state_grad)
    return None


def _cpu_obstacle(device: torch.device) -> str | None:
    if device.type != "cpu":
        return f"the tensors are on {device}"
    try:
        import radrep.ops.selective_scan.cpu  # noqa: F401  (takes Numba along, so not at the top)
    except ImportError as error:
        return f"Numba cannot be imported ({error})"
    return None


def _cuda_obstacle(
    device: torch.device, dtype: torch.dtype, state_dim: int, last_state_grad: bool
) -> str | None:
    if device.type != "cuda":
        return f"the tensors are on {device}"
    if dtype == torch.float64:
        return "mamba-ssm has no kernel for float64"
    if state_dim > cuda.MAX_STATE_DIM:
        return f"mamba-ssm takes at most {cuda.MAX_STATE_DIM} states, here are {state_dim}"
    if last_state_grad:
        return "mamba-ssm gives no gradient through the last state"
    try:
        cuda.load_kernel()
    except ModuleNotFoundError as error:
        if error.name == "mamba_ssm":
            return "mamba-ssm is not installed; pip install 'radrep[cuda]'"
        return f"mamba-ssm cannot be imported ({error})"
    except (ImportError, OSError, RuntimeError) as error:  # built for another PyTorch or CUDA
        return f"mamba-ssm cannot be imported ({error})"
    return None


def select(
    device: torch.device,
    dtype: torch.dtype,
    *,
    state_dim: int = 16,
    last_state_grad: bool = False,
) -> BackendChoice:
    """Choose the fastest path that fits.

    Args:
        device: Where the tensors are.
        dtype: The type of u.
        state_dim: States of a channel.
        last_state_grad: Whether a gradient may come through the returned last state.

    Returns:
        The path and why it was taken.
    """
    if device.type == "cpu":
        fastest = "cpu"
    elif device.type == "cuda":
        fastest = "cuda"
    else:
        return BackendChoice("chunked", f"there is no kernel for {device.type}")
    problem = why_unavailable(fastest, device, dtype, state_dim, last_state_grad)
    if problem is not None:
        return BackendChoice("chunked", problem)
    if fastest == "cuda":
        return BackendChoice("cuda", cuda.load_kernel()[1])
    import numba

    threads = torch.get_num_threads()
    return BackendChoice(
        "cpu", f"Numba {numba.__version__} on {threads} thread{'s' if threads != 1 else ''}"
    )
