"""Which backend of the selective scan runs where, and why: the one place that decides."""

from dataclasses import dataclass

import torch

from radrep.ops.selective_scan import cuda

BACKENDS = ("cpu", "cuda", "meta", "chunked", "reference")


@dataclass(frozen=True)
class BackendChoice:
    """The backend "cpu", "cuda" or "chunked", and why it was chosen."""

    name: str
    reason: str  # what it runs on, or why nothing faster is available

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def why_unavailable(
    name: str, device: torch.device, dtype: torch.dtype, state_dim: int, last_state_grad: bool
) -> str | None:
    """Why a backend cannot run, or None when it can."""
    if name in ("cpu", "cuda", "meta") and device.type != name:
        return f"the tensors are on {device}"
    if name == "cpu":
        try:
            import radrep.ops.selective_scan.cpu  # noqa: F401  (imports Numba, so not at the top)
        except ImportError as error:
            return f"Numba cannot be imported ({error})"
    if name == "cuda":
        if dtype == torch.float64:
            return "mamba-ssm has no kernel for float64"
        if state_dim > cuda.MAX_STATE_DIM:
            return f"mamba-ssm takes at most {cuda.MAX_STATE_DIM} states, got {state_dim}"
        if last_state_grad:
            return "mamba-ssm gives no gradient through the last state"
        if torch.are_deterministic_algorithms_enabled():
            return "mamba-ssm adds gradients up in any order, and train.deterministic is set"
        kernel, problem = cuda.import_kernel()
        return problem if kernel is None else None
    return None


def select_backend(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    state_dim: int = 16,
    last_state_grad: bool = False,
) -> BackendChoice:
    """Choose the fastest backend that fits; last_state_grad: gradients come through that state."""
    if device.type == "meta":
        return BackendChoice("meta", "shapes alone, as of mamba-ssm's kernel")
    if device.type not in ("cpu", "cuda"):
        return BackendChoice("chunked", f"there is no kernel for {device.type}")
    problem = why_unavailable(device.type, device, dtype, state_dim, last_state_grad)
    if problem is not None:
        return BackendChoice("chunked", problem)
    if device.type == "cuda":
        return BackendChoice("cuda", cuda.import_kernel()[1])
    import numba

    threads = torch.get_num_threads()
    return BackendChoice(
        "cpu", f"Numba {numba.__version__} on {threads} thread{'s' if threads != 1 else ''}"
    )
