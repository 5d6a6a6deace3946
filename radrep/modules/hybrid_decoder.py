"""Hybrid decoder layers: layers of a language model that also look at visual tokens.

Source: Shi et al., "Slow-Fast Architecture for Video Multi-Modal Large Language Models", arXiv
2504.01328, which EMRRG (arXiv 2510.16776) takes over. On purpose unlike the released code: whether
a study has an image is told once and not by the tokens of the current step, which would switch the
cross-attention off in cached decoding; all keys lie before all values.

Letters: b studies, k beams a study, n positions of the current call, p positions whose kind was
told, m visual tokens, d width of the language model, h heads, e width of a head.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from radrep.errors import CheckpointError


@dataclass
class _Seen:
    """What the layers see until the next reset; all but num_beams by study."""

    tokens: Tensor
    mask: Tensor
    text: Tensor
    num_beams: int = 1
    keys_and_values: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def has_image(self) -> Tensor:
        """(b,)."""
        return self.mask.any(dim=1)


class VisualContext:
    """Holds what hybrid layers look at, outside the sequence; one for all layers of a model.

    Beams of a study see the same, so it holds one copy a study, and nothing is reordered when
    beams are.
    """

    def __init__(self) -> None:
        self._seen: _Seen | None = None

    def set(self, tokens: Tensor, mask: Tensor, text: Tensor) -> None:
        """Show visual tokens to the calls that follow, the first of which starts the sequence.

        Args:
            tokens: Visual tokens, (b, m, d).
            mask: True where one is real, (b, m); a study without any has no image.
            text: True where the sequence has text, (b, p); all positions behind p are text.

        Raises:
            ValueError: If the shapes do not fit one another.
        """
        if mask.shape != tokens.shape[:2] or len(text) != len(tokens):
            raise ValueError(
                f"mask {tuple(mask.shape)} and text {tuple(text.shape)} do not fit "
                f"tokens {tuple(tokens.shape)}"
            )
        self._seen = _Seen(tokens, mask, text)

    def expand(self, num_beams: int) -> None:
        """Take each study to be followed by num_beams rows, side by side."""
        assert self._seen is not None, "visual tokens are set before they are expanded"
        self._seen.num_beams = num_beams

    def reset(self) -> None:
        """Show nothing any more: the layers are what they were without visual tokens."""
        self._seen = None

    @property
    def seen(self) -> _Seen | None:
        """What there is to see now."""
        return self._seen


class VisualCrossAttention(nn.Module):
    """The added part of a hybrid layer: keys and values of visual tokens, and a gate.

    Weights are float32, whatever those of the language model are.

    Args:
        attention: Self-attention of the layer, whose key and value projections these start from.
        layer_index: Number of the layer.
        context: What there is to see.

    Attributes:
        keys_values: Linear from width d to all keys and then all values.
        gate: Linear from the self-attention output to one number a position.
        warm_up: The alpha of the gate, at first 0.
    """

    def __init__(self, attention: nn.Module, *, layer_index: int, context: VisualContext) -> None:
        super().__init__()
        key, value, query, config = (
            attention.get_submodule("k_proj"),
            attention.get_submodule("v_proj"),
            attention.get_submodule("q_proj"),
            attention.config,
        )
        assert isinstance(key, nn.Linear)
        assert isinstance(value, nn.Linear)
        assert isinstance(query, nn.Linear)
        self._head_dim = int(attention.head_dim)  # type: ignore[arg-type]
        self._dropout = float(config.attention_dropout)  # type: ignore[union-attr, arg-type]
        self._layer_index = layer_index
        self._context = context
        place: dict[str, Any] = {"device": key.weight.device, "dtype": torch.float32}
        self.keys_values = nn.Linear(key.in_features, 2 * key.out_features, **place)
        self.gate = nn.Linear(query.out_features, 1, **place)
        self.warm_up = nn.Parameter(torch.zeros(1, **place))
        with torch.no_grad():
            self.keys_values.weight.copy_(torch.cat([key.weight, value.weight]))
            if key.bias is None:
                self.keys_values.bias.zero_()
            else:
                self.keys_values.bias.copy_(torch.cat([key.bias, value.bias]))

    def forward(self, attended: Tensor, query: Tensor, norm: nn.Module, start: int) -> Tensor:
        """Add what the text positions see to the output of the self-attention.

        Args:
            attended: Output of the self-attention before its projection, (b k, n, h e).
            query: Its queries, rotated, (b k, h, n, e).
            norm: The norm in front of the layer.
            start: Position of the first of the n.

        Returns:
            (b k, n, h e).

        Raises:
            ValueError: If the rows are not those of the studies, times the beams.
        """
        seen = self._context.seen
        if seen is None:
            return attended
        rows, num_heads, count, _ = query.shape
        studies = len(seen.tokens)
        if rows != studies * seen.num_beams:
            raise ValueError(
                f"{rows} rows are not {studies} studies with {seen.num_beams} beams each"
            )
        key, value = self._keys_and_values(seen, norm)  # (b, key heads, m, e)
        groups = num_heads // key.shape[1]
        # Without a causal order, the beams of a study are as good as more positions of one row.
        query = query.unflatten(0, (studies, -1)).transpose(1, 2).flatten(2, 3)  # (b, h, k n, e)
        looked = F.scaled_dot_product_attention(
            query,
            key.repeat_interleave(groups, dim=1).to(query.dtype),
            value.repeat_interleave(groups, dim=1).to(query.dtype),
            # All keys are open where there is no image: what comes out is not used, yet is finite.
            attn_mask=(seen.mask | ~seen.has_image[:, None])[:, None, None],
            dropout_p=self._dropout if self.training else 0.0,
        )
        looked = looked.unflatten(2, (seen.num_beams, count)).permute(0, 2, 3, 1, 4)
        looked = looked.reshape(attended.shape)
        gate = torch.tanh(self.gate(attended.to(self.gate.weight.dtype)))  # (b k, n, 1)
        gate = gate * torch.tanh(self.warm_up)
        open_to = (_text(seen, start, count) & seen.has_image[:, None])[..., None]
        open_to = open_to.repeat_interleave(seen.num_beams, dim=0)  # (b k, n, 1)
        added = gate * looked.to(gate.dtype)
        return attended + torch.where(open_to, added, 0.0).to(attended.dtype)

    def _keys_and_values(self, seen: _Seen, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """Keys and values of the visual tokens; kept while decoding, where they do not change."""
        kept = seen.keys_and_values.get(self._layer_index)
        if kept is not None and not torch.is_grad_enabled():
            return kept
        both = self.keys_values(norm(seen.tokens).to(self.keys_values.weight.dtype))
        both = both.unflatten(-1, (2, -1, self._head_dim))  # (b, m, 2, key heads, e)
        key, value = both.transpose(1, 3).unbind(2)
        if not torch.is_grad_enabled():
            seen.keys_and_values[self._layer_index] = (key, value)
        return key, value


def _text(seen: _Seen, start: int, count: int) -> Tensor:
    """Which of the positions from start on are text, (b, count)."""
    told = seen.text[:, start : start + count]
    return F.pad(told, (0, count - told.shape[1]), value=True)


class HybridDecoderLayer(nn.Module):
    """A decoder layer of Llama or Qwen2 with a gated look at the visual tokens.

    The weights of the layer keep their names; those that come new are under `cross`. With its
    warm-up at 0, as at first, the layer does what it did before.

    Args:
        layer: The layer to take over.
        layer_index: Its number.
        context: What there is to see.
    """

    def __init__(
        self,
        layer: LlamaDecoderLayer | Qwen2DecoderLayer,
        *,
        layer_index: int,
        context: VisualContext,
    ) -> None:
        super().__init__()
        self.self_attn: Any = layer.self_attn
        self.mlp = layer.mlp
        self.input_layernorm = layer.input_layernorm
        self.post_attention_layernorm = layer.post_attention_layernorm
        self.cross = VisualCrossAttention(layer.self_attn, layer_index=layer_index, context=context)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """As the layer taken over: (b k, n, d) to the same.

        Raises:
            CheckpointError: If a cache is in use and does not come under the name known here.
        """
        if use_cache and cache is None:
            # Without its cache a layer would decode each token as if it were the first.
            raise CheckpointError(
                "transformers hands its cache to layers in a way that hybrid layers do not know "
                f"(got {', '.join(kwargs) or 'nothing'}); install transformers 5.24"
            )
        assert position_embeddings is not None
        attention = self.self_attn
        index = attention.layer_idx
        start = 0 if cache is None else cache.get_seq_length(index)
        normed = self.input_layernorm(hidden_states)
        query, key, value = (
            project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if cache is not None:
            key, value = cache.update(key, value, index)
        if hasattr(attention, "sliding_window"):
            kwargs["sliding_window"] = attention.sliding_window
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation, eager_attention_forward
        )
        attended, _ = attend(
            attention,
            query,
            key,
            value,
            attention_mask,
            dropout=attention.attention_dropout if attention.training else 0.0,
            scaling=attention.scaling,
            position_ids=position_ids,
            use_cache=use_cache,
            **kwargs,
        )
        attended = self.cross(attended.flatten(2), query, self.input_layernorm, start)
        hidden_states = hidden_states + attention.o_proj(attended)
        hidden: Tensor = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + hidden


def add_hybrid_layers(language_model: PreTrainedModel, every_n: int) -> VisualContext:
    """Replace layers 0, n, 2n, ... of a language model by hybrid ones.

    Args:
        language_model: A Llama or Qwen2 for causal language modelling; changed in place.
        every_n: The n; published is 8.

    Returns:
        What the new layers look at, empty at first.

    Raises:
        CheckpointError: If the layers are of another family.
        ValueError: If every_n is below 1.
    """
    if every_n < 1:
        raise ValueError(f"every_n ({every_n}) must be at least 1")
    layers: Any = getattr(language_model.get_decoder(), "layers", [None])
    if not all(isinstance(layer, LlamaDecoderLayer | Qwen2DecoderLayer) for layer in layers):
        raise CheckpointError(
            "hybrid decoder layers are for language models of the Llama and Qwen2 families, not "
            f"for {type(language_model).__name__}"
        )
    context = VisualContext()
    for index in range(0, len(layers), every_n):
        layers[index] = HybridDecoderLayer(layers[index], layer_index=index, context=context)
    return context
