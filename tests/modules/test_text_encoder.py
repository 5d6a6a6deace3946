"""Text towers of many families, from folders as the hub has them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    ModernBertConfig,
    RobertaConfig,
    T5Config,
)

from radrep.errors import CheckpointError
from radrep.models.contrastive import ContrastivePretraining
from radrep.models.xray_mamba import make_xray_mamba
from radrep.modules.language_model import load_language_model
from radrep.modules.text_encoder import load_text_encoder, load_text_tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 40,
}  # fmt: skip
FAMILIES: list[Any] = [
    BertConfig(**SMALL),
    RobertaConfig(**SMALL),
    DistilBertConfig(
        vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=40
    ),
    ElectraConfig(**SMALL, embedding_size=8),
    DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    ModernBertConfig(**SMALL, pad_token_id=0, global_attn_every_n_layers=2),
    LlamaConfig(**SMALL),
    T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
    BartConfig(
        vocab_size=60, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_position_embeddings=40, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
]  # fmt: skip


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_every_family_is_a_tower_that_learns_whole_and_in_float32(
    config: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    AutoModel.from_config(config).half().save_pretrained(tmp_path)
    capfd.readouterr()
    tower = load_text_encoder(str(tmp_path)).train()
    assert "".join(capfd.readouterr()) == ""
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}
    model = ContrastivePretraining(
        encoder=make_xray_mamba("tiny", image_size=32),
        text_encoder=tower,
        text_dim=tower.config.hidden_size,
        projection_dim=8,
    )
    texts = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 0, 0], [11, 12, 13, 14, 0]])
    lengths = torch.tensor([5, 3, 4])
    weights = torch.randn(3, 8)
    (model.embed_texts(texts, lengths) * weights).sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None, name
    padded = torch.nn.functional.pad(texts, (0, 4), value=20)
    tower.eval()
    torch.testing.assert_close(
        model.embed_texts(padded, lengths), model.embed_texts(texts, lengths), atol=1e-5, rtol=1e-4
    )


def test_what_cannot_be_had_is_message_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    message = r"text encoder '.*' cannot be loaded: \w.*'small'"
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(str(tmp_path))
    with pytest.raises(CheckpointError, match=message):
        load_text_tokenizer(str(tmp_path / "nothing"))


def test_reports_keep_the_special_ids_when_they_are_cut(tmp_path: Path) -> None:
    tokenizer = load_language_model("tiny:llama", cache_folder=Path()).tokenizer
    tokenizer.save_pretrained(tmp_path)
    loaded = load_text_tokenizer(str(tmp_path))
    ids = loaded.encode_report("clear .", 5)
    assert len(ids) == 5
    assert loaded.decode(loaded.encode_report("clear .", 99)) == "clear ."
