"""SR-Mamba: a scan of the patches as they are, and one of the patches a stride apart.

Source: MambaMIL (Yang et al. 2024, arXiv 2403.06800) and the enhancer of CSR-LMCA (Deng et al.,
The Visual Computer, 2025). Letters: b images, n patches, c backbone width, d width, e inner width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.modules.dropout import Dropout
from radrep.modules.mamba import MambaBranch, scan_branches
from radrep.ops.scan_order import stride_rearrange, stride_restore
from radrep.ops.selective_scan import has_fused_kernels


class SrMambaMixer(nn.Module):
    """Two Mamba branches over two orders of one sequence, summed before one output projection."""

    def __init__(
        self,
        *,
        dim: int,
        state_dim: int = 16,
        conv_width: int = 4,
        expand: int = 2,
        stride: int = 10,
    ) -> None:
        super().__init__()
        inner_dim = expand * dim
        self.stride = stride
        self.in_proj = nn.Linear(dim, 2 * inner_dim, bias=False)
        self.in_order, self.strided = (
            MambaBranch(
                inner_dim=inner_dim,
                state_dim=state_dim,
                conv_width=conv_width,
                dt_rank=math.ceil(dim / 16),
            )
            for _ in range(2)
        )
        self.out_proj = nn.Linear(inner_dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix the patches of each image: (b, n, d) -> (b, n, d)."""
        xz = self.in_proj(tokens)  # (b, n, 2 e)
        length = tokens.shape[1]
        if has_fused_kernels(xz):
            padded = F.pad(xz, (0, 0, 0, -length % self.stride))
            steps = torch.arange(padded.shape[1])
            strided = stride_rearrange(steps[None, :, None], self.stride).flatten()
            orders = torch.stack([steps, strided])
            y = scan_branches([self.in_order, self.strided], padded, orders, scale=1.0)
            return self.out_proj(y[:, :length])
        in_order = self.in_order(*xz.chunk(2, dim=-1))
        rearranged = self.strided(*stride_rearrange(xz, self.stride).chunk(2, dim=-1))
        return self.out_proj(in_order + stride_restore(rearranged, self.stride, length))


class SrMambaStack(nn.Module):
    """Projection from c to d, with dropout, residual `SrMambaMixer`s and a closing LayerNorm."""

    def __init__(
        self,
        *,
        in_dim: int,
        dim: int = 512,
        num_layers: int = 2,
        dropout: float = 0.5,
        **mixer: int,
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(), Dropout(dropout))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_layers))
        self.mixers = nn.ModuleList(SrMambaMixer(dim=dim, **mixer) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, patches: Tensor) -> Tensor:
        """Turn backbone patches (b, n, c) into mixed patches (b, n, d)."""
        tokens = self.project(patches)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            tokens = tokens + mixer(norm(tokens))
        return self.norm(tokens)


class PooledEnhancer(nn.Module):
    """The enhancer of the released CSR-LMCA code: one vector per image, mixed in by 0.001.

    It turns in_dim = c wide patches into patches of the same width; the stack gives dim = d.
    """

    def __init__(
        self,
        stack: SrMambaStack,
        *,
        in_dim: int,
        dim: int,
        pool_dim: int = 128,
        pooled_weight: float = 0.001,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.stack = stack
        self.attention = nn.Sequential(nn.Linear(dim, pool_dim), nn.Tanh(), nn.Linear(pool_dim, 1))
        self.expand = nn.Linear(dim, in_dim)
        self.pooled_weight = pooled_weight
        self.dropout = Dropout(dropout)

    def pool(self, patches: Tensor) -> Tensor:
        """One vector per image by softmax attention over its patches: (b, n, c) -> (b, c)."""
        tokens = self.stack(patches)
        weights = self.attention(tokens).softmax(dim=1)  # (b, n, 1)
        return self.expand((weights * tokens).sum(dim=1))

    def forward(self, patches: Tensor) -> Tensor:
        """Mix the pooled vector into every patch: (b, n, c) -> (b, n, c)."""
        pooled = self.pool(patches).unsqueeze(1)  # (b, 1, c)
        return self.dropout(patches + self.pooled_weight * (pooled - patches)).relu()


class TokenEnhancer(nn.Module):
    """The enhancer of the paper's figure: every patch keeps a vector of its own.

    It has one learned gate, or with `channel_gate` one per channel.
    """

    def __init__(
        self, stack: SrMambaStack, *, in_dim: int, dim: int, channel_gate: bool = False
    ) -> None:
        super().__init__()
        self.stack = stack
        self.expand = nn.Linear(dim, in_dim)
        # Small, not zero: at zero the stack would get no gradient in the first step.
        self.gate = nn.Parameter(torch.full((in_dim if channel_gate else 1,), 0.1))

    def forward(self, patches: Tensor) -> Tensor:
        """Add the gated SR-Mamba result to every patch: (b, n, c) -> (b, n, c)."""
        return patches + self.gate * self.expand(self.stack(patches))
