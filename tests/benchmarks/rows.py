"""A measured work beside its peer, as the tables of the benchmarks have it."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llvmlite.binding import get_host_cpu_features

NO_BFLOAT16 = "this CPU does not compute in bfloat16"
_LONG = 10.0  # seconds: what takes longer is run once


@dataclass(frozen=True)
class Row:
    """Medians in seconds; None, with the reason, where the peer cannot be measured here."""

    work: str
    peer: str
    ours: float | None = None
    theirs: float | None = None
    why_not: str = ""

    @property
    def cells(self) -> list[str]:
        """Work, ours, peer, its time, how many times as fast ours is."""
        if self.ours is None or self.theirs is None:
            return [self.work, "", self.peer, f"not measured: {self.why_not}", ""]
        ratio = f"{self.theirs / self.ours:.2f}x"
        return [self.work, _shown(self.ours), self.peer, _shown(self.theirs), ratio]


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; without it torch takes minutes for a step."""
    found = get_host_cpu_features()
    return bool(found.get("avx512bf16") or found.get("amx-bf16"))


def _shown(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def compare(
    work: str,
    ours: Callable[[], object],
    peer: str,
    theirs: Callable[[], object],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """Run both in turn, after a warm-up: what else the machine does then falls on both.

    Of a side whose warm-up takes long, that is its time.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for run, found in zip((ours, theirs), times, strict=True):
            if repeat and max(found) > _LONG:
                continue
            start = clock()
            run()
            if repeat == 1:
                found.clear()
            found.append(clock() - start)
    return Row(work, peer, *map(statistics.median, times))


def show(rows: Iterable[Row]) -> list[Row]:
    """Print each row when it is there, and return all."""
    found = []
    for row in rows:
        print("  ".join(cell for cell in row.cells if cell), flush=True)
        found.append(row)
    return found
