"""A program that writes a checkpoint or shards with a fault at each of its calls, one at a time.

Started by test_write_faults.py below the library made of faults.c, with what to write, a folder to
write into and, for a checkpoint, the run that it is of.
"""

import ctypes
import errno
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from radrep.errors import RadrepError
from radrep.preparation import pipeline
from radrep.preparation.sources.phantom.source import PhantomSource
from radrep.weights import run_folder
from radrep.weights.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    load_training,
    save_checkpoint,
)

SHORT = -1
FAULTS = {  # as faults.c has them, and whether it stays, as on a full disk
    "ENOSPC": (errno.ENOSPC, True),
    "EIO": (errno.EIO, False),
    "EINTR": (errno.EINTR, False),
    "short write": (SHORT, False),
}


def main(what: str, folder: Path, *others: str) -> None:
    """Print, as JSON, how many calls there are and how each kind of fault ended."""
    write, out, check = {"checkpoint": checkpoint, "shards": shards}[what](folder, *others)
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    library.fault_arm(0, 0, 0)
    write()
    counts: dict[str, Any] = {"calls": library.fault_count()}
    library.fault_arm(0, -1, 0)
    whole = {file.name: file.read_bytes() for file in out.iterdir()}
    for name, (fault, stays) in FAULTS.items():
        ends = Counter[str]()
        for call in range(1, counts["calls"] + 1):
            shutil.rmtree(out)
            message = ""
            library.fault_arm(fault, call, stays)
            try:
                write()
            except RadrepError as error:
                message = str(error)
            hit = library.fault_count() >= call
            library.fault_arm(0, -1, 0)
            case = f"{name} at call {call}: {message or 'no error'}"
            check()
            if message:
                assert fault > 0, case
                cause = "no space left" if fault == errno.ENOSPC else os.strerror(fault).lower()
                assert cause in message.lower(), case
                assert fault != errno.ENOSPC or "free" in message, case
                assert str(folder) in message, case
                write()
            elif hit:
                assert fault in (errno.EINTR, SHORT), case
            assert {file.name: file.read_bytes() for file in out.iterdir()} == whole, case
            assert not list(folder.rglob("*.partial")), case
            ends["refused" if message else "written"] += 1
        counts[name] = dict(ends)
    sys.stdout.write(json.dumps(counts) + "\n")


Writer = tuple[Callable[[], object], Path, Callable[[], object]]


def checkpoint(folder: Path, run: str) -> Writer:
    """Writes a checkpoint beside a run's own, which must stay whole."""
    own = Path(shutil.copytree(run, folder / "run", symlinks=True))
    best = find_checkpoint(own)
    loaded = load_checkpoint(best)
    training = load_training(best) | {"optimizer": [torch.arange(50_000), torch.arange(5)]}
    out = run_folder.step_folder(own, 999)

    def write() -> None:
        if out.exists():  # the fault came behind its naming, so --resume takes it
            return
        save_checkpoint(
            out,
            model=loaded.model,
            recipe=loaded.recipe,
            tokenizer=loaded.tokenizer,
            prepared_size=loaded.prepared_size,
            training=training,
        )

    def check() -> None:
        newest, damaged = run_folder.newest_whole(own)
        assert newest is not None
        assert newest.resolve() in (best, out.resolve())
        assert not damaged, damaged

    return write, out, check


def shards(folder: Path) -> Writer:
    """Prepares six phantoms in shards of two."""
    out, pipeline.SHARD_STUDIES = folder / "data", 2

    def write() -> None:
        source = PhantomSource(6, image_size=64, splits=(4 / 6, 1 / 6, 1 / 6))
        pipeline.prepare(source, out, image_size=64, workers=1)

    return write, out, lambda: None


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
