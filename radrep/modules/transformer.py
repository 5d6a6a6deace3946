"""Pre-norm transformer of the R2Gen family (Chen et al. 2020, arXiv 2010.16056).

Letters: b studies, k beams per study, n patches, l report tokens, d width, h heads.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.modules.dropout import Dropout
from radrep.ops.dropout import dropout


class StdLayerNorm(nn.Module):
    """LayerNorm that divides by the unbiased standard deviation, as published.

    The 1e-6 that is published beside it is left out, so that the library's fused kernel serves,
    with the constant factor to the biased one in the weight. Where the deviation of a row is 0.1 or
    more, outputs differ by at most 1e-5 of their size.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self._unbiased = math.sqrt((dim - 1) / dim)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return F.layer_norm(x, x.shape[-1:], self.weight * self._unbiased, self.bias, eps=1e-12)


class SinusoidalPositions(nn.Module):
    """Adds fixed sine and cosine positions (Vaswani et al. 2017), then drops out; d is even."""

    def __init__(self, dim: int, dropout: float, max_length: int = 5000) -> None:
        super().__init__()
        positions = torch.arange(max_length).unsqueeze(1)
        rates = torch.exp(torch.arange(0, dim, 2) * -(math.log(10000.0) / dim))
        table = torch.empty(max_length, dim)
        table[:, 0::2] = torch.sin(positions * rates)
        table[:, 1::2] = torch.cos(positions * rates)
        self.table: Tensor
        self.register_buffer("table", table, persistent=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Add positions start, start + 1, ... to x, (b, l, d)."""
        return self.dropout(x + self.table[start : start + x.shape[1]])


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with separate projections and dropout of its weights."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim ({dim}) must be divisible by num_heads ({num_heads})")
        self.num_heads = num_heads
        self.dropout = dropout
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Project what is attended to: (b, n, d) -> two of (b, h, n, d / h)."""
        return self._heads(self.key(memory)), self._heads(self.value(memory))

    def forward(
        self, x: Tensor, keys_and_values: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        """Attend from x, (b, l, d), to projected keys; True in mask (b, 1, l or 1, n) is seen."""
        key, value = keys_and_values
        query = self._heads(self.query(x))
        p = self.dropout if self.training else 0.0
        # On CPUs the fused one is slow in its dropout, its backward pass and in half precision.
        slow = p or query.requires_grad or query.dtype != torch.float32
        if slow and x.device.type == "cpu":
            weights = _weights(query, key, mask)
            attended = (dropout(weights, p) if p else weights) @ value
        else:
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=p
            )
        return self.out(attended.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Attention weights averaged over heads, (b, l, n)."""
        return _weights(self._heads(self.query(x)), key, mask).mean(dim=1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """(b, h, l, n)."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1)


class FeedForward(nn.Sequential):
    """Linear, ReLU, dropout, Linear."""

    def __init__(self, *, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(dim, hidden_dim), nn.ReLU(), Dropout(dropout), nn.Linear(hidden_dim, dim)
        )


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), each with dropout."""

    def __init__(self, *, dim: int, num_heads: int, ff_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_norm, self.ff_norm = (StdLayerNorm(dim) for _ in range(2))
        self.self_attention = MultiHeadAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.feed_forward = FeedForward(dim=dim, hidden_dim=ff_dim, dropout=dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(b, n, d) -> (b, n, d)."""
        normed = self.self_norm(x)
        attended = self.self_attention(normed, self.self_attention.keys_and_values(normed), mask)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.ff_norm(x)))


class _Stack(nn.Module):
    """Layers of one kind, which take `dim` and the further sizes, and a closing norm."""

    layer: type[nn.Module]

    def __init__(self, *, num_layers: int, dim: int, **sizes: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.layer(dim=dim, **sizes) for _ in range(num_layers))
        self.norm = StdLayerNorm(dim)


class Encoder(_Stack):
    """A stack of encoder layers and a closing norm."""

    layer = EncoderLayer

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(b, n, d) -> (b, n, d); mask (b, 1, 1, n) is True where a patch is real."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


