"""A disk that is full or broken, and calls that are cut short, at each write of a checkpoint and of
shards: what was there stays whole, the error names its cause, and the work goes on afterwards.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler, to fail the writes of Rust and C++ too")
    out = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).parent / "crash" / "faults.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", out, source, "-ldl"], check=True)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("what", ["checkpoint", "shards"])
def test_every_fault_of_a_write_is_survived(
    what: str,
    library: Path,
    trained_run: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    run = [trained_run] if what == "checkpoint" else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.write_faults", what, tmp_path, *run],
        env=os.environ | {"LD_PRELOAD": str(library), "FAULT_ROOT": str(tmp_path)},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    calls = counts.pop("calls")
    record_property("counted", f"{what}: {calls} calls; {counts}")
    assert calls > 10
    for ends in counts.values():
        assert sum(ends.values()) == calls
    assert counts["ENOSPC"] == {"refused": calls}
