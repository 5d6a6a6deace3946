"""What an input is, and contents that are bad in any file."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Input:
    """A bad input: `make` writes it into an empty folder and returns a command."""

    kind: str
    name: str
    make: Callable[[Path], list[str]]


class Code:
    """Pickled, it is a command."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch owned",)


ESC = "\x1b]0;owned\x07\x1b[31m"
DEEP = 100_000
MAKE = "make the base"  # a command of the child alone
# Of any text file: what is none, or no whole one.
BROKEN = {
    "empty": b"",
    "nul": b"\0" * 4096,
    "noise": np.random.default_rng(0).bytes(4096),
    "half a character": b'{"a": "\xc3',
    "utf-16 mark": b"\xff\xfe",
    "brackets": b"[" * DEEP,
    "braces": b'{"a":' * DEEP,
    "quotes": b'"' * DEEP,
    "escapes": ESC.encode() * 50,
}
