"""What `radrep generate` of one image costs as a process of its own.

Run: python tests/benchmarks/bench_cold_start.py RUN FILM [--rounds 3]

The peer, in turns with it, is a process that imports torch and does nothing: the floor.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    wall: float
    cpu: float
    megabytes: float


def cost(*command: str) -> Cost:
    start = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, *command], os.environ)
    _, status, used = os.wait4(pid, 0)
    assert status == 0, f"{command} ended with {status}"
    seconds = used.ru_utime + used.ru_stime
    return Cost(time.perf_counter() - start, seconds, used.ru_maxrss / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("film")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    commands = {
        "radrep generate": ("-m", "radrep", "generate", given.film, "--checkpoint", given.run),
        "import torch": ("-c", "import torch"),
    }
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(given.rounds):
        for name, command in commands.items():
            found[name].append(cost(*command))
    for name, costs in found.items():
        wall, cpu, size = (
            statistics.median(getattr(each, key) for each in costs)
            for key in ("wall", "cpu", "megabytes")
        )
        print(f"{name:16} {wall:6.2f} s   {cpu:6.2f} s CPU   {size:6.0f} MB")


if __name__ == "__main__":
    main()
