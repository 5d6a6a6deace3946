"""Stage 1 of MambaXray-VL: autoregressive pretraining on images, and how stage 2 starts from it.

Source: ARM (arXiv 2406.07537), MambaXray-VL (arXiv 2410.00379).

Letters: v images, p pixels of a patch, one side, n tokens, d width, q queries, h heads, m patches
of a cluster.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.errors import CheckpointError
from radrep.models.base import VisionModel
from radrep.models.xray_mamba import DIRECTIONS, XrayMamba, resize_positions, sin_cos_positions
from radrep.ops.scan_order import cluster_order


def default_taps(depth: int) -> tuple[int, ...]:
    """Four blocks evenly over the later half, the last one included; fewer if depth is below 4."""
    step = max(depth / 6, 1)
    return tuple(tap for tap in (depth - round(i * step) for i in (3, 2, 1, 0)) if tap > 0)


_NOT_IN_STAGE_ONE = ("class_token", "norm_f.weight", "norm_f.bias")


class CrossAttention(nn.Module):
    """Attention from queries to tokens of the same width."""

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim ({dim}) must be divisible by num_heads ({num_heads})")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Attend from (v, q, d) to (v, n, d) where the mask, (q, n), is True: (v, q, d)."""
        query = self._heads(self.query(queries))
        key, value = (self._heads(x) for x in self.key_value(tokens).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (v, h, q or n, d / h)


class ClusterDecoderBlock(nn.Module):
    """Cross-attention and MLP, each with a norm in front and around it the residual."""

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        self.query_norm, self.token_norm, self.mlp_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.attention = CrossAttention(dim=dim, num_heads=num_heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """See `CrossAttention`; (v, q, d) -> (v, q, d)."""
        queries = queries + self.attention(self.query_norm(queries), self.token_norm(tokens), mask)
        return queries + self.mlp(self.mlp_norm(queries))


class AutoregressivePretraining(VisionModel):
    """Predict the pixels of each square cluster of patches from the clusters before it.

    Args:
        encoder: As `make_stage_one_encoder` makes it.
        cluster_size: Patches per side of a cluster.
        num_heads: Of the decoder; by default one for 64 of its width.
        taps: Numbers of the blocks, from 1, whose outputs the decoder reads, one decoder block
            each; by default `default_taps`.
    """

    def __init__(
        self,
        *,
        encoder: XrayMamba,
        cluster_size: int = 4,
        decoder_dim: int = 512,
        num_heads: int | None = None,
        taps: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        depth = len(encoder.layers)
        self.taps = default_taps(depth) if taps is None else tuple(taps)
        _refuse_other_encoders(encoder)
        if sorted({*self.taps} & {*range(1, depth + 1)}) != list(self.taps) or (
            self.taps[-1:] != (depth,)
        ):
            raise ValueError(
                f"taps must be different blocks of 1 to {depth} that rise and end with {depth}, "
                f"got {self.taps}"
            )
        order = cluster_order(encoder.grid, cluster_size)
        per_cluster = cluster_size**2
        self.num_queries = len(order) - per_cluster
        if self.num_queries < 1:
            raise ValueError(
                f"an image of {encoder.grid} patches has no second cluster of "
                f"{cluster_size} x {cluster_size}"
            )
        self.encoder = encoder
        self.tap_norms = nn.ModuleList(nn.LayerNorm(encoder.dim) for _ in self.taps)
        self.to_decoder = nn.Linear(len(self.taps) * encoder.dim, len(self.taps) * decoder_dim)
        self.query = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        heads = decoder_dim // 64 if num_heads is None else num_heads
        self.decoder = nn.ModuleList(
            ClusterDecoderBlock(dim=decoder_dim, num_heads=heads) for _ in self.taps
        )
        self.norm = nn.LayerNorm(decoder_dim)
        self.to_pixels = nn.Linear(decoder_dim, 3 * encoder.patch_size**2)
        self.order: Tensor
        self.query_positions: Tensor
        self.mask: Tensor
        positions = sin_cos_positions(decoder_dim, encoder.grid)[:, order[per_cluster:]]
        clusters = torch.arange(self.num_queries) // per_cluster
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("query_positions", positions, persistent=False)
        # The query for cluster i + 1 sees the clusters up to i.
        self.register_buffer("mask", clusters[:, None] >= clusters, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Start the decoder as MAE does."""
        trunc_normal_(self.query, std=0.02)
        for part in (self.to_decoder, self.decoder, self.to_pixels):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)

    def num_loss_terms(self, batch: Batch) -> int:
        """Images."""
        return int(batch.num_views.sum())

    def predict(self, images: Tensor) -> Tensor:
        """Predict every cluster but the first from those before it: (v, 3, h, w) -> (v, q, 3 p p).

        Patches come cluster by cluster, their standardised pixels by row, column and channel.
        """
        # The last cluster is nobody's past.
        tokens = self.encoder.embed(images).index_select(1, self.order[: self.num_queries])
        taps: list[Tensor] = []
        for number, block in enumerate(self.encoder.layers, start=1):
            tokens = block(tokens)
            if number in self.taps:
                taps.append(self.tap_norms[len(taps)](tokens))
        seen = self.to_decoder(torch.cat(taps, dim=-1))
        # As published: neighbouring channels belong to different decoder blocks.
        levels = seen.unflatten(-1, (-1, len(taps))).unbind(-1)  # one (v, q, d) a block
        queries = (self.query + self.query_positions).expand(len(images), -1, -1)
        for block, level in zip(self.decoder, levels, strict=True):
            queries = block(queries, level, self.mask)
        return self.to_pixels(self.norm(queries))

    def targets(self, images: Tensor) -> Tensor:
        """What `predict` should give: pixels of mean 0 and variance 1 per patch, (v, q, 3 p p)."""
        patches = self.encoder.to_patches(images).float()
        patches = patches.index_select(1, self.order[-self.num_queries :])
        patches = patches.unflatten(-1, (3, -1)).transpose(-2, -1).flatten(-2)  # channel last
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error over all predicted pixels, as "loss"."""
        assert batch.images is not None, "a batch to learn from has images"
        prediction = self.predict(batch.images)
        return {"loss": F.mse_loss(prediction.float(), self.targets(batch.images))}


def _refuse_other_encoders(encoder: XrayMamba) -> None:
    found = {
        f"the directions {', '.join(encoder.directions)}": encoder.directions != ("rows",),
        "a class token": encoder.class_index is not None,
        "a final norm": encoder.norm_f is not None,
    }
    if problems := [text for text, wrong in found.items() if wrong]:
        raise ValueError(
            "autoregressive pretraining takes an encoder with the direction 'rows' alone, without "
            f"class token and final norm; this one has {', '.join(problems)}"
        )


def expand_directions(
    state: Mapping[str, Tensor], *, grid: tuple[int, int], new_grid: tuple[int, int]
) -> dict[str, Tensor]:
    """State of a stage 1 encoder as the start of one with four directions and a class token.

    Every direction begins as a copy, positions are interpolated, and the class token's is zero.
    The class token itself and the final norm are not in the result.
    """
    expanded: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "positions":
            resized = resize_positions(tensor, grid=grid, new_grid=new_grid)
            middle = resized.shape[1] // 2
            slot = resized.new_zeros(1, 1, resized.shape[2])
            expanded[name] = torch.cat([resized[:, :middle], slot, resized[:, middle:]], dim=1)
        elif ".branches.rows." in name:
            for direction in DIRECTIONS:
                expanded[name.replace(".rows.", f".{direction}.")] = tensor.clone()
        else:
            expanded[name] = tensor
    return expanded


def start_from_stage_one(
    encoder: XrayMamba, state: Mapping[str, Tensor], *, grid: tuple[int, int]
) -> None:
    """Load the encoder of a whole `AutoregressivePretraining` with `expand_directions`.

    Raises:
        CheckpointError: If the weights do not fit.
    """
    part = "encoder."
    own = {name[len(part) :]: x for name, x in state.items() if name.startswith(part)}
    try:
        expanded = expand_directions(own, grid=grid, new_grid=encoder.grid)
        fresh = encoder.state_dict()
        for name in fresh.keys() - expanded.keys():
            if name in _NOT_IN_STAGE_ONE or ".adapters." in name:
                expanded[name] = fresh[name]
        encoder.load_state_dict(expanded)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"the weights of stage 1 do not fit: {error}") from error
