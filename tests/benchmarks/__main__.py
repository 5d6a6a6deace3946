"""Measure radrep beside its peers and write tests/benchmarks/README.md.

Run: python -m tests.benchmarks [--only NAME] [--repeats N]
"""

import argparse
import importlib
import importlib.metadata
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
from llvmlite.binding import get_host_cpu_features

from tests.benchmarks.rows import Row, show

SUITES = {
    "scan": "bench_selective_scan",
    "encoder": "bench_encoder",
    "csr_lmca": "bench_csr_lmca",
    "emrrg": "bench_emrrg",
    "scores": "bench_eval",
    "prepare": "bench_prepare",
    "films": "bench_films",
}
VERSIONS = (
    "radrep", "torch", "numba", "numpy", "timm", "transformers", "mambapy", "pycocoevalcap",
    "pillow",
)  # fmt: skip
FEATURES = ("avx2", "avx512f", "avx512bf16", "amx-bf16")
HEAD = """# Speed beside other code

Made by `python -m tests.benchmarks`; do not edit. Each row is one run that measured both sides in
turn, medians of {repeats} (what takes over 10 seconds was run once); the last column is how many
times as fast radrep is (below 1: slower). Speed wanders with what else the machine does: ratios are
what to compare, and only beside rows of the same table.

{machine}

{versions}
"""
COLUMNS = ("work", "radrep", "peer", "its time", "ratio")


def machine() -> str:
    """Cores, threads, features of the CPU, memory and the day."""
    found = get_host_cpu_features()
    features = [name for name in FEATURES if found.get(name)]
    memory, threads = psutil.virtual_memory().total / 2**30, torch.get_num_threads()
    return (
        f"{psutil.cpu_count()} CPU cores ({platform.machine()}: {', '.join(features) or 'none'} of "
        f"{', '.join(FEATURES)}), {threads} thread{'s' * (threads != 1)}, {memory:.0f} GiB, "
        f"{platform.system()}, {datetime.now(UTC):%Y-%m-%d}; load at the start "
        f"{psutil.getloadavg()[0]:.1f}."
    )


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in VERSIONS:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found) + "."


def page(head: str, rows: Sequence[Row]) -> str:
    table = [COLUMNS, ["---"] * len(COLUMNS), *(row.cells for row in rows)]
    return head + "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=SUITES, help="print, and write nothing")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each side")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that all runs")
    parser.add_argument("--out", type=Path, help="instead of tests/benchmarks/README.md")
    arguments = parser.parse_args(words)
    chosen = arguments.only or list(SUITES)
    head = HEAD.format(repeats=arguments.repeats, machine=machine(), versions=versions())
    rows: list[Row] = []
    start = time.monotonic()
    for number, name in enumerate(chosen, 1):
        print(f"\n{name} ({number}/{len(chosen)}, {time.monotonic() - start:.0f} s)", flush=True)
        suite = importlib.import_module(f"tests.benchmarks.{SUITES[name]}")
        rows += show(suite.rows(arguments.repeats, arguments.tiny))
    out = arguments.out
    if out is None and not (arguments.only or arguments.tiny):
        out = Path(__file__).with_name("README.md")
    if out is not None:
        out.write_text(page(head, rows), encoding="utf-8")
        print(f"\n{out} written, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
