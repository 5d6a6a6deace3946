"""Files of torch.save, read without calling the functions that their pickles name.

torch.load(weights_only=True) builds tensors and plain containers alone and refuses a file that also
pickles its settings; here every other name in the file becomes a stand-in that does nothing. What
would take more memory than the file has bytes, or would never end, is refused before it is loaded.
"""

import io
import pickletools
import shlex
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from torch._C import PyTorchFileReader
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # PyTorch's magic number before 1.6
_MAX_PICKLE = 16 * 2**20  # bytes; names and shapes of 1,000 tensors take 0.1 MB
_MAX_ITEMS = 10**7  # in tuples, each counted as often as a hash of the whole would visit it
_PICKLES = 5  # of an old file: magic number, protocol, system, content, keys; tensors follow


class BrokenFileError(Exception):
    """The file is cut off or its content has changed."""


class LimitError(UnpicklingError):
    """Reading the file would take more memory than it has bytes, or never end."""


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
        return load_tensors(path)
    except LimitError:
        raise
    except UnpicklingError as error:
        loaded = f"torch.load({str(path)!r}, 'cpu', weights_only=False)"
        code = shlex.quote(f"import torch; torch.save({loaded}, 'converted.pth')")
        raise UnpicklingError(
            "it is in the format from before PyTorch 1.6 and holds more than weights. If you trust "
            f"its source, convert it with: python -c {code}"
        ) from error
    except (EOFError, RuntimeError) as error:
        raise BrokenFileError(error) from error


def load_tensors(path: Path) -> Any:
    """torch.load(weights_only=True) of a file on the CPU, within the limits of this module.

    Raises LimitError beyond a limit, and what torch.load raises.
    """
    check_torch_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def check_torch_file(path: Path) -> None:
    """Raise LimitError if torch.load would take more memory than a file has bytes, or never end."""
    with path.open("rb") as file:
        check_torch_stream(file, path.stat().st_size)


def check_torch_stream(file: IO[bytes], size: int) -> None:
    """As `check_torch_file`, of what torch.load reads from the file's begin, which it has then."""
    file.seek(0)
    zipped = file.read(2) == b"PK"
    file.seek(0)
    if zipped:
        _check_archive(file, size)
        file.seek(0)
        check_pickle(io.BytesIO(PyTorchFileReader(file).get_record("data.pkl")))
    else:
        old = io.BytesIO(file.read(_MAX_PICKLE))
        for _ in range(_PICKLES):
            check_pickle(old)
    file.seek(0)


def _read_zip(path: Path) -> object:
    try:
        with path.open("rb") as file:
            _check_archive(file, path.stat().st_size)
        with zipfile.ZipFile(path) as archive:  # PyTorch does not compare checksums
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        raise BrokenFileError(error) from error
    if broken:
        raise BrokenFileError(f"the checksum of {broken} is wrong")
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_NumpyStandIn if name.startswith("numpy.") else _StandIn, name)
        for name in get_unsafe_globals_in_checkpoint(path)
    ]
    with safe_globals(stand_ins):
        return load_tensors(path)


def _check_archive(file: IO[bytes], size: int) -> None:
    """Raise LimitError if reading an archive would take more memory than it has bytes."""
    members = stored_members(file, size)
    pickles = [member for member in members if member.filename.endswith("/data.pkl")]
    if not pickles:
        raise UnpicklingError("a zip archive without data.pkl")
    if _num_bytes(pickles) > _MAX_PICKLE:
        raise LimitError(
            f"its names and shapes take {_num_bytes(pickles) / 1e6:.0f} MB (data.pkl); the limit "
            f"is {_MAX_PICKLE / 1e6:.0f} MB"
        )


def stored_members(file: IO[bytes], size: int) -> list[zipfile.ZipInfo]:
    """The members of a zip archive of weights; LimitError if they are more than its bytes."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    names = {member.filename for member in members}
    # A member twice, or several in the same bytes, would be read as more than is there.
    if packed or len(names) < len(members) or _num_bytes(members) > size:
        problem = f"{packed[0]} is compressed" if packed else "its members overlap"
        raise LimitError(f"{problem}, as in no archive of weights")
    return members


def _num_bytes(members: Sequence[zipfile.ZipInfo]) -> int:
    return sum(member.file_size for member in members)


def check_pickle(file: IO[bytes]) -> None:
    """Read one pickle's instructions and follow the size of its tuples, building nothing.

    A tuple that holds another twice, again and again, is short in a file and endless to hash.
    """
    stack: list[int] = []  # of each value the items in it, tuple in tuple; 1 for all else
    marks: list[int] = []
    memo: dict[Any, int] = {}
    total = 0
    try:
        for instruction, argument, _ in pickletools.genops(file):
            name = instruction.name
            if name == "MARK":
                marks.append(len(stack))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
                first = marks.pop() if name == "TUPLE" else len(stack) - int(name[-1])
                stack[first:] = [1 + sum(stack[first:])]
            elif name in ("APPENDS", "SETITEMS"):
                del stack[marks.pop() :]
            elif name == "BUILD":  # what it changes stays as long as it is
                stack.pop()
            elif name in ("REDUCE", "NEWOBJ"):
                stack[-2:] = [stack[-1]]  # torch.Size is as long as its argument
            else:
                taken = len(instruction.stack_before)
                del stack[len(stack) - taken :]
                stack += [1] * len(instruction.stack_after)
            total += stack[-1] if stack else 0
            if total > _MAX_ITEMS:
                raise LimitError(f"it has tuples of more than {_MAX_ITEMS:,} items in all")
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UnpicklingError(f"its pickle is broken: {error}") from error
