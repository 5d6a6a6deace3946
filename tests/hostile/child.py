"""Runs commands on hostile inputs, each in a fork of one warm process, and says how each ended.

A line of JSON in, {"argv", "folder"}; one out, {"code", "cpu", "mb"}: the exit code or the
negative number of a signal, processor time, and memory beyond that of the warm process.
"""

import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import radrep
from tests.hostile.kinds import MAKE

MAX_CPU, MAX_WALL, MAX_BYTES = 20, 400, 5 * 10**9


def main() -> None:
    for module in pkgutil.walk_packages(radrep.__path__, "radrep."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("tests.hostile.base")
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


def run(argv: list[str], folder: str) -> dict[str, object]:
    base = _memory(1)
    child = os.fork()
    if not child:
        _become(argv, Path(folder))
    deadline = time.monotonic() + MAX_WALL
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    _, status, used = ended
    return {
        "code": os.waitstatus_to_exitcode(status),
        "cpu": round(used.ru_utime + used.ru_stime, 2),
        "mb": round(used.ru_maxrss / 1000 - base),
    }


def _become(argv: list[str], folder: Path) -> None:
    """Run a command in this process, its words in a file, and end it."""
    code = 1
    try:
        output = os.open(folder / "output", os.O_CREAT | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU, MAX_CPU))
        resource.setrlimit(resource.RLIMIT_AS, (int(_memory(0) * 1e6) + MAX_BYTES,) * 2)
        code = _command(argv)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command(argv: list[str]) -> int:
    from radrep.cli import app
    from tests.hostile.base import make_base

    if argv == [MAKE]:
        make_base(Path())
        return 0
    try:
        app(argv)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def _memory(column: int) -> float:
    """Address space (0) or resident memory (1) of this process in MB."""
    pages = Path("/proc/self/statm").read_text().split()[column]
    return int(pages) * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
