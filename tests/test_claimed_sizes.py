"""What a folder of transformers claims is held against its weights before memory is taken."""

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from transformers import BertConfig, BertModel

from radrep.claimed_sizes import SizeLimit, check_config
from radrep.errors import CheckpointError
from radrep.modules.language_model import load_language_model
from radrep.modules.text_encoder import load_text_encoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    made = load_language_model("tiny:llama", cache_folder=folder)
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


def copy(model: Path, folder: Path, **config: object) -> Path:
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    own = json.loads((model / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(own))
    return folder


CONFIGS: dict[str, tuple[dict[str, object], str]] = {
    "layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000; at most"),
    "layers within the bound of a number": (
        {"num_hidden_layers": 20_000, "hidden_size": 8, "intermediate_size": 8, "head_dim": 2},
        "a model of more than 20,000 tensors",
    ),
    "width": ({"intermediate_size": 2**24}, "a model of more than 0.3 GB"),
    "words": ({"vocab_size": 2**24}, "a model of more than 0.3 GB"),
    "labels": ({"num_labels": 2**20}, "num_labels is 1,048,576; at most 100,000"),
    "inner": ({"text_config": [{"depth": 10**12}]}, "depth is 1,000,000,000,000"),
    "program": ({"attn_implementation": "evil/kernel"}, "a program of the hub; none is run"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_larger_than_its_weights_is_refused(
    model: Path, tmp_path: Path, name: str
) -> None:
    config, message = CONFIGS[name]
    folder = copy(model, tmp_path / "lm", **config)
    before = psutil.Process().memory_info().rss
    with pytest.raises(CheckpointError, match=message):
        load_language_model(str(folder), cache_folder=tmp_path)
    assert psutil.Process().memory_info().rss - before < 5e8


FILES: dict[str, tuple[str, str]] = {
    "model.safetensors.index.json": (
        '{"weight_map": {"a": "../secret.safetensors"}}', "names '../secret.safetensors'",
    ),
    "adapter_config.json": ('{"base_model_name_or_path": "/etc"}', "it has low-rank adapters"),
    "config.json": ("[" * 5000, "config.json is broken: its JSON is nested"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_leads_out_or_is_broken_is_refused(
    model: Path, tmp_path: Path, name: str
) -> None:
    content, message = FILES[name]
    (copy(model, tmp_path / "lm") / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_language_model(str(tmp_path / "lm"), cache_folder=tmp_path)


def test_a_text_encoder_is_held_against_its_weights_too(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
    BertModel(BertConfig(num_hidden_layers=1, **sizes)).save_pretrained(tmp_path)
    assert load_text_encoder(str(tmp_path)).config.hidden_size == 8
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", **sizes, "vocab_size": 2**24, "hidden_size": 64})
    )
    with pytest.raises(CheckpointError, match="a model of more than 0.3 GB"):
        load_text_encoder(str(tmp_path))


def test_real_configs_are_within_the_bounds(tmp_path: Path) -> None:
    """Of the largest models: 10 million positions, a theta of 10^8, 10^5 labels."""
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(
            {
                "max_position_embeddings": 10_485_760, "rope_theta": 10**8, "vocab_size": 262_208,
                "num_labels": 21_843, "num_hidden_layers": 126, "attn_implementation": "sdpa",
            }
        )
    )  # fmt: skip
    check_config(file)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(2**20, 2**20),
        lambda: torch.nn.Linear(2**20, 2**20),
        lambda: [torch.zeros(2**18) for _ in range(200)],
        lambda: torch.arange(10**10),
        lambda: torch.arange(2, end=10**10, step=3, dtype=torch.float32),
    ],
)
def test_tensors_beyond_a_limit_are_not_made(make: Callable[[], object]) -> None:
    before = psutil.Process().memory_info().rss
    with SizeLimit(10**8, MemoryError), pytest.raises(MemoryError, match=r"0\.1 GB"):
        make()
    assert psutil.Process().memory_info().rss - before < 3e8


def test_within_a_limit_tensors_are_those_that_are_made_without() -> None:
    torch.manual_seed(0)
    before = torch.randn(3, generator=torch.Generator().manual_seed(1)), torch.rand(3)
    torch.manual_seed(0)
    with SizeLimit(10**9, MemoryError):
        after = torch.randn(3, generator=torch.Generator().manual_seed(1)), torch.rand(3)
    assert all(map(torch.equal, before, after))
