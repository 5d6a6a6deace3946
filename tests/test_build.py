"""What a recipe's model reads: the cleaned report, in its own ids."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from radrep.build import build_codec, build_model
from radrep.data.text import get_cleaner
from radrep.data.tokenizer import Tokenizer
from radrep.models.base import TrainableModel
from radrep.modules.language_model import load_language_model
from radrep.recipe.load import load_recipe
from radrep.recipe.recipe import Recipe
from radrep.training.run_log import parameter_table
from tests.whole_way import TINY, write_recipe

REPORT = "1. The Heart is normal.\n2. NO effusion?"
ENCODER = {"size": "tiny"}
MODELS: dict[str, dict[str, Any]] = {
    "csr_lmca": TINY["model"],
    "emrrg": {
        "name": "emrrg",
        "encoder": ENCODER,
        "language_model": {"name": "tiny:llama", "train": "lora"},
        "hybrid": {"every_n_layers": 2},
    },
    "autoregressive": {
        "name": "autoregressive",
        "encoder": ENCODER,
        "cluster_size": 2,
        "decoder_dim": 64,
    },
    "contrastive": {
        "name": "contrastive",
        "encoder": ENCODER,
        "text_encoder": {"name": "small"},
    },
}
TOKENIZER = Tokenizer(("<unk>", "heart", "normal"), "plain", 1)


def build(folder: Path, name: str, **changes: Any) -> tuple[Recipe, TrainableModel]:
    recipe = write_recipe(folder, folder / "data")
    typed = yaml.safe_load(recipe.read_text())
    typed["model"] = MODELS[name] | changes
    typed["task"] = "pretrain" if name in ("autoregressive", "contrastive") else "train"
    typed["data"]["tokenizer"]["cleaner"] = "r2gengpt_mimic"
    recipe.write_text(yaml.safe_dump(typed))
    loaded = load_recipe(str(recipe))
    return loaded, build_model(loaded, TOKENIZER.vocabulary)


@pytest.mark.parametrize("name", MODELS)
def test_the_table_of_parameters_leaves_none_out(name: str, tmp_path: Path) -> None:
    _, model = build(tmp_path, name)
    *rows, (last, total, trained) = parameter_table(model)
    assert last == "whole"
    assert total == sum(part[1] for part in rows) == sum(p.numel() for p in model.parameters())
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == sum(part[2] for part in rows)
    parts = {part: count for part, count, _ in rows}
    if name != "csr_lmca":
        mixers = [module.mixer for module in model.encoder.layers]  # type: ignore[attr-defined]
        learned = (p.numel() for mixer in mixers for n, p in mixer.named_parameters()
                   if ".adapters." not in n)  # fmt: skip
        assert parts["encoder mixers"] == sum(learned)
    own = {"contrastive": "log scale", "autoregressive": "query", "csr_lmca": "encoder-decoder"}
    assert own.get(name, "encoder adapters") in parts


def test_a_text_tower_of_transformers_reads_the_cleaned_report(tmp_path: Path) -> None:
    tower = tmp_path / "tower"
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(tower)
    words = load_language_model("tiny:llama", cache_folder=Path()).tokenizer
    words.save_pretrained(tower)
    recipe, model = build(tmp_path, "contrastive", text_encoder={"name": str(tower)})
    codec = build_codec(recipe, TOKENIZER, model)
    clean = get_cleaner("r2gengpt_mimic")(REPORT)
    assert clean != REPORT
    assert codec.encode(REPORT, 99) == words.encode(clean)
    assert codec.decode(codec.encode(REPORT, 99)).strip() == clean.strip()
    length = len(codec.encode(REPORT, 99))
    batch = torch.tensor([codec.encode(REPORT, 99)])
    assert model.embed_texts(batch, torch.tensor([length])).shape == (1, 2048)  # type: ignore


def test_a_cut_report_keeps_the_closing_id_that_the_small_tower_reads(tmp_path: Path) -> None:
    recipe, model = build(tmp_path, "contrastive")
    codec = build_codec(recipe, TOKENIZER, model)
    report = "heart normal heart normal"
    assert codec.encode(report, 99) == [0, 2, 3, 2, 3, 0]
    assert codec.encode(report, 4) == [0, 2, 3, 0]
    assert codec.decode([0, 2, 3, 0]) == "heart normal"


@pytest.mark.parametrize(
    ("name", "changes", "loader"),
    [
        (
            "csr_lmca",
            {"backbone": TINY["model"]["backbone"] | {"revision": "v2"}},
            "build.Backbone",
        ),
        (
            "emrrg",
            {"language_model": {"name": "tiny:llama", "revision": "v2"}},
            "modules.language_model.load_language_model",
        ),
        (
            "contrastive",
            {"text_encoder": {"name": "hub/x", "revision": "v2"}},
            "modules.text_encoder.load_text_encoder",
        ),
    ],
)
def test_weights_of_the_hub_are_loaded_at_the_revision_asked_for(
    name: str,
    changes: dict[str, Any],
    loader: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> None:
        asked.extend([*args, *options.values()])
        raise LookupError

    monkeypatch.setattr(f"radrep.{loader}", load)
    with pytest.raises(LookupError):
        build(tmp_path, name, **changes)
    assert "v2" in asked
