"""LMCA region encoder: attention inside regions, then across them.

Source: RRT-MIL (Tang et al. 2024, arXiv 2402.17228) and CSR-LMCA (Deng et al., The Visual
Computer, 2025). On purpose unlike the released code: regions never attend to other studies'.

Letters: b studies, n patches, d width, r regions a side, R regions of a study, P tokens of a
region, h heads, k summary slots.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.modules.dropout import Dropout


@dataclass(frozen=True)
class RegionLayout:
    """Which patch stands where in the regions."""

    index: Tensor  # patch of each place, (R, P); n where the place is padding
    home: Tensor  # place of each patch among all R * P places, (n,)
    masked: bool  # whether padding is excluded from attention and summaries

    @property
    def region(self) -> Tensor:
        """Region of each patch, (n,)."""
        return torch.div(self.home, self.index.shape[1], rounding_mode="floor")

    @property
    def real(self) -> Tensor:
        """Places that hold a patch, (R, P)."""
        return self.index < self.home.shape[0]


@functools.lru_cache(maxsize=64)  # a forward pass neither builds nor copies it
def region_layout(
    *, num_views: int, grid: tuple[int, int], regions: int, joined: bool, device: torch.device
) -> RegionLayout:
    """Lay the patches of a study out in regions.

    Joined, all patches of all views form one square of side ceil(sqrt(n)), rounded up to a
    multiple of ``regions``, and its padding takes part, as in the released code; R is r * r.
    Otherwise each view keeps its own grid, rounded up likewise, and padding is masked; R is
    num_views * r * r.
    """
    rows, columns = grid
    num_patches = num_views * rows * columns
    if joined:
        rows = columns = math.ceil(math.sqrt(num_patches))
        num_views = 1
    height, width = (side + (-side % regions) for side in (rows, columns))
    square = torch.full((num_views, height, width), num_patches)
    if joined:
        # Patches fill the padded square row by row, not only its real corner.
        square.view(-1)[:num_patches] = torch.arange(num_patches)
    else:
        square[:, :rows, :columns] = torch.arange(num_patches).view(num_views, rows, columns)
    index = (
        square.view(num_views, regions, height // regions, regions, width // regions)
        .transpose(2, 3)  # (v, r, r, H / r, W / r)
        .reshape(num_views * regions * regions, -1)
    )
    home = torch.empty(num_patches + 1, dtype=torch.long)
    home[index.flatten()] = torch.arange(index.numel())
    home = home[:num_patches]
    return RegionLayout(index=index.to(device), home=home.to(device), masked=not joined)


def _scatter_to_regions(tokens: Tensor, layout: RegionLayout) -> Tensor:
    """Put tokens (b, n, c) and one last padding token into regions: (b, R, P, c)."""
    return tokens.index_select(1, layout.index.flatten()).unflatten(1, layout.index.shape)


class RegionSelfAttention(nn.Module):
    """R-MSA: multi-head attention inside each region.

    Its EPEG adds to the scores their own depthwise convolution over the queries, of odd width.
    """

    def __init__(self, *, dim: int, num_heads: int, epeg_kernel: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.epeg = nn.Conv2d(
            num_heads, num_heads, (epeg_kernel, 1), padding=(epeg_kernel // 2, 0), groups=num_heads
        )
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, layout: RegionLayout) -> Tensor:
        """Attend inside the regions: (b, n, d) -> (b, n, d)."""
        b, _, d = tokens.shape
        # Padding is a zero token, so its projection is the bias alone: computed once.
        qkv = self.qkv(F.pad(tokens, (0, 0, 0, 1)))  # (b, n + 1, 3 d)
        in_regions = _scatter_to_regions(qkv, layout).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = in_regions.flatten(0, 1).permute(2, 0, 3, 1, 4)  # (b R, h, P, d / h)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)  # (b R, h, P, P)
        if layout.masked:
            real = layout.real.repeat(b, 1)  # (b R, P)
            scores = scores * (real[:, None, :, None] & real[:, None, None, :])
        scores = scores + self.epeg(scores)
        if layout.masked:
            scores = scores.masked_fill(~real[:, None, None, :], _lowest(scores))
        attended = scores.softmax(dim=-1) @ value  # (b R, h, P, d / h)
        attended = attended.transpose(1, 2).reshape(b, -1, d)  # (b, R P, d)
        return self.dropout(self.out(attended.index_select(1, layout.home)))


class CrossRegionAttention(nn.Module):
    """CR-MSA: the k summaries of each region attend to those of the study's other regions."""

    def __init__(self, *, dim: int, num_heads: int, num_slots: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.phi = nn.Parameter(torch.empty(dim, num_slots))
        nn.init.kaiming_uniform_(self.phi, a=math.sqrt(5))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, layout: RegionLayout) -> Tensor:
        """Mix the regions of each study: (b, n, d) -> (b, n, d)."""
        padded = F.pad(tokens, (0, 0, 0, 1))  # (b, n + 1, d)
        scores = _scatter_to_regions((padded @ self.phi).float(), layout)  # (b, R, P, k)
        hidden = ~layout.real.unsqueeze(-1) if layout.masked else None  # (R, P, 1)
        gather = scores if hidden is None else scores.masked_fill(hidden, _lowest(scores))
        in_regions = _scatter_to_regions(padded, layout)  # (b, R, P, d)
        weights = gather.softmax(dim=2).to(tokens.dtype)
        summaries = weights.transpose(2, 3) @ in_regions  # (b, R, k, d)
        summaries = self._attend(summaries, layout)
        low = scores if hidden is None else scores.masked_fill(hidden, float("inf"))
        high = scores if hidden is None else scores.masked_fill(hidden, float("-inf"))
        lowest, highest = low.amin(2, keepdim=True), high.amax(2, keepdim=True)  # (b, R, 1, k)
        if hidden is not None:  # a region of padding alone has no patch to spread to
            empty = hidden.all(dim=1, keepdim=True)  # (R, 1, 1)
            lowest, highest = (x.masked_fill(empty, 0.0) for x in (lowest, highest))
        spread = scores.softmax(dim=-1) * (scores - lowest) / (highest - lowest + 1e-8)
        at_patch = spread.flatten(1, 2).index_select(1, layout.home).to(tokens.dtype)  # (b, n, k)
        of_region = summaries.flatten(2).index_select(1, layout.region)  # (b, n, k d)
        return (at_patch.unsqueeze(2) @ of_region.view(*at_patch.shape, -1)).squeeze(2)

    def _attend(self, summaries: Tensor, layout: RegionLayout) -> Tensor:
        """Over the R regions, each slot by itself: (b, R, k, d) -> (b, R, k, d)."""
        b = summaries.shape[0]
        qkv = self.qkv(summaries).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(3, 0, 2, 4, 1, 5)  # 3 of (b, k, h, R, d / h)
        mask = None
        if layout.masked:
            mask = layout.real.any(dim=1)[None, None, None, None, :]  # regions with a patch
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = attended.permute(0, 3, 1, 2, 4).reshape(b, *summaries.shape[1:])
        return self.dropout(self.out(attended))


