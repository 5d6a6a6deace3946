"""Files of torch.save, read without calling the functions that their pickles name.

torch.load(weights_only=True) builds tensors and plain containers alone and refuses a file that also
pickles its settings; here every other name in the file becomes a stand-in that does nothing.
"""

import shlex
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # PyTorch's magic number before 1.6


class BrokenFileError(Exception):
    """The file is cut off or its content has changed."""


class _StandIn:
    """An empty dict in place of any object: subclasses of dict are filled item by item."""

    def __new__(cls, *args: object, **kwargs: object) -> "OrderedDict[str, object]":  # type: ignore[misc]
        return OrderedDict()


class _NumpyStandIn:
    """In place of NumPy's objects, whose state is a tuple."""

    def __new__(cls, *args: object, **kwargs: object) -> "_NumpyStandIn":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def read_torch_file(path: Path) -> object:
    """What torch.save wrote, with stand-ins for all but tensors, containers, numbers and text.

    Raises:
        BrokenFileError: If it is broken or cut off.
        UnpicklingError: If it is no such file, or holds what cannot be read safely.
    """
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_START))
    if start.startswith(b"PK"):
        return _read_zip(path)
    if start != _LEGACY_START:
        raise UnpicklingError("it starts with neither a zip archive nor PyTorch's magic number")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        loaded = f"torch.load({str(path)!r}, 'cpu', weights_only=False)"
        code = shlex.quote(f"import torch; torch.save({loaded}, 'converted.pth')")
        raise UnpicklingError(
            "it is in the format from before PyTorch 1.6 and holds more than weights. If you trust "
            f"its source, convert it with: python -c {code}"
        ) from error
    except (EOFError, RuntimeError) as error:
        raise BrokenFileError(error) from error


def _read_zip(path: Path) -> object:
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch does not compare checksums
            broken = archive.testzip()
            is_torch = any(name.endswith("/data.pkl") for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise BrokenFileError(error) from error
    if broken:
        raise BrokenFileError(f"the checksum of {broken} is wrong")
    if not is_torch:
        raise UnpicklingError("a zip archive without data.pkl")
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_NumpyStandIn if name.startswith("numpy.") else _StandIn, name)
        for name in get_unsafe_globals_in_checkpoint(path)
    ]
    with safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True)
