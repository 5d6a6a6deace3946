"""One scan direction of a Mamba mixer (Gu and Dao 2023, arXiv 2312.00752).

A_log, D, conv1d, x_proj and dt_proj are named as in its code, whose weights map one to one.
Letters: b batch, l length, e inner width, s states per channel, j branches.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.modules.low_rank import LowRankLinear, product_of_each
from radrep.ops.selective_scan import selective_scan


class MambaBranch(nn.Module):
    """Causal convolution, input-dependent step and selective scan over one order of the tokens.

    The in and out projections belong to the mixer. Steps start between dt_min and dt_max.
    """

    def __init__(
        self,
        *,
        inner_dim: int,
        state_dim: int,
        conv_width: int,
        dt_rank: int,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        self.state_dim = state_dim
        self.dt_rank = dt_rank
        self.conv1d = nn.Conv1d(
            inner_dim, inner_dim, conv_width, groups=inner_dim, padding=conv_width - 1
        )
        self.x_proj = LowRankLinear(inner_dim, dt_rank + 2 * state_dim, bias=False)
        self.dt_proj = LowRankLinear(dt_rank, inner_dim)
        # S4D-real: state n of every channel decays with rate n + 1.
        decay = torch.arange(1, state_dim + 1, dtype=torch.float32).repeat(inner_dim, 1)
        self.A_log = nn.Parameter(decay.log())  # (e, s)
        self.D = nn.Parameter(torch.ones(inner_dim))
        for parameter in (self.A_log, self.D):  # as mamba-ssm marks them for optimizers
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        self._initialise_steps(dt_min, dt_max)

    def _initialise_steps(self, dt_min: float, dt_max: float) -> None:
        """Make softplus(bias) log-uniform in [dt_min, dt_max], as Mamba does."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        low, high = math.log(dt_min), math.log(dt_max)
        steps = torch.exp(torch.rand(self.dt_proj.out_features) * (high - low) + low).clamp(1e-4)
        with torch.no_grad():
            self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus inverse

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Inputs and gates, (b, l, e), to gated outputs, (b, l, e)."""
        length = x.shape[1]
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., :length]).transpose(1, 2)  # (b, l, e)
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.state_dim, self.state_dim], dim=-1)
        y: Tensor = selective_scan(
            x,
            self.dt_proj.product(dt),  # the scan adds the bias before its softplus
            -torch.exp(self.A_log.float()),
            B,
            C,
            D=self.D.float(),
            z=z,
            dt_bias=self.dt_proj.bias.float(),
        )
        return y


def scan_branches(
    branches: Sequence[MambaBranch], xz: Tensor, orders: Tensor, *, scale: float
) -> Tensor:
    """The scaled sum of branches over orders of their own, (b, l, e), where `has_fused_kernels`.

    xz, (b, l, 2 e), has inputs and gates; step t of a branch is xz[:, orders[j, t]], and nothing is
    reordered in memory.
    """
    from radrep.ops.causal_conv import causal_conv_silu  # with Numba, so not at the top
    from radrep.ops.selective_scan.cpu import scan_directions

    wide = torch.promote_types(xz.dtype, torch.float32)
    x, z = xz.chunk(2, dim=-1)
    u = causal_conv_silu(
        x,
        [branch.conv1d.weight for branch in branches],
        [cast(Tensor, branch.conv1d.bias) for branch in branches],
        orders,
    )  # (j, b, l, e)
    first = branches[0]
    rows = product_of_each([branch.x_proj for branch in branches], u)
    dt, B, C = rows.split([first.dt_rank, first.state_dim, first.state_dim], dim=-1)
    return scan_directions(
        u,
        product_of_each([branch.dt_proj for branch in branches], dt),
        -torch.exp(torch.stack([branch.A_log for branch in branches]).to(wide)),
        B,
        C,
        torch.stack([branch.D for branch in branches]).to(wide),
        z,
        torch.stack([branch.dt_proj.bias for branch in branches]).to(wide),
        orders,
        scale=scale,
    )
