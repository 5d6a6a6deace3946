"""Text towers of contrastive pretraining: encoders of the transformers package."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedModel

from radrep.errors import CheckpointError
from radrep.modules.language_model import quiet

_MAX_POSITIONS = 512


class TextTokenizer:
    """Words to the ids of a text encoder, with the special ones around them that it was made with.

    Args:
        tokenizer: A tokenizer of the transformers package.
    """

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


def load_text_encoder(name: str) -> PreTrainedModel:
    """Load a text encoder in float32, without a pooling layer; of an encoder-decoder the encoder.

    Args:
        name: A hub name, for example "emilyalsentzer/Bio_ClinicalBERT", or a local folder.

    Raises:
        CheckpointError: If it cannot be had.
    """
    try:
        with quiet():
            try:
                model = AutoModel.from_pretrained(
                    name, dtype=torch.float32, add_pooling_layer=False
                )
            except TypeError:  # of a family that never has one
                model = AutoModel.from_pretrained(name, dtype=torch.float32)
    except Exception as error:  # of the hub, the network, the files: all mean "cannot be had"
        raise _not_had(name, error) from error
    encoder: PreTrainedModel = model.get_encoder() if model.config.is_encoder_decoder else model
    return encoder


def load_text_tokenizer(name: str) -> TextTokenizer:
    """Load the tokenizer that belongs to `load_text_encoder` of the same name.

    Raises:
        CheckpointError: If it cannot be had.
    """
    try:
        with quiet():
            return TextTokenizer(AutoTokenizer.from_pretrained(name))
    except Exception as error:  # as above
        raise _not_had(name, error) from error


def small_text_encoder(
    vocabulary_size: int, *, dim: int, num_layers: int, num_heads: int
) -> PreTrainedModel:
    """A BERT that starts from nothing, over the words of `radrep.data.tokenizer.Tokenizer`.

    Args:
        vocabulary_size: Words; 0, which opens and closes every text, comes to them.
        dim: Width.
        num_layers: Layers.
        num_heads: Attention heads.
    """
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


def _not_had(name: str, error: Exception) -> CheckpointError:
    (reason, *_) = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(
        f"text encoder {name!r} cannot be had: {reason}. Give a hub name that can "
        "be reached, a local folder of the transformers package, or 'small' for one that starts "
        "from nothing"
    )
