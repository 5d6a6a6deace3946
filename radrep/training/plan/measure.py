"""What one training step holds and computes, from shapes alone: a model on the device "meta"."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from radrep.data.batch import Batch
from radrep.models.base import TrainableModel

META = torch.device("meta")
# As torch.autocast on CUDA (torch/_docs: "Op-specific behavior"), of what the models here call.
_LOWER = {
    "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum",
    "conv1d", "conv2d", "scaled_dot_product_attention",
}  # fmt: skip
_WIDER = {
    "softmax", "log_softmax", "layer_norm", "group_norm", "cross_entropy", "mse_loss", "nll_loss",
    "exp", "log", "pow", "__pow__", "rsqrt", "reciprocal", "softplus", "sum", "prod", "cumsum",
    "norm", "normalize", "cosine_similarity",
}  # fmt: skip


@dataclass(frozen=True)
class StepCost:
    """Of one forward and backward pass: bytes at most beside weights and gradients, and FLOPs.

    Kernels are the calls that make a tensor.
    """

    num_bytes: int
    flops: int
    kernels: int


def measure_step(model: TrainableModel, batch: Batch, precision: str) -> StepCost:
    """Run a step of a model and a batch, both on "meta", and count.

    Gradients are there beforehand, as from the second micro-batch on. FLOPs are those of matrix
    products and convolutions, as `torch.utils.flop_counter` counts them, in a step of their own:
    its hooks on modules keep what is computed again alive.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    live, counter = LiveBytes(model), FlopCounterMode(display=False)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    for counting in (live, counter):
        with counting, _Autocast(dtype) as casts:
            loss = model.loss(batch)["loss"]
            casts.end_forward()
            # What is computed again needs its casts too; loss.backward() would run without them.
            engine: Any = torch.autograd.Variable._execution_engine
            engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, True)
    for parameter in trained:
        parameter.grad = None
    return StepCost(live.most, counter.get_total_flops(), live.kernels)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside and still needed, and their maximum."""

    def __init__(self, model: TrainableModel) -> None:
        super().__init__()
        self.now = self.most = self.kernels = 0
        self._alive: dict[int, Any] = {}
        assert isinstance(model, nn.Module), "models are modules"
        for tensor in (*model.parameters(), *model.buffers()):
            self._alive[tensor.untyped_storage()._cdata] = None
            if tensor.grad is not None:
                self._alive[tensor.grad.untyped_storage()._cdata] = None

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function and count its results."""
        results = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return results

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self.kernels += 1
        self.now += size
        self.most = max(self.most, self.now)

        def forget(_: Any) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = ref(storage, forget)


class _Autocast(TorchFunctionMode):
    """Casts as torch.autocast does on GPUs, which on "meta" does nothing.

    Weights once in the forward pass; what is computed again in the backward pass casts them again.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._weights: dict[int, Tensor] | None = {}

    def end_forward(self) -> None:
        """Drop the casts of weights that no gradient needs."""
        self._weights = None

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function with its inputs cast."""
        name = getattr(function, "__name__", "")
        if self._dtype != torch.float32 and (name in _LOWER or name in _WIDER):
            cast = self._lowered if name in _LOWER else _widened
            args, kwargs = tree_map_only(Tensor, cast, (args, kwargs or {}))
        if name == "all" and not args[1:] and not kwargs:  # whether a mask may be left out
            return torch.tensor(False)
        return function(*args, **(kwargs or {}))

    def _lowered(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if self._weights is None or not (isinstance(tensor, nn.Parameter) and tensor.requires_grad):
            return tensor.to(self._dtype)
        if id(tensor) not in self._weights:
            self._weights[id(tensor)] = tensor.to(self._dtype)
        return self._weights[id(tensor)]


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
