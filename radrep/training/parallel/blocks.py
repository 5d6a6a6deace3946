"""The repeated parts of a model: what is sharded, recomputed and compiled one by one."""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from radrep.device import why_not_compiled
from radrep.errors import RecipeError


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


def compile_blocks(model: nn.Module) -> None:
    """Have torch compile the training passes of every block; other passes, without gradients, stay.

    Those have the shapes of generation, a token at a time: more to compile than there is to gain.
    """
    blocks = repeated_blocks(model)
    # Blocks share their code, and may differ in what torch has as constants, such as a probability.
    config = import_module("torch._dynamo").config  # takes seconds, and few runs compile
    config.recompile_limit = max(config.recompile_limit, 8 * len(blocks))
    for block in blocks:
        block.forward = _compiled(block.forward)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward)

    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else forward)(*args, **kwargs)

    return call


def check_compiler(device: torch.device) -> None:
    """Raise RecipeError where torch cannot compile a function."""
    if why := why_not_compiled(device):
        text = f"cannot be had: {why}: install them, or set it to false"
        raise RecipeError("this run", [("parallel.compile", text)])


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
