"""Bad inputs at the front door: no traceback, no hang, no gigabytes, no leak."""

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.child import MAX_CPU
from tests.hostile.inputs import all_inputs
from tests.hostile.kinds import MAKE, Input

_MAX_MB = 2000  # beyond the warm process
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(scope="module")
def warm() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.hostile.child"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=Path(__file__).parents[1], **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def base(warm: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    assert ask(warm, [MAKE], folder)["code"] == 0, (folder / "output").read_text()
    return folder


def ask(warm: subprocess.Popen[str], argv: list[str], folder: Path) -> dict[str, Any]:
    """Run a command in a folder; how it ended."""
    assert warm.stdin is not None
    assert warm.stdout is not None
    warm.stdin.write(json.dumps({"argv": argv, "folder": str(folder)}) + "\n")
    warm.stdin.flush()
    ended: dict[str, Any] = json.loads(warm.stdout.readline())
    return ended


def problem_of(given: Input, warm: subprocess.Popen[str], folder: Path) -> str:
    """What is wrong with how a command ended, "" for nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries that write bad inputs warn of them
        argv = given.make(folder)
    ended = ask(warm, argv, folder)
    said = (folder / "output").read_text(encoding="utf-8", errors="replace")
    if ended["code"] not in (0, 1, 2) or "Traceback" in said:
        return f"{ended} {said[-1500:]}"
    if ended["cpu"] > MAX_CPU or ended["mb"] > _MAX_MB:
        return f"{ended}"
    if found := _CONTROL.search(said):
        return f"{found[0]!r} reaches the terminal: {said[-300:]!r}"
    if list(folder.rglob("owned")) or "root:" in said:
        return "it ran code, or read a file outside"
    return "" if said.strip() else "it says nothing"


@pytest.mark.slow
def test_no_bad_input_crashes_hangs_or_fills_the_memory(
    tmp_path: Path, warm: subprocess.Popen[str], base: Path
) -> None:
    inputs = list(all_inputs(base))
    assert len(inputs) >= 489
    problems = {}
    for number, given in enumerate(inputs):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        if problem := problem_of(given, warm, folder):
            problems[f"{given.kind}: {given.name}"] = problem
    assert not problems, "\n\n".join(f"{name}\n  {text}" for name, text in problems.items())
