"""Files of torch.save, read without running what they hold.

A pickle may name any function to be called. Here only tensors and plain containers are built; all
else becomes a stand-in that does nothing, so that a file which also pickles its settings still
loads. Nothing is imported by a name of the file.
"""

import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor


class CutOffError(Exception):
    """A file ends before its tensors do, or they are not what was written."""


def read_torch_file(path: Path) -> object:
    """Read a file in the format since PyTorch 1.6, or in the one before.

    Args:
        path: The file.

    Returns:
        What was saved, with stand-ins for all that is not a tensor, a container, a number or text.

    Raises:
        CutOffError: If it is broken or cut off.
        Exception: Of any kind, if it is no such file.
    """
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        try:
            if start == b"PK":
                return _read_zip(file)
            return _read_legacy(file, path.stat().st_size)
        except (zipfile.BadZipFile, EOFError) as error:
            raise CutOffError(error) from error


def _read_zip(file: IO[bytes]) -> object:
    """The format since PyTorch 1.6: a pickle, and each storage as a file beside it."""
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(names) != 1:
            raise ValueError("a zip file without data.pkl")
        root = names[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist():
            _check_byte_order(archive.read(f"{root}byteorder").decode())
        storages: dict[str, Tensor] = {}

        def storage(saved: tuple[Any, ...]) -> Tensor:
            _, dtype, key, _, count = saved
            if key not in storages:
                name = f"{root}data/{key}"
                if archive.getinfo(name).file_size < count * dtype.itemsize:
                    raise CutOffError(f"{name} is too short")
                storages[key] = torch.empty(count, dtype=dtype)
                with archive.open(name) as raw:
                    _fill(storages[key], raw)
            return storages[key]

        with archive.open(names[0]) as pickled:
            return _Unpickler(pickled, storage).load()


def _read_legacy(file: IO[bytes], size: int) -> object:
    """The format before: pickles one behind the other, then the bytes of all storages."""

    def nothing(saved: object) -> Tensor:
        raise ValueError("a tensor where there should be none")

    magic, protocol, system = (_Unpickler(file, nothing).load() for _ in range(3))
    if magic != 0x1950A86A20F9469CFC6C or protocol != 1001 or not isinstance(system, dict):
        raise ValueError("not its magic number")
    _check_byte_order("little" if system.get("little_endian", True) else "big")
    storages: dict[str, Tensor] = {}

    def storage(saved: tuple[Any, ...]) -> Tensor:
        _, dtype, key, _, count, view = saved
        if key not in storages:
            if count * dtype.itemsize > size:
                raise CutOffError(f"storage {key} is longer than the file")
            storages[key] = torch.empty(count, dtype=dtype)
        return storages[key] if view is None else storages[key][view[1] : view[1] + view[2]]

    content = _Unpickler(file, storage).load()
    keys: Any = _Unpickler(file, nothing).load()
    for key in keys:
        file.seek(8, 1)  # its length again
        _fill(storages[key], file)
    return content


def _check_byte_order(order: str) -> None:
    if order != sys.byteorder:
        raise ValueError(f"numbers in {order}-endian order, which this machine does not have")


def _fill(storage: Tensor, file: IO[bytes]) -> None:
    raw = storage.view(torch.uint8).numpy().data
    while raw:
        count = file.readinto(raw)  # type: ignore[attr-defined]
        if not count:
            raise CutOffError("its last tensors are missing")
        raw = raw[count:]


class _StandIn:
    """Takes the place of any class, function or object that a file names, and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> "_StandIn":
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass

    def add(self, item: object) -> None:
        pass


def _rebuild_tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *rest: object
) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _rebuild_parameter(data: Tensor, *rest: object) -> Tensor:
    return data


def _rebuild_with_attributes(
    function: Callable[..., Tensor], kind: object, args: Sequence[Any], state: object
) -> Tensor:
    return function(*args)


_FUNCTIONS: Mapping[tuple[str, str], Callable[..., Tensor]] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_with_attributes,
}
_CONTAINERS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (dict, list, tuple, set, frozenset)
    },
}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Unpickler(pickle.Unpickler):
    """Builds tensors and plain containers, imports nothing and calls nothing else.

    Args:
        file: The pickle.
        storage: Gives the numbers that tensors are views of, by what the file says of them.
    """

    def __init__(self, file: IO[bytes], storage: Callable[[tuple[Any, ...]], Tensor]) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self._storage = storage

    def persistent_load(self, saved: tuple[Any, ...]) -> Tensor:
        """The storage of a tensor."""
        if saved[0] != "storage":
            raise ValueError(f"an unknown kind of data, {saved[0]!r}")
        return self._storage(saved)

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the file; it is never looked up where it says."""
        if (module, name) in _FUNCTIONS:
            return partial(_FUNCTIONS[module, name])  # a new one: a pickle can set attributes
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return _CONTAINERS.get((module, name), _StandIn)
