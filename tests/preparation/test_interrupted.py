import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radrep.preparation import pipeline as prepare_module
from radrep.preparation.pipeline import prepare
from radrep.preparation.sources.iu_xray.source import IuXraySource
from tests.whole_way import radrep, start_radrep

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals to processes")


# So many that a run on a quiet machine is not over before it can be stopped.
NUM_FILMS, SHARD_STUDIES = 500, 40


def draw() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300))
    Image.fromarray(pixels.astype(np.uint8)).save(file, format="PNG")
    return file.getvalue()


def write_raw(raw: Path) -> None:
    film = draw()
    rows = []
    for number in range(NUM_FILMS):
        path = raw / "images" / str(number) / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(film)
        rows.append({"id": str(number), "report": "Clear.", "image_path": [f"{number}/0.png"]})
    (raw / "annotation.json").write_text(json.dumps({"train": rows}))


INTERRUPTED = f"""
import sys
from pathlib import Path
from radrep.preparation.sources.iu_xray.source import IuXraySource
from radrep.preparation import pipeline as prepare

prepare.SHARD_STUDIES = {SHARD_STUDIES}
if __name__ == "__main__":
    prepare.prepare(IuXraySource(Path(sys.argv[1])), Path(sys.argv[2]), workers=2)
"""


@pytest.fixture
def running(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """A process that prepares films with two workers and has written a shard."""
    raw = tmp_path / "raw"
    write_raw(raw)
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, script, raw, tmp_path / "out"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        partial = tmp_path / "out.partial"
        deadline = time.monotonic() + 60
        while not list(partial.glob("*.summary.json")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        yield process


def go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finish the run and find the bytes of one that was never stopped."""
    monkeypatch.setattr(prepare_module, "SHARD_STUDIES", SHARD_STUDIES)
    assert list((tmp_path / "out.partial").glob("train-*.arrow"))
    for out in ("out", "whole"):
        result = prepare(IuXraySource(tmp_path / "raw"), tmp_path / out, workers=1)
        assert result.num_images == NUM_FILMS
    assert not (tmp_path / "out.partial").exists()
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(names) == -(-NUM_FILMS // SHARD_STUDIES) + 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_a_new_run_goes_on(running, tmp_path, monkeypatch):
    os.killpg(running.pid, signal.SIGINT)
    # The pipe closes when the last process that holds it, worker or not, has ended.
    _, stderr = running.communicate(timeout=60)
    assert running.returncode != 0
    assert stderr.count("KeyboardInterrupt") == 1
    go_on(tmp_path, monkeypatch)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent_and_a_new_run_goes_on(running, tmp_path, monkeypatch):
    running.kill()
    running.communicate(timeout=60)
    go_on(tmp_path, monkeypatch)


@pytest.mark.slow
def test_sigterm_ends_it_like_ctrl_c(tmp_path):
    write_raw(tmp_path / "raw")
    words = ("prepare", "iu", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    process = start_radrep(*words, "--workers", 2)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out.partial").glob("*.arrow.*.partial")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "stopped"
    assert "resource_tracker" not in stderr
    assert radrep(*words).exit_code == 0


MAX_KILLS = 8


def progress_of(tmp_path: Path) -> int:
    """How far a run has come: a folder, a shard begun, a shard done are a step each."""
    partial = tmp_path / "out.partial"
    names = [path.name for path in partial.glob("*")] if partial.exists() else []
    done = sum(name.endswith(".summary.json") for name in names)
    begun = sum(".arrow." in name and name.endswith(".partial") for name in names)
    return 2 * done + begun + ("recipe.json" in names)


@pytest.mark.slow
def test_kills_at_any_moment_cost_nothing(tmp_path, monkeypatch):
    write_raw(tmp_path / "raw")
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    command = [sys.executable, str(script), str(tmp_path / "raw"), str(tmp_path / "out")]
    generator = np.random.default_rng(0)
    kills = 0
    # Each run comes some steps further than the one before, however slow the machine is, or ends.
    for steps in generator.integers(1, 4, MAX_KILLS):
        before = progress_of(tmp_path)
        with subprocess.Popen(command) as process:
            deadline = time.monotonic() + 120
            while process.poll() is None and progress_of(tmp_path) < before + steps:
                assert time.monotonic() < deadline, "a run came no further in two minutes"
                time.sleep(0.005)
            time.sleep(0.05 * generator.random())
            if process.poll() is None:
                process.kill()
                kills += 1
        if (tmp_path / "out").exists():
            break
    assert kills >= 3, "it was too fast to be killed"
    subprocess.run(command, check=True, timeout=300)
    monkeypatch.setattr(prepare_module, "SHARD_STUDIES", SHARD_STUDIES)
    prepare(IuXraySource(tmp_path / "raw"), tmp_path / "whole", workers=1)
    assert not (tmp_path / "out.partial").exists()
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
