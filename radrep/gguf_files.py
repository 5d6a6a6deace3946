"""Headers of GGUF files, held against the size of the file before their reader believes them.

gguf reads a list whose length is a lie until memory ends, and keeps half a kilobyte an item.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of numbers
_WHOLE = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
_TEXT, _LIST = 8, 9
_MAX_COUNT = 10_000  # of blocks, of which each has tensors
_MAX_ITEMS = 3_000_000  # of all lists; the largest vocabularies have 260,000 words, in four lists
_MAX_KEYS, _MAX_TENSORS, _MAX_DIMS = 10_000, 100_000, 4


def check_gguf(path: Path) -> int:
    """How many numbers a file's tensors have.

    Raises ValueError if a header does not fit its file, or is larger than that of any model.
    """
    with path.open("rb") as file:
        return _Header(file, path.stat().st_size).check()


class _Header:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._order = "<"
        self._num_items = 0

    def check(self) -> int:
        if self._file.read(4) != b"GGUF":
            raise ValueError("it does not begin as GGUF files do")
        version = self._number("I")
        if version & 0xFFFF == 0:
            self._order, version = ">", version >> 24
        num_tensors, num_keys = self._number("Q"), self._number("Q")
        if num_tensors > _MAX_TENSORS or num_keys > _MAX_KEYS:
            raise ValueError(f"its header claims {num_tensors} tensors and {num_keys} keys")
        for _ in range(num_keys):
            self._check_key()
        return self._check_tensors(num_tensors)

    def _check_key(self) -> None:
        name = self._take(self._number("Q"))
        kind = self._number("I")
        if name.endswith(b"_count") and kind in _WHOLE:  # of blocks, heads, experts
            count = self._number(_WHOLE[kind])
            if count > _MAX_COUNT:
                raise ValueError(f"{name.decode(errors='replace')} is {count:,}")
        else:
            self._skip_value(kind)

    def _check_tensors(self, count: int) -> int:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        ends, total, all_values = [0], 0, 0
        for _ in range(count):
            self._skip(self._number("Q"))
            num_dims = self._number("I")
            if num_dims > _MAX_DIMS:
                raise ValueError(f"a tensor has {num_dims} dimensions; at most {_MAX_DIMS}")
            num_values = math.prod(self._number("Q") for _ in range(num_dims))
            per_block, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(self._number("I"))]
            taken = num_values // per_block * num_bytes
            ends.append(self._number("Q") + taken)
            total += taken
            all_values += num_values
        left = self._size - self._file.tell()
        if max(total, *ends) > left:
            raise ValueError(f"its tensors take {max(total, *ends):,} bytes and {left:,} are there")
        return all_values

    def _skip_value(self, kind: int, *, in_list: bool = False) -> None:
        if kind in _SIZES:
            self._skip(_SIZES[kind])
        elif kind == _TEXT:
            self._skip(self._number("Q"))
        elif kind == _LIST and not in_list:
            inner, count = self._number("I"), self._number("Q")
            self._num_items += count
            if self._num_items > _MAX_ITEMS:
                raise ValueError(f"its lists have more than {_MAX_ITEMS:,} items")
            if inner in _SIZES:
                self._skip(count * _SIZES[inner])
                return
            for _ in range(count):
                self._skip_value(inner, in_list=True)
        else:
            raise ValueError(f"a value is of the unknown type {kind}")

    def _number(self, kind: str) -> int:
        raw = self._file.read(struct.calcsize(kind))
        if len(raw) < struct.calcsize(kind):
            raise ValueError("its header is cut off")
        (number,) = struct.unpack(f"{self._order}{kind}", raw)
        return int(number)

    def _take(self, count: int) -> bytes:
        self._skip(count)
        self._file.seek(-count, 1)
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        if count > self._size - self._file.tell():
            raise ValueError(f"its header claims {count:,} bytes that are not there")
        self._file.seek(count, 1)
