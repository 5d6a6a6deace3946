"""Sizes that a stranger's model claims, held against a limit before memory is taken for them.

One line of a recipe or of a config.json asks for terabytes, or for a billion layers.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from radrep.json_text import load_json
from radrep.torch_files import check_torch_file

_SPARE = 250_000_000  # bytes beside what files can fill, as of a head that they lack
_MAX_TENSORS = 20_000  # the largest language models here have some 3,000
# Of any number in a config.json; contexts reach 10 million positions. Some fill a list of that
# length before there is a model, those of labels a table of texts.
_MAX_NUMBER, _MAX_LABELS = 2**24, 100_000
_MAX_JSON = 50_000_000  # bytes; an index of 36,000 tensors has 3 MB
# Weights of 4 bits that are read as float32.
_MAX_RATIO = 8
_ADAPTERS = "adapter_config.json"  # names another folder or repository to load
_BARE = re.compile(r"[\w-][\w.-]*")
_WEIGHTS = ("*.safetensors", "*.bin")
_MAKERS = frozenset(
    (
        torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange,
        torch.linspace, torch.eye, torch.empty_strided,
    )
)  # fmt: skip


class SizeLimit(TorchFunctionMode):
    """Raises an error in place of making tensors of more bytes, or more tensors, than a model has.

    Args:
        max_bytes: Of all tensors together; None for any.
        error: Makes what is raised of the limit, in words.
        on_meta: Count tensors on the device "meta", which are shapes alone, in place of others.
    """

    def __init__(
        self,
        max_bytes: int | None,
        error: Callable[[str], Exception],
        *,
        on_meta: bool = False,
    ) -> None:
        super().__init__()
        self._max_bytes, self._error, self._on_meta = max_bytes, error, on_meta
        self._num_bytes = self._count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        settings = dict(kwargs or {})
        if func in _MAKERS and "out" not in settings:
            device = settings.get("device")
            if (device is not None and torch.device(device).type == "meta") == self._on_meta:
                self._num_bytes += _without_numbers(func, args, settings).nbytes
                self._count += 1
                if self._max_bytes is not None and self._num_bytes > self._max_bytes:
                    raise self._error(f"{self._max_bytes / 1e9:.1f} GB")
                if self._count > _MAX_TENSORS:
                    raise self._error(f"{_MAX_TENSORS:,} tensors")
        return func(*args, **settings)


def _without_numbers(func: Any, args: tuple[Any, ...], settings: dict[str, Any]) -> Tensor:
    """What a function makes, on "meta".

    Random numbers and ranges by another one: there their own imports torch's compiler, two seconds.
    """
    kept = {key: settings[key] for key in settings if key != "generator"} | {"device": "meta"}
    if func is torch.arange:
        given = args if len(args) > 1 else (0, *args)
        span = dict(zip(("start", "end", "step"), given, strict=False))
        span |= {key: kept.pop(key) for key in ("start", "end", "step") if key in kept}
        count = math.ceil((span["end"] - span["start"]) / span.get("step", 1))
        return torch.empty(max(0, count), **{"dtype": torch.long} | kept)
    make = torch.empty if func in (torch.rand, torch.randn) else func
    shape: Tensor = make(*args, **kept)
    return shape


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    return int(psutil.virtual_memory().total)


def check_model_folder(folder: Path) -> int:
    """Bytes at most of the model that a folder of transformers may describe, by its weights.

    Raises:
        ValueError, UnpicklingError: If a file of it names a file or a program elsewhere, or would
            take memory without end before there is a model.
    """
    for file in sorted(folder.glob("*.bin")):
        check_torch_file(file)
    if (folder / _ADAPTERS).is_file():
        raise ValueError(f"it has low-rank adapters ({_ADAPTERS}); merge them into their model")
    for index in sorted(folder.glob("*.index.json")):
        _check_index(index)
    check_config(folder / "config.json")
    size = sum(file.stat().st_size for kind in _WEIGHTS for file in folder.glob(kind))
    return _MAX_RATIO * size + _SPARE


def file_bytes(size: int) -> int:
    """Bytes at most of the tensors made for a model in float32 whose weights have so many.

    Some are made more than once: a layer's own, then those that a block initialises it with.
    """
    return 4 * size + _SPARE


def check_config(file: Path) -> None:
    """Raise ValueError if a config.json would take memory without end, or names a program."""
    left: list[tuple[str, Any]] = [("", _read_json(file))]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(key, inner) for inner in value]
        elif isinstance(value, int) and "theta" not in key:
            most = _MAX_LABELS if "label" in key else _MAX_NUMBER
            if abs(value) > most:
                raise ValueError(f"{file.name}: {key} is {value:,}; at most {most:,} is read")
        elif isinstance(value, str) and key.endswith("_implementation") and "/" in value:
            raise ValueError(f"{file.name}: {key} is {value!r}, a program of the hub; none is run")


def _check_index(file: Path) -> None:
    """Raise ValueError if the index of weights in several files names one that is not beside it."""
    index = _read_json(file)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict):
        raise ValueError(f"{file.name} has no weight_map")
    for name in names.values():
        if not isinstance(name, str) or not _BARE.fullmatch(name):
            raise ValueError(f"{file.name} names {name!r}; weights lie beside it")


def _read_json(file: Path) -> Any:
    size = file.stat().st_size
    if size > _MAX_JSON:
        raise ValueError(f"{file.name} has {size:,} bytes; at most {_MAX_JSON:,} are read")
    try:
        return load_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file.name} is broken: {error}") from error
