"""Work in numbered blocks that processes take from a folder, on one machine or on many.

No collective waits for anybody: a block is whole or not there, is made under a lock of its own, and
that of a process which ended is made by another one.
"""

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor, distributed

from radrep.atomic import atomic_file, locked
from radrep.progress import Reporter


@dataclass(frozen=True)
class SharedBlocks:
    """So many arrays, made by whichever process is free."""

    folder: Path
    count: int
    make: Callable[[int], np.ndarray]
    whole: Path  # a file that is there, in a whole entry, once nobody needs them any more

    def share(self, label: str, reporter: Reporter) -> None:
        """Make the blocks that are neither there nor in the hands of another process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        processes, rank = count_processes()
        first = rank * self.count // processes  # apart from the others
        with reporter.progress(label, self.count, "blocks") as advance:
            for number in (*range(first, self.count), *range(first)):
                # Another process makes it, or has removed all of them behind the whole.
                with suppress(Timeout, FileNotFoundError):
                    self._make(number, timeout=0)
                advance()

    def read(self) -> Generator[Tensor, None, None]:
        """All blocks in order, also those that others still make."""
        for number in range(self.count):
            self._make(number, timeout=-1)
            yield torch.from_numpy(np.load(self.file(number)))

    def missing(self) -> list[int]:
        """The blocks that are not there."""
        return [number for number in range(self.count) if not _is_whole(self.file(number))]

    def _make(self, number: int, *, timeout: float) -> None:
        if not self.whole.is_file():
            write_missing(self.file(number), lambda: self.make(number), timeout=timeout)

    def file(self, number: int) -> Path:
        """Where a block is, or will be."""
        return self.folder / f"{number:06d}.npy"


def write_missing(file: Path, make: Callable[[], np.ndarray], *, timeout: float = -1) -> None:
    """Write a block that is not there; filelock.Timeout where another process does for so long."""
    if _is_whole(file):
        return
    with locked(file.with_suffix(".lock"), timeout=timeout):
        if not _is_whole(file):
            block = make()
            with atomic_file(file) as partial, partial.open("wb") as opened:
                header = np.lib.format.header_data_from_array_1_0(block)
                np.lib.format.write_array_header_1_0(opened, header)
                opened.write(block.data)  # np.save does not say that a disk is full


def _is_whole(file: Path) -> bool:
    """Whether a block is there, as long as its header has it."""
    try:
        np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return True


def count_processes() -> tuple[int, int]:
    """How many processes train together, and which one this is."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 1, 0
    return distributed.get_world_size(), distributed.get_rank()
