"""Time of loading a checkpoint with and without its checksums, by turns, and the share they take.

Run: python tests/benchmarks/bench_checkpoint.py [--repeats 9]

The shipped CPU recipe's checkpoint, of some 30 MB, and one of 600 MB. Weights are hashed in a
thread beside the load: with a core for it the wall time is that of the thread that loads, which is
measured by itself since other work may run on the machine; without one it is the CPU time of both.
The first load, which compiles and imports, is not counted. The peer is the same load with
RADREP_VERIFY=0.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from radrep.build import build_model
from radrep.data.manifest import VERIFY, hash_file
from radrep.data.tokenizer import Tokenizer
from radrep.recipe.load import load_recipe
from radrep.weights.checkpoint import load_checkpoint, save_checkpoint
from radrep.weights.run_folder import WEIGHTS

WORDS = Tokenizer.build((f"word{i:04d}" for i in range(1000)), min_count=1, cleaner="plain")
RECIPE = ("csr_lmca_iu_cpu", "model.backbone.weights=none")
LARGE = (
    "model.transformer.dim=1024", "model.transformer.num_layers=4", "model.transformer.ff_dim=4864",
)  # fmt: skip


CLOCKS = {
    "wall": time.perf_counter,
    "CPU of the thread that loads": time.thread_time,
    "CPU of both": time.process_time,
}


def timed(work: Callable[[], object]) -> tuple[float, ...]:
    """Seconds by each clock."""
    before = [clock() for clock in CLOCKS.values()]
    work()
    return tuple(clock() - start for clock, start in zip(CLOCKS.values(), before, strict=True))


def measure(folder: Path, repeats: int) -> None:
    """Print the times of one checkpoint, and their ratio."""
    size = (folder / WEIGHTS).stat().st_size / 1e6
    load_checkpoint(folder)
    times: dict[str, list[tuple[float, ...]]] = {"1": [], "0": []}
    for _ in range(repeats):
        for verify, found in times.items():
            os.environ[VERIFY] = verify
            found.append(timed(lambda: load_checkpoint(folder)))
    _, hashing, _ = timed(lambda: hash_file(folder / WEIGHTS))
    print(f"{size:.0f} MB, hashed alone in {hashing:.3f} s ({size / hashing:.0f} MB/s)")
    for column, name in enumerate(CLOCKS):
        for kind, choose in (("least", min), ("median", statistics.median)):
            verified, bare = (choose(row[column] for row in times[v]) for v in "10")
            print(
                f"  {name}, {kind} of {repeats}: {verified:.3f} s, without {bare:.3f} s: "
                f"{verified / bare - 1:+.1%}"
            )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name, changes in (("shipped", ()), ("large", LARGE)):
            recipe = load_recipe(RECIPE[0], [RECIPE[1], *changes])
            torch.manual_seed(0)
            model = build_model(recipe, WORDS.vocabulary)
            folder = Path(scratch, name)
            save_checkpoint(folder, model=model, recipe=recipe, tokenizer=WORDS, prepared_size=256)
            print(name, end=": ")
            measure(folder, options.repeats)


if __name__ == "__main__":
    main()
