"""The repeated parts of a model: what is sharded, recomputed and compiled one by one."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Layers of language models and text encoders, blocks of vision encoders and decoders.

    These are the members of the outermost module lists, where each has parts of its own.
    """
    found: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            found += [block for block in child if next(block.children(), None) is not None]
        else:
            found += repeated_blocks(child)
    return found


def recompute_blocks(model: nn.Module) -> None:
    """Have every block compute its activations again in the backward pass.

    Layers of a language model that its own switch covers are left to that.
    """
    for block in repeated_blocks(model):
        if not getattr(block, "gradient_checkpointing", False):
            block.forward = _recomputed(block.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return call
