"""The vision encoder of MambaXray-VL and EMRRG, its named sizes and its low-rank adapters.

Source: ARM (arXiv 2406.07537), MambaXray-VL (arXiv 2410.00379), EMRRG (arXiv 2510.16776). On
purpose unlike the released code: the class token is at num_patches // 2 everywhere, the step
projections of all directions start alike, grids need not be square, and adapters act where the
papers put them.

Letters: v images, p pixels per side of a patch, n tokens, d width, e inner width, equal to d.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import lecun_normal_, trunc_normal_
from torch import Tensor, nn

from radrep.modules.low_rank import LowRankLinear
from radrep.modules.mamba import MambaBranch
from radrep.modules.mamba_block import DIRECTIONS, MambaBlock, MambaMixer

MIXER_TARGETS = ("X", "Z", "in_proj", "x_proj", "dt", "B", "C", "dt_proj", "out_proj")
LORA_TARGETS = (*MIXER_TARGETS, "patch_embed")


class XrayMamba(nn.Module):
    """Patches, a class token in their middle, positions, Mamba blocks and a LayerNorm.

    Args:
        image_size: Pixels of both sides, or of rows and columns.
        positions: "learned", or "fixed" sines and cosines.
        drop_path: Largest drop-path probability, that of the last block.
    """

    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD
    positions: Tensor  # (1, n, d); a parameter when learned

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        directions: Sequence[str] = DIRECTIONS,
        class_token: bool = True,
        positions: Literal["learned", "fixed"] = "learned",
        final_norm: bool = True,
        drop_path: float = 0.1,
        state_dim: int = 16,
        conv_width: int = 4,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if patch_size < 1 or any(side < 1 or side % patch_size for side in self.image_size):
            raise ValueError(
                f"image_size {self.image_size} must be whole patches of patch_size {patch_size}"
            )
        self.dim = dim
        self.patch_size = patch_size
        self.directions = tuple(directions)
        self.grid = (self.image_size[0] // patch_size, self.image_size[1] // patch_size)
        num_patches = self.grid[0] * self.grid[1]
        self.class_index = num_patches // 2 if class_token else None
        self.num_tokens = num_patches + class_token
        # As a matrix, so that an adapter can act on it; the patches do not overlap.
        self.patch_embed = LowRankLinear(3 * patch_size**2, dim)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        if positions == "learned":
            self.positions = nn.Parameter(torch.zeros(1, self.num_tokens, dim))
        else:
            table = sin_cos_positions(dim, self.grid)
            if self.class_index is not None:
                table = _insert(table, torch.zeros(1, 1, dim), self.class_index)
            self.register_buffer("positions", table)
        self.layers = nn.ModuleList(
            MambaBlock(
                MambaMixer(
                    dim=dim,
                    grid=self.grid,
                    class_index=self.class_index,
                    directions=directions,
                    state_dim=state_dim,
                    conv_width=conv_width,
                ),
                # As published: 0 twice, then evenly up.
                drop_path=drop_path * max(i - 1, 0) / max(depth - 1, 1),
            )
            for i in range(depth)
        )
        self.norm_f = nn.LayerNorm(dim) if final_norm else None
        self._initialise()

    def _initialise(self) -> None:
        lecun_normal_(self.patch_embed.weight)
        nn.init.zeros_(self.patch_embed.bias)
        if self.class_token is not None:
            trunc_normal_(self.class_token, std=0.02)
        if isinstance(self.positions, nn.Parameter):
            trunc_normal_(self.positions, std=0.02)
        for block in self.layers:
            block = cast(MambaBlock, block)
            for linear in (block.mlp.w1, block.mlp.w2, block.mlp.w3):
                nn.init.zeros_(linear.bias)
            with torch.no_grad():
                block.mixer.out_proj.weight /= math.sqrt(len(self.layers))

    def to_patches(self, images: Tensor) -> Tensor:
        """Cut images (v, 3, h, w) into patches (v, patches, 3 p p): channel, row, column."""
        if tuple(images.shape[1:]) != (3, *self.image_size):
            raise ValueError(
                f"images must be (v, 3, {self.image_size[0]}, {self.image_size[1]}), got "
                f"{tuple(images.shape)}"
            )
        (rows, columns), p = self.grid, self.patch_size
        patches = images.reshape(-1, 3, rows, p, columns, p)
        return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def embed(self, images: Tensor) -> Tensor:
        """Tokens with positions, in front of the blocks: (v, 3, h, w) -> (v, n, d)."""
        tokens = self.patch_embed(self.to_patches(images))
        if self.class_token is not None:
            assert self.class_index is not None
            class_tokens = self.class_token.expand(len(tokens), -1, -1)
            tokens = _insert(tokens, class_tokens, self.class_index)
        return tokens + self.positions

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images (v, 3, h, w) one by one: all tokens, (v, n, d)."""
        tokens = self.embed(images)
        for block in self.layers:
            tokens = block(tokens)
        return tokens if self.norm_f is None else self.norm_f(tokens)


def _insert(sequence: Tensor, token: Tensor, index: int) -> Tensor:
    return torch.cat([sequence[:, :index], token, sequence[:, index:]], dim=1)


