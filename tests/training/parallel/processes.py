"""Processes that train together on this machine's CPU, forked: nothing is imported again."""

import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState

from tests.whole_way import radrep


def start(folder: Path, count: int, work: Callable[[int], int], per_node: int = 0) -> list[int]:
    """Fork processes with a launcher's variables; their ids. What they write is in FOLDER/RANK."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder.mkdir(parents=True, exist_ok=True)
    local = per_node or count
    started = []
    for rank in range(count):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            process = os.fork()
        if process:
            started.append(process)
            continue
        code = 1
        try:
            launch = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank % local}
            launch |= {"LOCAL_WORLD_SIZE": local, "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in launch.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
            for state in (PartialState, AcceleratorState):
                state._shared_state.clear()
            with (folder / str(rank)).open("w") as file:
                sys.stdout = sys.stderr = file
                try:
                    code = work(rank)
                except BaseException:
                    traceback.print_exc()
        finally:
            os._exit(code)
    return started


def wait(started: list[int]) -> list[int]:
    """Exit codes, negative for a signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]


def run(folder: Path, count: int, work: Callable[[int], int], per_node: int = 0) -> None:
    """Fork processes and wait for them; AssertionError with what they wrote if one fails."""
    codes = wait(start(folder, count, work, per_node))
    assert codes == [0] * count, "\n".join(said(folder, rank) for rank in range(count))


def said(folder: Path, rank: int) -> str:
    """What a process wrote."""
    return f"{rank}: {(folder / str(rank)).read_text()}"


def command(*words: str | Path) -> Callable[[int], int]:
    """The work of a process that is a command of radrep."""

    def work(_: int) -> int:
        result = radrep(*words)
        sys.stderr.write(f"{result.output}{result.exception}")
        return int(result.exit_code)

    return work
