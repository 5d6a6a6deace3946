"""A linear layer that can learn low-rank updates of some of its rows (LoRA, arXiv 2106.09685)."""

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.modules.dropout import Dropout


class LowRankUpdate(nn.Module):
    """scale U(dropout(V x)) on the output rows [first, behind); there is no alpha over rank."""

    def __init__(
        self, *, in_dim: int, rows: tuple[int, int], rank: int, scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.first, self.behind = rows
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, in_dim))  # V
        self.up = nn.Parameter(torch.zeros(self.behind - self.first, rank))  # U
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to what the rows gain, (..., rows)."""
        return self.scale * F.linear(self.dropout(F.linear(x, self.down)), self.up)

    def delta(self) -> Tensor:
        """What the rows of the weight gain, (rows, inputs)."""
        return self.scale * (self.up @ self.down)


class LowRankLinear(nn.Linear):
    """nn.Linear that takes any number of `LowRankUpdate`, as adapters.<name>.down and .up."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.adapters = nn.ModuleDict()
        # Not modules of this layer: a state with one tensor under two names cannot be saved.
        self._borrowed: dict[str, LowRankUpdate] = {}

    def add_adapter(
        self,
        name: str,
        *,
        rank: int,
        rows: slice | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> list[nn.Parameter]:
        """Add a low-rank update of some output rows, or of all; return its parameters."""
        self._refuse_taken(name)
        first, behind, step = (slice(None) if rows is None else rows).indices(self.out_features)
        if rank < 1:
            raise ValueError(f"the rank of adapter {name!r} must be at least 1, got {rank}")
        if behind <= first or step != 1:
            raise ValueError(
                f"adapter {name!r} needs neighbouring rows, at least one of {self.out_features}, "
                f"got {rows}"
            )
        update = LowRankUpdate(
            in_dim=self.in_features, rows=(first, behind), rank=rank, scale=scale, dropout=dropout
        ).to(self.weight)
        self.adapters[name] = update.train(self.training)
        return list(update.parameters())

    def borrow_adapter(self, name: str, owner: "LowRankLinear") -> None:
        """Apply another layer's update here too; its parameters stay in the owner's state."""
        self._refuse_taken(name)
        if owner.weight.shape != self.weight.shape:
            raise ValueError(
                f"adapter {name!r} is of a layer of {tuple(owner.weight.shape)}, "
                f"this one is of {tuple(self.weight.shape)}"
            )
        self._borrowed[name] = cast(LowRankUpdate, owner.adapters[name])

    def _refuse_taken(self, name: str) -> None:
        if name in self.adapters or name in self._borrowed:
            raise ValueError(f"there is an adapter {name!r} already")

    def _updates(self) -> list[LowRankUpdate]:
        return [*cast(Iterable[LowRankUpdate], self.adapters.values()), *self._borrowed.values()]

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self._updated(x, F.linear(x, self.weight, self.bias))

    def product(self, x: Tensor) -> Tensor:
        """The same without the bias."""
        return self._updated(x, F.linear(x, self.weight))

    def _updated(self, x: Tensor, y: Tensor) -> Tensor:
        for update in self._updates():
            y = y + F.pad(update(x), (update.first, self.out_features - update.behind))
        return y

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the updates into the weight and remove them; borrowed ones stay with their owner."""
        for update in self._updates():
            self.weight[update.first : update.behind] += update.delta()
        self.adapters.clear()
        self._borrowed.clear()


def product_of_each(layers: Sequence[LowRankLinear], x: Tensor) -> Tensor:
    """`product` of each layer with inputs of its own: (layers, b, l, inputs), to outputs."""
    weights = torch.stack([layer.weight for layer in layers]).transpose(1, 2)
    y = torch.bmm(x.flatten(1, 2), weights).unflatten(1, x.shape[1:3])
    if not any(layer._updates() for layer in layers):
        return y
    return torch.stack([layer._updated(*own) for layer, *own in zip(layers, x, y, strict=True)])
