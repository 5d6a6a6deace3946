"""Bad folders of language models, as a recipe names them."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.checkpoints import safetensors
from tests.hostile.kinds import BROKEN, ESC, Code, Input


def _config(**values: object) -> Callable[[bytes], bytes]:
    return lambda old: json.dumps(json.loads(old) | values).encode()


def _index(*names: object) -> bytes:
    return json.dumps(
        {"metadata": {}, "weight_map": {str(k): n for k, n in enumerate(names)}}
    ).encode()


AUTO = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
FILES: dict[tuple[str, str], bytes | Callable[[bytes], bytes]] = {
    **{("config.json", name): content for name, content in BROKEN.items()},
    ("config.json", "a billion layers"): _config(num_hidden_layers=10**9),
    ("config.json", "ten million layers"): _config(num_hidden_layers=10**7),
    ("config.json", "a thousand layers"): _config(num_hidden_layers=1000),
    ("config.json", "a wide model"): _config(hidden_size=2**20, intermediate_size=2**24),
    ("config.json", "many words"): _config(vocab_size=2**24),
    ("config.json", "more words than any"): _config(vocab_size=10**15),
    ("config.json", "many labels"): _config(num_labels=2**24),
    ("config.json", "many heads"): _config(num_attention_heads=2**24, head_dim=2**20),
    ("config.json", "no heads"): _config(num_attention_heads=0),
    ("config.json", "code beside it"): _config(auto_map=AUTO, model_type="evil"),
    ("config.json", "another kind"): _config(model_type="t5", architectures=["T5Model"]),
    ("config.json", "a kind with escapes"): _config(model_type=ESC),
    ("config.json", "a program of the hub"): _config(attn_implementation="evil/kernel"),
    ("config.json", "texts for numbers"): _config(hidden_size=ESC, num_hidden_layers="9"),
    ("model.safetensors", "noise"): BROKEN["noise"],
    ("model.safetensors", "no tensor"): safetensors({}),
    ("model.safetensors", "an endless header"): safetensors(b"{}", length=2**60),
    ("model.safetensors", "a huge tensor"): safetensors(
        {"model.embed_tokens.weight": {
            "dtype": "F32", "shape": [2**40, 128], "data_offsets": [0, 2**49]}}
    ),
    ("adapter_config.json", "another model"): b'{"base_model_name_or_path": "/etc"}',
    ("model.safetensors.index.json", "leads out"): _index("../../secret.safetensors"),
    ("model.safetensors.index.json", "absolute"): _index("/etc/passwd"),
    ("model.safetensors.index.json", "a number"): _index(7),
    ("model.safetensors.index.json", "noise"): BROKEN["noise"],
    ("tokenizer.json", "noise"): BROKEN["noise"],
    ("tokenizer.json", "deep"): BROKEN["braces"],
    ("tokenizer_config.json", "deep"): BROKEN["braces"],
    ("tokenizer_config.json", "code"): b'{"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}}',
    ("tokenizer_config.json", "files elsewhere"): json.dumps(
        {"tokenizer_file": "/etc/passwd", "vocab_file": "/etc/passwd"}
    ).encode(),
    ("generation_config.json", "deep"): BROKEN["braces"],
}  # fmt: skip


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _gguf(**counts: int) -> bytes:
    keys = _text("general.architecture") + struct.pack("<I", 8) + _text("llama")
    for name, count in counts.items():
        keys += _text(f"llama.{name}") + struct.pack("<IQ", 10, count)
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 + len(counts)) + keys


GGUF = {
    "noise": b"GGUF" + BROKEN["noise"],
    "a billion layers": _gguf(block_count=10**9),
    "a wide model": _gguf(block_count=2, embedding_length=2**31, vocab_size=2**31),
    "no words": _gguf(block_count=2),
}
# The tiny recipe of CSR-LMCA, with an EMRRG over the folder in its place.
MODEL: dict[str, Any] = {
    "name": "emrrg", "encoder": {"size": "nano"}, "train_encoder": "trained",
    "language_model": {"name": "lm", "precision": "fp32"},
}  # fmt: skip


def _train(name: str, base: Path) -> list[str]:
    section = MODEL | {"language_model": MODEL["language_model"] | {"name": name}}
    return ["train", str(base / "tiny.yaml"), "--set", f"model={json.dumps(section)}"]


def _folder(
    file: str, new: bytes | Callable[[bytes], bytes], base: Path, folder: Path
) -> list[str]:
    shutil.copytree(base / "lm", folder / "lm")
    place = folder / "lm" / file
    if file.endswith(".index.json"):
        (folder / "lm/model.safetensors").unlink()
    (folder / "lm/evil.py").write_text("open('owned', 'w')\n")
    place.write_bytes(new if isinstance(new, bytes) else new(place.read_bytes()))
    return [*_train("lm", base), "--out", "out"]


def _pickle(base: Path, folder: Path) -> list[str]:
    command = _folder("pytorch_model.bin", pickle.dumps(Code(), 2), base, folder)
    (folder / "lm/model.safetensors").unlink()
    return command


def _gguf_file(content: bytes, base: Path, folder: Path) -> list[str]:
    (folder / "lm.gguf").write_bytes(content)
    return [*_train("lm.gguf", base), "--out", "out"]


def all_inputs(base: Path) -> Iterator[Input]:
    """Those made from a tiny model under `base`."""
    for (file, name), new in FILES.items():
        yield Input(f"language model, {file}", name, partial(_folder, file, new, base))
    yield Input("language model", "pickled code", partial(_pickle, base))
    for name, content in GGUF.items():
        yield Input("GGUF", name, partial(_gguf_file, content, base))
