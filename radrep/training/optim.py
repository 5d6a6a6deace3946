"""Parameter groups and the course of the learning rates."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from radrep.errors import CheckpointError
from radrep.models.base import TrainableModel
from radrep.recipe.training import Optim


def build_optimizer(model: TrainableModel, section: Optim) -> torch.optim.Optimizer:
    """Adam or AdamW with groups for the encoder and for the rest, of "lr" and its top "top_lr".

    AdamW decays all parameters but those of one axis (biases, norms) and those marked
    `_no_weight_decay`, as mamba marks A_log and D. Adam adds the decay to every gradient.
    """
    encoder = [p for p in model.encoder_parameters() if p.requires_grad]
    in_encoder = {id(p) for p in encoder}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in in_encoder]
    groups: list[dict[str, Any]] = [
        {"params": params, "lr": lr, "top_lr": lr, "name": name}
        for name, params, lr in (
            ("encoder", encoder, section.encoder_lr),
            ("rest", rest, section.lr),
        )
        if params
    ]
    check_groups(model.named_parameters(), (group["params"] for group in groups))
    kind: type[torch.optim.Adam] = torch.optim.Adam
    if section.name == "adamw":
        kind = torch.optim.AdamW
        groups = [part for group in groups for part in _by_decay(group)]
    return kind(
        groups,
        betas=section.betas,
        eps=section.eps,
        weight_decay=section.weight_decay,
        amsgrad=section.amsgrad,
        fused=True,
    )


def restore_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], section: Optim, last: Path
) -> None:
    """Load the state of a checkpoint, with the rates of the recipe of now.

    Raises CheckpointError if it is of another model.
    """
    kinds = [{key: type(group[key]) for key in group} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state["optimizer"])
        groups = zip(kinds, optimizer.param_groups, strict=True)
        found = [{key: type(group[key]) for key in own} for own, group in groups]
        fits = found == kinds and all(
            tensor.dim() == 0 or tensor.shape == parameter.shape
            for parameter, values in optimizer.state.items()
            for tensor in values.values()
        )
        set_top_rates(optimizer, section)
    except (LookupError, TypeError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise CheckpointError(f"{last} holds the state of another optimizer than this recipe's")


def set_top_rates(optimizer: torch.optim.Optimizer, section: Optim) -> None:
    """Give the groups of a restored optimizer the rates of the recipe of now."""
    for group in optimizer.param_groups:
        group["top_lr"] = section.encoder_lr if group["name"] == "encoder" else section.lr


def _by_decay(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A group as one whose parameters decay and one whose do not."""
    decayed = [p for p in group["params"] if _decays(p)]
    spared = [p for p in group["params"] if not _decays(p)]
    parts = [{**group, "params": decayed}, {**group, "params": spared, "weight_decay": 0.0}]
    return [part for part in parts if part["params"]]


def _decays(parameter: nn.Parameter) -> bool:
    return parameter.dim() > 1 and not getattr(parameter, "_no_weight_decay", False)


def check_groups(
    named: Iterable[tuple[str, nn.Parameter]], groups: Iterable[Iterable[nn.Parameter]]
) -> None:
    """Assert that every trainable parameter is in exactly one group."""
    counts = Counter(id(parameter) for group in groups for parameter in group)
    for name, parameter in named:
        expected, found = int(parameter.requires_grad), counts.pop(id(parameter), 0)
        assert found == expected, f"{name} is in {found} parameter groups, expected {expected}"
    assert not counts, f"{len(counts)} grouped parameters are not the model's"


def rate_factor(step: int, *, warmup_steps: int, total_steps: int, floor: float) -> float:
    """Share of the top learning rate after `step` steps: linear warm-up, then a cosine.

    The floor is reached at `total_steps`, one step after the last one.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    course = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, course)))


def set_learning_rates(
    optimizer: torch.optim.Optimizer, section: Optim, step: int, total_steps: int
) -> None:
    """Set every group's rate for a step."""
    for group in optimizer.param_groups:
        group["lr"] = group["top_lr"] * rate_factor(
            step,
            warmup_steps=section.warmup_steps,
            total_steps=total_steps,
            floor=min(1.0, section.min_lr / group["top_lr"]),
        )
