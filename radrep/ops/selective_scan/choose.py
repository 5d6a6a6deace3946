"""Which backend of the selective scan runs where, and why: the one place that decides."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from radrep.ops.outside_graphs import outside_graphs
from radrep.ops.selective_scan import cuda

BACKENDS = ("cpu", "cuda", "triton", "meta", "chunked", "reference")


@dataclass(frozen=True)
class BackendChoice:
    """The backend "cpu", "cuda", "triton", "meta" or "chunked", and why it was chosen."""

    name: str
    reason: str  # what it runs on, and why nothing faster is available

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def why_unavailable(
    name: str, device: torch.device, dtype: torch.dtype, state_dim: int, last_state_grad: bool
) -> str | None:
    """Why a backend cannot run, or None when it can."""
    if device.type != {"triton": "cuda"}.get(name, name) and name not in ("chunked", "reference"):
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
    if name == "triton":
        if dtype == torch.float64:
            return "the Triton kernels compute in float32"
        return _triton_problem(device)
    return None


@outside_graphs
@functools.cache
def _triton_problem(device: torch.device) -> str | None:
    try:
        from radrep.ops.selective_scan import triton

        triton.try_kernels(device)
    except ModuleNotFoundError as error:
        if error.name == "triton":
            return "Triton is not installed; it comes with PyTorch's CUDA build on Linux"
        return f"Triton cannot be imported ({error})"
    except Exception as error:  # of Triton, the C compiler that it calls, the driver or torch
        text = " ".join(str(error).split())[:200]
        return f"Triton's kernels do not run here ({type(error).__name__}: {text})"
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
    fits = (device, dtype, state_dim, last_state_grad)
    problem = why_unavailable(device.type, *fits)
    if device.type == "cuda":
        if problem is None:
            return BackendChoice("cuda", cuda.import_kernel()[1])
        without_triton = why_unavailable("triton", *fits)
        if without_triton is not None:
            return BackendChoice("chunked", f"{problem}. {without_triton}")
        from triton import __version__

        return BackendChoice("triton", f"Triton {__version__}; {problem}")
    if problem is not None:
        return BackendChoice("chunked", problem)
    import numba

    threads = torch.get_num_threads()
    return BackendChoice(
        "cpu", f"Numba {numba.__version__} on {threads} thread{'s' if threads != 1 else ''}"
    )


def has_fused_kernels(x: Tensor) -> bool:
    """Whether several directions can be scanned, with what is around them, in the CPU's kernels."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16, torch.float64)
        and not torch.compiler.is_compiling()
        and select_backend(x.device, x.dtype).name == "cpu"
    )
