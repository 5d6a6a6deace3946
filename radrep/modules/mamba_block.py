"""Blocks of the vision encoder of MambaXray-VL: Mamba branches over several orders, and a SwiGLU.

Letters: v images, n tokens, d width, e inner width, equal to d.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from radrep.modules.low_rank import LowRankLinear
from radrep.modules.mamba import MambaBranch, scan_branches
from radrep.ops.scan_order import column_order, inverse_order
from radrep.ops.selective_scan import has_fused_kernels

DIRECTIONS = ("rows", "rows_reversed", "columns", "columns_reversed")


class MambaMixer(nn.Module):
    """Mamba branches over several orders of the tokens, averaged between shared projections.

    The direction "rows" alone takes sequences of any length, else they are those of the grid and a
    class token at class_index.
    """

    def __init__(
        self,
        *,
        dim: int,
        grid: tuple[int, int],
        class_index: int | None = None,
        directions: Sequence[str] = DIRECTIONS,
        state_dim: int = 16,
        conv_width: int = 4,
    ) -> None:
        super().__init__()
        unknown = set(directions) - set(DIRECTIONS)
        if unknown or not directions or len(set(directions)) != len(directions):
            raise ValueError(
                f"directions must be different ones of {', '.join(DIRECTIONS)}, got "
                f"{tuple(directions)}"
            )
        self.dim = dim
        self.state_dim = state_dim
        self.dt_rank = math.ceil(dim / 16)
        self.in_proj = LowRankLinear(dim, 2 * dim, bias=False)
        self.branches = nn.ModuleDict(
            {
                direction: MambaBranch(
                    inner_dim=dim, state_dim=state_dim, conv_width=conv_width, dt_rank=self.dt_rank
                )
                for direction in directions
            }
        )
        self.out_proj = LowRankLinear(dim, dim, bias=False)
        for direction in directions:
            if direction != "rows":
                order = _scan_order(direction, grid, class_index)
                self.register_buffer(f"{direction}_order", order, persistent=False)
                self.register_buffer(f"{direction}_back", inverse_order(order), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix the tokens of each image: (v, n, d) -> (v, n, d)."""
        xz = self.in_proj(tokens)  # (v, n, 2 e)
        if has_fused_kernels(xz):
            branches = [cast(MambaBranch, branch) for branch in self.branches.values()]
            orders = self._orders(xz.shape[1])
            return self.out_proj(scan_branches(branches, xz, orders, scale=1 / len(branches)))
        scanned = [self._scan(direction, xz) for direction in self.branches]
        mean = scanned[0] if len(scanned) == 1 else sum(scanned[1:], scanned[0]) / len(scanned)
        return self.out_proj(mean)

    def _orders(self, length: int) -> Tensor:
        """The scan order of each branch, (branches, n)."""
        rows = torch.arange(length)
        return torch.stack(
            [
                rows if direction == "rows" else self.get_buffer(f"{direction}_order")
                for direction in self.branches
            ]
        )

    def _scan(self, direction: str, xz: Tensor) -> Tensor:
        branch = self.branches[direction]
        if direction == "rows":
            return branch(*xz.chunk(2, dim=-1))
        ordered = xz.index_select(1, self.get_buffer(f"{direction}_order"))
        y: Tensor = branch(*ordered.chunk(2, dim=-1))
        return y.index_select(1, self.get_buffer(f"{direction}_back"))


def _scan_order(direction: str, grid: tuple[int, int], class_index: int | None) -> Tensor:
    if direction.startswith("columns"):
        order = column_order(grid, class_index)
    else:
        order = torch.arange(grid[0] * grid[1] + (class_index is not None))
    return order.flip(0) if direction.endswith("reversed") else order


class SwiGlu(nn.Module):
    """w3(silu(w1 x) * w2 x), all with bias."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w1, self.w2 = (nn.Linear(dim, hidden_dim) for _ in range(2))
        self.w3 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(v, n, d) -> (v, n, d)."""
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class MambaBlock(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)), each skipped by an image at rate drop_path."""

    def __init__(self, mixer: MambaMixer, *, drop_path: float) -> None:
        super().__init__()
        dim = mixer.dim
        self.norm1, self.norm2 = (nn.LayerNorm(dim) for _ in range(2))
        self.mixer = mixer
        self.mlp = SwiGlu(dim=dim, hidden_dim=dim * 8 // 3)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        """(v, n, d) -> (v, n, d)."""
        tokens = tokens + self.drop_path(self.mixer(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))
