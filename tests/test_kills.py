"""kill -9 at random moments of every command that writes: nothing is lost.

Each command is started, killed, started again as its messages advise, and so on; what it leaves
once it may end must have the bytes of a run that nobody disturbed. 1,000 kills: pytest -m soak
"""

import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.crash.contents import name_differences, read_contents
from tests.crash.warm import Warm
from tests.saliency.test_sdam import write_discriminator
from tests.whole_way import TINY, draw_prepared, radrep, write_films, write_recipe

_KILLS_OF_A_ROUND = 12  # then it may end
Words = list[str | Path]


@dataclass
class Writer:
    """A command that is killed again and again, each round in a new folder."""

    name: str
    share: float  # of all kills
    words: Callable[[Path], Words]
    kept: Callable[[Path], Path]  # the file or folder whose bytes count
    again: Words = field(default_factory=list)  # what a second start adds
    ranks: int = 1
    kills: int = 0
    rounds: int = 0
    seconds: float = 0.0  # that it took when it last came to its end


@dataclass
class Killer:
    """Kills writers, and counts."""

    warm: Warm
    folder: Path
    random: random.Random
    losses: list[str] = field(default_factory=list)

    def undisturbed(self, writer: Writer) -> dict[str, Any]:
        """What a writer leaves that nobody kills."""
        folder = self._new("whole")
        code, log = self._run(writer, folder, writer.words(folder), None)
        assert code == 0, f"{writer.name}: {log}"
        return read_contents(writer.kept(folder))

    def disturb(self, writer: Writer, whole: dict[str, Any], kills: int) -> None:
        """Kill a writer so many times; what goes wrong is one of the losses."""
        while writer.kills < kills:
            writer.rounds += 1
            folder, words, delays = self._new("round"), writer.words, list[float]()
            code, log, added = -9, "", Words()
            while code == -9 or (code == 2 and added and "without --resume" in log):
                added = writer.again if code == -9 and delays else []
                last = len(delays) >= _KILLS_OF_A_ROUND or writer.kills >= kills
                delays.append(self.random.uniform(0, writer.seconds))
                after = None if last else delays[-1]
                code, log = self._run(writer, folder, [*words(folder), *added], after)
                writer.kills += code == -9
            problem = (
                log[-500:] if code else name_differences(read_contents(writer.kept(folder)), whole)
            )
            if problem:
                seconds = ", ".join(f"{delay:.2f}" for delay in delays)
                self.losses.append(f"{writer.name}, killed after {seconds} s: {problem}")

    def _new(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir()
        return self.folder / name

    def _run(
        self, writer: Writer, folder: Path, words: Words, after: float | None
    ) -> tuple[int, str]:
        """The exit code and output of a command, killed after so many seconds; None: not killed."""
        log, launch = folder / "log", _launch(writer.ranks)
        started, begin = list[int](), time.monotonic()
        for rank in range(writer.ranks):
            env = launch | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if launch else {})
            env["RADREP_CACHE"] = str(folder / "cache")
            started.append(self.warm.start(words, log if rank == 0 else folder / "log-1", **env))
        while not (ended := all(map(_has_ended, started))):
            if after is not None and time.monotonic() - begin > after:
                break
            time.sleep(0.005)
        if ended:
            writer.seconds = time.monotonic() - begin
        else:
            for process in self.random.sample(started, writer.ranks):
                os.kill(process, signal.SIGKILL)  # of several, the launcher ends the others
                time.sleep(self.random.uniform(0, 0.05) if launch else 0)
        code = min(self.warm.wait(process) for process in started)
        errors = folder / "log.err"
        return code, " ".join(errors.read_text().split()) if errors.is_file() else ""


def _has_ended(process: int) -> bool:
    """Whether a process is no more, but for its exit code that nobody has asked for yet."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _launch(ranks: int) -> dict[str, str]:
    """The environment of several processes, as torchrun makes it."""
    if ranks == 1:
        return {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "ACCELERATE_USE_CPU": "true"}
    return sizes | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> list[Writer]:
    def folder(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    prepared = draw_prepared(folder("data") / "data", 12)
    train = {"save_every_steps": 1, "batch_size": 2}
    recipe = write_recipe(folder("train"), prepared, train=train)
    backbone = TINY["model"]["backbone"] | {"frozen": True}
    decode = TINY["decode"] | {"select": None, "edit": None}
    cached = write_recipe(
        folder("frozen"), prepared, model={"backbone": backbone}, train={"epochs": 1}, decode=decode
    )
    masks = folder("masks")
    assert radrep("train", write_discriminator(masks, prepared)).exit_code == 0
    report = folder("report")
    assert radrep("train", write_recipe(report, prepared)).exit_code == 0
    films = folder("films")
    write_films(prepared, films, num=8)

    def saliency(new: Path) -> Words:
        if not (new / "data").exists():
            shutil.copytree(prepared, new / "data")
        return ["prepare", "saliency", "--data", new / "data", "--checkpoint", masks / "run"]

    return [
        Writer(
            "train", 0.35, lambda new: ["train", recipe, "--out", new / "run"],
            lambda new: new / "run", again=["--resume"],
        ),
        Writer(
            "train, two processes", 0.1, lambda new: ["train", recipe, "--out", new / "run"],
            lambda new: new / "run", again=["--resume"], ranks=2,
        ),
        Writer(
            "prepare", 0.2,
            lambda new: ["prepare", "phantom", "--num-studies", "30", "--image-size", "64",
                         "--workers", "1", "--out", new / "data"],
            lambda new: new / "data",
        ),
        Writer("prepare saliency", 0.15, saliency, lambda new: new / "data"),
        Writer(
            "feature cache", 0.1,
            lambda new: ["train", cached, "--out", _next(new)], lambda new: new / "cache/features",
        ),
        Writer(
            "generate", 0.1,
            lambda new: ["generate", films, "--checkpoint", report / "run",
                         "--out", new / "reports"],
            lambda new: new / "reports",
        ),
    ]  # fmt: skip


def _next(new: Path) -> Path:
    return new / f"run-{len(list(new.glob('run-*')))}"


@pytest.fixture
def killer(tmp_path: Path) -> Iterator[Killer]:
    seed = int(os.environ.get("RADREP_SEED", "0"))
    with Warm() as warm:
        yield Killer(warm, tmp_path, random.Random(seed))


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what has ended")
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(50, marks=pytest.mark.slow),
        pytest.param(int(os.environ.get("RADREP_KILLS", "1000")), marks=pytest.mark.soak),
    ],
)
def test_no_kill_loses_anything(
    kills: int,
    killer: Killer,
    writers: list[Writer],
    record_property: Callable[[str, object], None],
) -> None:
    for writer in writers:
        killer.disturb(writer, killer.undisturbed(writer), round(kills * writer.share))
    counted = ", ".join(f"{w.name} {w.kills} in {w.rounds} rounds" for w in writers)
    num_kills = sum(writer.kills for writer in writers)
    record_property("counted", f"{num_kills} kills ({counted}), {len(killer.losses)} losses")
    assert not killer.losses, "\n".join(killer.losses)
    assert num_kills >= kills
