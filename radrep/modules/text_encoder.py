"""Text towers of contrastive pretraining: encoders of the transformers package."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
)

from radrep.errors import CheckpointError
from radrep.hub import first_line, set_hub_source
from radrep.modules.language_model import NO_CODE, check_model, quiet, shapes_within

_MAX_POSITIONS = 512


class TextTokenizer:
    """A tokenizer of transformers, with the special ids that it puts around a text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode_report(self, text: str, max_tokens: int) -> list[int]:
        """Ids of a text; one that is too long keeps its closing id, which stands for it."""
        ids: list[int] = self._tokenizer.encode(text, truncation=True, max_length=max_tokens)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without special ones."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def load_text_encoder(
    name: str, revision: str | None = None, *, weights: bool = True
) -> PreTrainedModel:
    """Load a text encoder in float32, without a pooling layer; of an encoder-decoder the encoder.

    The name is one of the hub, such as "emilyalsentzer/Bio_ClinicalBERT", or a local folder.
    Without weights it has the right shape on the device "meta".
    """
    given = {"revision": revision or "main", **NO_CODE}
    try:
        limit = check_model(name, revision or "main")
        with quiet():
            config = AutoConfig.from_pretrained(name, **given)
            with shapes_within(limit if weights else None):
                model = _unpooled(partial(AutoModel.from_config, config, **NO_CODE))
            if weights:
                model = _unpooled(partial(AutoModel.from_pretrained, name, **given))
    except Exception as error:  # of the hub, the network or the files
        raise _not_loaded(name, error) from error
    encoder: PreTrainedModel = model.get_encoder() if model.config.is_encoder_decoder else model
    if not Path(name).is_dir():
        set_hub_source(encoder, name, revision, "config.json")
    return encoder


def _unpooled(make: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    try:
        return make(add_pooling_layer=False, dtype=torch.float32)
    except TypeError:  # of a family that never has one
        return make(dtype=torch.float32)


def load_text_tokenizer(name: str, revision: str | None = None) -> TextTokenizer:
    """Load the tokenizer that belongs to `load_text_encoder` of the same arguments."""
    try:
        with quiet():
            revision = revision or "main"
            return TextTokenizer(AutoTokenizer.from_pretrained(name, revision=revision, **NO_CODE))
    except Exception as error:  # as above
        raise _not_loaded(name, error) from error


def small_text_encoder(
    vocabulary_size: int, *, dim: int, num_layers: int, num_heads: int
) -> PreTrainedModel:
    """An untrained BERT over the words of `radrep.data.tokenizer.Tokenizer`, 0 around each."""
    config = BertConfig(
        vocab_size=vocabulary_size + 1,
        hidden_size=dim,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * dim,
        max_position_embeddings=_MAX_POSITIONS,
        pad_token_id=None,  # 0 opens and closes a text, so it must learn
    )
    return BertModel(config, add_pooling_layer=False)


def _not_loaded(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"text encoder {name!r} cannot be loaded: {first_line(error)}. Give a hub name that is "
        "reachable, a local folder of the transformers package, or 'small' for an untrained one"
    )
