"""The blocks that entries of the cache lack, made by whichever process is free.

No collective waits for anybody: a block is whole or not there, is made under a lock of its own, and
that of a process which ended is made by another one.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import torch
from filelock import Timeout
from torch import Tensor, distributed

from radrep.progress import Advance, Reporter
from radrep.training.features.entry import Entry, block_name
from radrep.training.features.image_pass import ImagePass


@dataclass(frozen=True)
class MissingBlocks:
    """Numbers of blocks, the entries of one split that lack them, and encoders in their order."""

    numbers: Sequence[int]
    entries: Sequence[Entry]
    images: ImagePass

    @property
    def num_images(self) -> int:
        """Of all these blocks."""
        return sum(len(self.entries[0].images(number)) for number in self.numbers)

    @property
    def num_bytes(self) -> int:
        """That they take on a disk."""
        return 4 * self.num_images * sum(map(math.prod, self.images.shapes))

    def make(self, label: str, reporter: Reporter) -> None:
        """Have all of them there: first those that no other process makes, then what is left."""
        processes, rank = count_processes()
        first = rank * len(self.numbers) // processes  # apart from the others
        order = [*self.numbers[first:], *self.numbers[:first]]
        with reporter.progress(label, self.num_images, "images") as advance:
            with_others = self._make(order, advance, timeout=0)
            if not all(map(self._is_there, with_others)):
                text = "another process makes the last ones; this one waits for them"
                reporter.info("features", text)  # a note of the bar would not be drawn any more
            for number in with_others:
                if self._is_there(number):  # no loader starts for nothing
                    advance(len(self.entries[0].images(number)))
                else:
                    self._make([number], advance, timeout=-1)

    def _is_there(self, number: int) -> bool:
        return all(entry.has(number) for entry in self.entries)

    def _make(self, numbers: Sequence[int], advance: Advance, *, timeout: float) -> list[int]:
        """Make those that are missing; the ones that others hold for so long come back.

        Who waits makes one at a time: two that held some while they wait would wait for ever.
        """
        held: dict[int, ExitStack] = {}
        with_others = list[int]()

        def claim() -> Iterator[range]:
            for number in numbers:
                with ExitStack() as locks:
                    try:
                        for entry in sorted(self.entries):  # in one order in all processes
                            locks.enter_context(entry.alone(block_name(number), timeout=timeout))
                    except Timeout:
                        with_others.append(number)
                        continue
                    images = self.entries[0].images(number)
                    if self._is_there(number):
                        advance(len(images))
                        continue
                    held[number] = all_held.enter_context(locks.pop_all())
                yield images

        with ExitStack() as all_held, closing(self.images.batches(claim())) as batches:
            parts = list[list[Tensor]]()
            for made in batches:
                parts.append(made)
                advance(len(made[0]))
                number = next(iter(held))  # the first that was asked for
                if sum(len(part[0]) for part in parts) == len(self.entries[0].images(number)):
                    for entry, rows in zip(self.entries, zip(*parts, strict=True), strict=True):
                        if not entry.has(number):
                            entry.write(number, torch.cat(rows).numpy())
                    held.pop(number).close()
                    parts = []
        return with_others


def count_processes() -> tuple[int, int]:
    """How many processes train together, and which one this is."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 1, 0
    return distributed.get_world_size(), distributed.get_rank()