def sin_cos_positions(dim: int, grid: tuple[int, int]) -> Tensor:
    """Fixed positions as in MAE, (1, rows * columns, d): half the width is for columns."""
    if dim % 4:
        raise ValueError(f"fixed positions need a width that is a multiple of 4, got {dim}")
    rates = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))

    def waves(places: Tensor) -> Tensor:
        angles = places.reshape(-1, 1) * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    return torch.cat([waves(columns), waves(rows)], dim=1).float().unsqueeze(0)


def resize_positions(
    positions: Tensor, *, grid: tuple[int, int], new_grid: tuple[int, int]
) -> Tensor:
    """Interpolate positions (1, n, d), but not a class token's, bicubically: (1, new n, d)."""
    num_patches, num_tokens = grid[0] * grid[1], positions.shape[1]
    if num_tokens not in (num_patches, num_patches + 1):
        raise ValueError(f"{num_tokens} positions do not fit a grid of {grid}")
    slot, middle = None, num_patches // 2
    if num_tokens > num_patches:
        slot = positions[:, middle : middle + 1]
        positions = torch.cat([positions[:, :middle], positions[:, middle + 1 :]], dim=1)
    if grid != new_grid:
        maps = positions.transpose(1, 2).unflatten(2, grid)  # (1, d, rows, columns)
        maps = F.interpolate(maps.float(), new_grid, mode="bicubic", align_corners=False)
        positions = maps.to(positions.dtype).flatten(2).transpose(1, 2)
    if slot is None:
        return positions
    return _insert(positions, slot, new_grid[0] * new_grid[1] // 2)


def average_views(tokens: Tensor, num_views: Tensor) -> Tensor:
    """Average the views of each study, token by token: (v, n, d), (b,) -> (b, n, d)."""
    return torch.stack([views.mean(dim=0) for views in tokens.split(num_views.tolist())])


def add_partial_lora(
    encoder: XrayMamba,
    target: str,
    *,
    rank: int,
    scale: float = 1.0,
    dropout: float = 0.0,
    per_direction: bool = True,
) -> list[nn.Parameter]:
    """Add a low-rank update to one of `LORA_TARGETS`; return the new parameters.

    X and Z are the halves of in_proj's rows, dt, B and C the parts of x_proj's. With per_direction
    x_proj, dt, B, C and dt_proj get an update for each direction, else one per block. Nothing is
    frozen here.
    """
    if target not in LORA_TARGETS:
        raise ValueError(f"target must be one of {', '.join(LORA_TARGETS)}, got {target!r}")
    parameters: list[nn.Parameter] = []
    for layers, rows in _adapted(encoder, target):
        for i, layer in enumerate(layers):
            if per_direction or i == 0:
                parameters += layer.add_adapter(
                    target, rank=rank, rows=rows, scale=scale, dropout=dropout
                )
            else:
                layer.borrow_adapter(target, layers[0])
    return parameters


def _adapted(encoder: XrayMamba, target: str) -> list[tuple[list[LowRankLinear], slice | None]]:
    """The layers of a target, those of one block together, and their rows."""
    if target == "patch_embed":
        return [([encoder.patch_embed], None)]
    found: list[tuple[list[LowRankLinear], slice | None]] = []
    for block in encoder.layers:
        mixer = cast(MambaBlock, block).mixer
        e, r, s = mixer.dim, mixer.dt_rank, mixer.state_dim
        branches = [cast(MambaBranch, branch) for branch in mixer.branches.values()]
        in_proj, out_proj = [mixer.in_proj], [mixer.out_proj]
        x_proj = [branch.x_proj for branch in branches]
        dt_proj = [branch.dt_proj for branch in branches]
        places: dict[str, tuple[list[LowRankLinear], slice | None]] = {
            "X": (in_proj, slice(0, e)),
            "Z": (in_proj, slice(e, 2 * e)),
            "in_proj": (in_proj, None),
            "x_proj": (x_proj, None),
            "dt": (x_proj, slice(0, r)),
            "B": (x_proj, slice(r, r + s)),
            "C": (x_proj, slice(r + s, r + 2 * s)),
            "dt_proj": (dt_proj, None),
            "out_proj": (out_proj, None),
        }
        found.append(places[target])
    return found


def merge_lora(encoder: nn.Module) -> None:
    """Fold every low-rank update of an encoder into its weights and remove it."""
    for module in encoder.modules():
        if isinstance(module, LowRankLinear):
            module.merge()


# Width and depth. Published are base, 84 M weights, and large, 296 M; tiny, 5.8 M, is for a CPU,
# and nano, 0.5 M, for phantoms.
XRAY_MAMBA_SIZES = {"nano": (96, 4), "tiny": (192, 12), "base": (768, 12), "large": (1024, 24)}


def make_xray_mamba(size: str, **options: Any) -> XrayMamba:
    """Make an untrained encoder of one of `XRAY_MAMBA_SIZES`, with further arguments."""
    if size not in XRAY_MAMBA_SIZES:
        raise ValueError(f"size must be one of {', '.join(XRAY_MAMBA_SIZES)}, got {size!r}")
    dim, depth = XRAY_MAMBA_SIZES[size]
    return XrayMamba(dim=dim, depth=depth, **options)


def make_stage_one_encoder(size: str, **options: Any) -> XrayMamba:
    """The encoder of autoregressive pretraining: one direction, no class token, no last norm."""
    stage_one: dict[str, Any] = {
        "image_size": 192,
        "directions": ("rows",),
        "class_token": False,
        "positions": "fixed",
        "final_norm": False,
        "drop_path": 0.0,
    }
    return make_xray_mamba(size, **(stage_one | options))