class RegionEncoder(nn.Module):
    """LMCA: x + R-MSA(LayerNorm(x)), then x + CR-MSA(LayerNorm(x)), then LayerNorm.

    R-MSA runs once for each number of `regions_per_side`, with shared weights, and is averaged;
    CR-MSA takes the first. For `joined` see `region_layout`.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int = 8,
        regions_per_side: Sequence[int] = (2,),
        joined: bool = False,
        num_slots: int = 3,
        epeg_kernel: int = 15,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim ({dim}) must be divisible by num_heads ({num_heads})")
        if not regions_per_side:
            raise ValueError("regions_per_side must name at least one number of regions")
        self.regions_per_side = tuple(regions_per_side)
        self.joined = joined
        self.norm_within = nn.LayerNorm(dim)
        self.within = RegionSelfAttention(
            dim=dim, num_heads=num_heads, epeg_kernel=epeg_kernel, dropout=dropout
        )
        self.norm_across = nn.LayerNorm(dim)
        self.across = CrossRegionAttention(
            dim=dim, num_heads=num_heads, num_slots=num_slots, dropout=dropout
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, patches: Tensor, *, num_views: int, grid: tuple[int, int]) -> Tensor:
        """Encode studies of equal view counts, n = views * rows * columns: (b, n, d) to same."""
        layouts = [
            region_layout(
                num_views=num_views,
                grid=grid,
                regions=regions,
                joined=self.joined,
                device=patches.device,
            )
            for regions in self.regions_per_side
        ]
        normed = self.norm_within(patches)
        within = [self.within(normed, layout) for layout in layouts]
        patches = patches + torch.stack(within).mean(dim=0)
        patches = patches + self.across(self.norm_across(patches), layouts[0])
        return self.norm(patches)


def _lowest(x: Tensor) -> float:
    """Unlike -inf it leaves no NaN in an empty region."""
    return torch.finfo(x.dtype).min
