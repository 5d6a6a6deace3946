"""Hybrid decoder layers: layers of a language model with gated attention to visual tokens.

Source: Shi et al., arXiv 2504.01328, which EMRRG (arXiv 2510.16776) adopts. On purpose unlike the
released code: whether a study has an image does not depend on the tokens of the current step, which
would switch the cross-attention off in cached decoding; all keys lie before all values.

The layers stay those of transformers, with an attention registered under the name ATTENTION.

Letters: b studies, k beams per study, n positions of the current call, p positions of the prompt,
m visual tokens, d width of the language model, h heads, e width of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from radrep.errors import CheckpointError

ATTENTION = "radrep_visual"


@dataclass
class _Seen:
    """What the layers attend to until the next reset, see `VisualContext.set`."""

    tokens: Tensor
    mask: Tensor
    text: Tensor
    num_beams: int
    keys_and_values: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def has_image(self) -> Tensor:
        return self.mask.any(dim=1)


class VisualContext:
    """Holds the visual tokens outside the sequence, one copy per study, for all hybrid layers."""

    def __init__(self) -> None:
        self.seen: _Seen | None = None

    def set(self, tokens: Tensor, mask: Tensor, text: Tensor, num_beams: int = 1) -> None:
        """Set the visual tokens (b, m, d) of the following calls; the first starts the sequence.

        The mask (b, m) is True for real ones; a study without any has no image. Text (b, p) is True
        where the prompt has text; all later positions are text. Beams stand side by side.
        """
        if mask.shape != tokens.shape[:2] or len(text) != len(tokens):
            raise ValueError(
                f"mask {tuple(mask.shape)} and text {tuple(text.shape)} do not fit "
                f"tokens {tuple(tokens.shape)}"
            )
        self.seen = _Seen(tokens, mask, text, num_beams)

    @contextmanager
    def again(self, seen: _Seen | None) -> Iterator[None]:
        """Show what an earlier call saw; for the recomputation of gradient checkpointing."""
        before, self.seen = self.seen, seen
        try:
            yield
        finally:
            self.seen = before

    def reset(self) -> None:
        """Remove the visual tokens: the layers do what they did without."""
        self.seen = None


class VisualCrossAttention(nn.Module):
    """The added part of a hybrid layer: keys and values of visual tokens, and a gate, in float32.

    It starts from the key and value projections of the layer's self-attention.
    """

    def __init__(self, attention: Any, *, context: VisualContext) -> None:
        super().__init__()
        key, value, query = attention.k_proj, attention.v_proj, attention.q_proj
        self._head_dim: int = attention.head_dim
        self._layer_index: int = attention.layer_idx
        self._dropout: float = attention.attention_dropout
        self._context = context
        place: dict[str, Any] = {"device": key.weight.device, "dtype": torch.float32}
        self.keys_values = nn.Linear(key.in_features, 2 * key.out_features, **place)
        self.gate = nn.Linear(query.out_features, 1, **place)
        self.warm_up = nn.Parameter(torch.zeros(1, **place))  # the paper's alpha
        with torch.no_grad():
            self.keys_values.weight.copy_(torch.cat([key.weight, value.weight]))
            self.keys_values.bias.zero_()
            if key.bias is not None:
                self.keys_values.bias.copy_(torch.cat([key.bias, value.bias]))

    def forward(
        self, attended: Tensor, query: Tensor, norm: nn.Module, positions: Tensor
    ) -> Tensor:
        """Add what the text at positions (1 or b k, n) of the sequence gains from visual tokens.

        Attended, (b k, n, h, e), is from the self-attention before its projection; query, rotated,
        is (b k, h, n, e); the norm is the one in front of the layer.
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
        visual = F.scaled_dot_product_attention(
            query,
            key.repeat_interleave(groups, dim=1).to(query.dtype),
            value.repeat_interleave(groups, dim=1).to(query.dtype),
            # All keys are open where there is no image: the result is not used, yet finite.
            attn_mask=(seen.mask | ~seen.has_image[:, None])[:, None, None],
            dropout_p=self._dropout if self.training else 0.0,
        )
        visual = visual.unflatten(2, (seen.num_beams, count)).permute(0, 2, 3, 1, 4)
        visual = visual.reshape(attended.shape)
        gate = torch.tanh(self.gate(attended.flatten(2).to(self.gate.weight.dtype)))  # (b k, n, 1)
        gate = (gate * torch.tanh(self.warm_up))[..., None]
        text = F.pad(seen.text, (0, 1), value=True) & seen.has_image[:, None]
        text = text.repeat_interleave(seen.num_beams, dim=0)
        places = positions.clamp(max=seen.text.shape[1]).expand(rows, -1)
        open_to = text.gather(1, places)[..., None, None]  # (b k, n, 1, 1)
        return attended + torch.where(open_to, gate * visual.to(gate.dtype), 0.0).to(attended.dtype)

    def _keys_and_values(self, seen: _Seen, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """Kept while decoding, where they do not change."""
        kept = seen.keys_and_values.get(self._layer_index)
        if kept is not None and not torch.is_grad_enabled():
            return kept
        both = self.keys_values(norm(seen.tokens).to(self.keys_values.weight.dtype))
        both = both.unflatten(-1, (2, -1, self._head_dim))  # (b, m, 2, key heads, e)
        key, value = both.transpose(1, 3).unbind(2)
        if not torch.is_grad_enabled():
            seen.keys_and_values[self._layer_index] = (key, value)
        return key, value


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    position_ids: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention, (b k, n, h, e), and in a hybrid layer attention to the visual tokens."""
    if query.requires_grad and query.device.type == "cpu":
        attended = _explicit_attention(query, key, value, attention_mask, scaling, dropout)
    else:
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    if hasattr(module, "radrep_cross"):
        cross, norm = module.radrep_cross
        if position_ids is None:  # a whole sequence
            position_ids = torch.arange(query.shape[2], device=query.device)[None]
        attended = cross(attended, query, norm, position_ids)
    return attended, None


def _explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float
) -> Tensor:
    """For training on CPUs, where the backward of the fused one takes as long as a whole layer."""
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, dim=1).transpose(2, 3) * scaling
    if mask is None:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~mask, float("-inf"))
    weights = F.dropout(scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype), dropout)
    return (weights @ value.repeat_interleave(groups, dim=1)).transpose(1, 2).contiguous()


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def add_hybrid_layers(language_model: PreTrainedModel, every_n: int) -> VisualContext:
    """Give layers 0, n, 2n, ... of a Llama or Qwen2 a cross-attention, under the name `cross`.

    Return what they attend to, empty at first. Their warm-up starts at 0, without effect.
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
    for layer in layers[::every_n]:
        layer.cross = VisualCrossAttention(layer.self_attn, context=context)
        # In a tuple, since a module would be one of the attention's own and change tensor names.
        layer.self_attn.radrep_cross = (layer.cross, layer.input_layernorm)
    language_model.set_attn_implementation(ATTENTION)
    return context