@dataclass
class DecoderCache:
    """What the decoder keeps between steps: keys and values, one pair per layer."""

    cross: list[tuple[Tensor, Tensor]]  # of the patches, shared by beams, (b, h, n, d / h)
    own: list[tuple[Tensor, Tensor]]  # of the words so far, (b k, h, l, d / h)
    patch_mask: Tensor | None = None  # real patches, (b, 1, 1, n); None when all are
    num_beams: int = 1
    # Of the r rows that there are, among b k, where studies have unequally many: (r,).
    places: Tensor | None = None

    @property
    def length(self) -> int:
        """Words so far."""
        return self.own[0][0].shape[2] if self.own else 0

    def select(self, rows: Tensor) -> Self:
        """Keep the given rows, (studies kept, beams): each line holds rows of one old study."""
        assert self.places is None, "studies have equally many rows"
        if self.own and rows.shape == (self.own[0][0].shape[0], 1):
            return self  # one report per study, none has ended: rows are in order already
        studies = torch.div(rows[:, 0], self.num_beams, rounding_mode="floor")
        cross, mask = self.cross, self.patch_mask
        if rows.shape[1] != self.num_beams or studies.shape[0] != cross[0][0].shape[0]:
            # Studies only ever drop out, in order, or become one of their own for each beam.
            cross = [(key[studies], value[studies]) for key, value in cross]
            mask = None if mask is None else mask[studies]
        flat = rows.flatten()
        own = [(key[flat], value[flat]) for key, value in self.own]
        return replace(self, cross=cross, own=own, patch_mask=mask, num_beams=rows.shape[1])

    def keep(self, rows: Tensor) -> Self:
        """Keep some rows, (r,), in their order: of each study as many as there are."""
        places = rows if self.places is None else self.places[rows]
        studies, line = (places // self.num_beams).unique(return_inverse=True)
        first = torch.searchsorted(line, torch.arange(len(studies), device=rows.device))
        number = torch.arange(len(rows), device=rows.device) - first[line]  # among its study's
        num_beams = int(number.max()) + 1
        cross, mask = self.cross, self.patch_mask
        if len(studies) < len(cross[0][0]):
            cross = [(key[studies], value[studies]) for key, value in cross]
            mask = None if mask is None else mask[studies]
        own = [(key[rows], value[rows]) for key, value in self.own]
        places = line * num_beams + number
        return replace(
            self, cross=cross, own=own, patch_mask=mask, num_beams=num_beams, places=places
        )

    def by_study(self, x: Tensor) -> Tensor:
        """Rows (r, l, d) as the words of each study, (b, k l, d): 0 where it has fewer than k."""
        studies = self.cross[0][0].shape[0]
        if self.places is not None:
            lines = x.new_zeros(studies * self.num_beams, *x.shape[1:])
            x = lines.index_copy(0, self.places, x)
        return x.reshape(studies, -1, x.shape[-1])

    def by_row(self, x: Tensor, length: int) -> Tensor:
        """The way back: (b, k l, d) to (r, l, d)."""
        lines = x.view(-1, length, x.shape[-1])
        return lines if self.places is None else lines[self.places]


class DecoderLayer(nn.Module):
    """Attention to earlier words, to the patches, then feed-forward, each x + f(norm(x))."""

    def __init__(self, *, dim: int, num_heads: int, ff_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_norm, self.cross_norm, self.ff_norm = (StdLayerNorm(dim) for _ in range(3))
        self.self_attention = MultiHeadAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.cross_attention = MultiHeadAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.feed_forward = FeedForward(dim=dim, hidden_dim=ff_dim, dropout=dropout)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        cache: DecoderCache,
        number: int,
        word_mask: Tensor | None,
        attentions: list[Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Decode words x, (b k, l, d), as layer `number`, after those of its cache.

        Returns also the keys and values of all words.
        """
        normed = self.self_norm(x)
        key, value = self.self_attention.keys_and_values(normed)
        if cache.own:
            earlier = cache.own[number]
            key, value = torch.cat([earlier[0], key], dim=2), torch.cat([earlier[1], value], dim=2)
        x = x + self.dropout(self.self_attention(normed, (key, value), word_mask))
        # The beams of a study attend as so many words to one copy of its patches.
        by_study, cross = cache.by_study(self.cross_norm(x)), cache.cross[number]
        attended = self.cross_attention(by_study, cross, cache.patch_mask)
        if attentions is not None:
            attentions.append(self.cross_attention.weights(by_study, cross[0], cache.patch_mask))
        x = x + self.dropout(cache.by_row(attended, x.shape[1]))
        return x + self.dropout(self.feed_forward(self.ff_norm(x))), (key, value)


class Decoder(_Stack):
    """A stack of decoder layers and a closing norm."""

    layer = DecoderLayer

    def keys_and_values(self, patches: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Project the encoded patches (b, n, d) for every layer: `DecoderCache.cross`."""
        layers = cast(Iterable[DecoderLayer], self.layers)
        return [layer.cross_attention.keys_and_values(patches) for layer in layers]

    def forward(
        self,
        x: Tensor,
        cache: DecoderCache,
        word_mask: Tensor | None,
        attentions: list[Tensor] | None = None,
    ) -> tuple[Tensor, DecoderCache]:
        """Decode embedded words x, (b k, l, d), after those in the cache, which it returns longer.

        The mask is True where a word attends to a word, (b k, 1, l, words so far + l); attentions
        gets each layer's attention to the patches, (b, k l, n).
        """
        own: list[tuple[Tensor, Tensor]] = []
        for number, layer in enumerate(self.layers):
            x, keys_and_values = layer(x, cache, number, word_mask, attentions)
            own.append(keys_and_values)
        return self.norm(x), replace(cache, own=own)
