"""A warm interpreter that runs radrep commands in forks of itself, for test_kills.py.

It has only imported what the commands import, and computed nothing: a fork does all that a command
does but the seconds of starting Python, and a kill ends it like any process.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import radrep


class Warm:
    """Starts commands in forks of another process; `with` ends it."""

    def __enter__(self) -> "Warm":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.warm"],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "500"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, words: Sequence[str | Path], log: Path, **env: str) -> int:
        """Start a command, with a log of what it prints, and one of its errors; its id."""
        return self._ask({"words": [*map(str, words)], "log": str(log), "env": env})

    def wait(self, process: int) -> int:
        """Wait for the end of a command; its exit code, negative if a signal ended it."""
        return self._ask({"wait": process})

    def _ask(self, request: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _serve() -> None:
    for module in pkgutil.walk_packages(radrep.__path__, "radrep."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("datasets", "timm", "transformers", "accelerate", "typer.testing"):
        importlib.import_module(name)
    from radrep.preparation import pipeline
    from radrep.reporting import parts, write_folder
    from radrep.training.features import entry, image_pass

    pipeline.SHARD_STUDIES = 4  # several shards of few studies
    entry.BLOCK = image_pass._BATCH  # several blocks of few images
    write_folder._part_size = lambda *_: 2  # and several parts of few reports, which have a time
    parts.datetime = SimpleNamespace(now=lambda zone: datetime(2026, 1, 1, tzinfo=zone))
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            _answer(os.waitstatus_to_exitcode(status))
        elif process := os.fork():
            _answer(process)
        else:
            _run(request["words"], request["log"], request["env"])


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _run(words: list[str], log: str, env: dict[str, str]) -> NoReturn:
    from radrep.cli import run

    code = 1
    try:
        os.environ.update(env)
        sys.argv = ["radrep", *words]
        new = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        for number, name, mode in ((0, os.devnull, 0), (1, log, new), (2, f"{log}.err", new)):
            os.dup2(os.open(name, mode), number)
        run()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
