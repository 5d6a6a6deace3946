import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from radrep.data.sources.iu_xray import IuXraySource
from radrep.engine.prepare import prepare

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals to processes")


def draw() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300))
    Image.fromarray(pixels.astype(np.uint8)).save(file, format="PNG")
    return file.getvalue()


INTERRUPTED = """
import sys
from pathlib import Path
from radrep.data.sources.iu_xray import IuXraySource
from radrep.engine.prepare import prepare

if __name__ == "__main__":
    prepare(IuXraySource(Path(sys.argv[1])), Path(sys.argv[2]), workers=2)
"""


@pytest.fixture
def running(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """A process that prepares 300 films with two workers and has begun to write."""
    raw = tmp_path / "raw"
    film = draw()
    rows = []
    for number in range(300):
        path = raw / "images" / str(number) / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(film)
        rows.append({"id": str(number), "report": "Clear.", "image_path": [f"{number}/0.png"]})
    (raw / "annotation.json").write_text(json.dumps({"train": rows}))
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, script, raw, tmp_path / "out"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        images = tmp_path / "out.partial" / "images"
        deadline = time.monotonic() + 60
        while not images.is_dir() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert images.is_dir()
        yield process


def test_ctrl_c_ends_the_workers_and_leaves_nothing(running, tmp_path):
    os.killpg(running.pid, signal.SIGINT)
    # The pipe closes when the last process that holds it, worker or not, has ended.
    _, stderr = running.communicate(timeout=60)
    assert running.returncode != 0
    assert stderr.count("KeyboardInterrupt") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "script.py"]


def test_workers_end_with_a_killed_parent_and_a_new_run_takes_over(running, tmp_path):
    running.kill()
    running.communicate(timeout=60)
    assert (tmp_path / "out.partial").is_dir()
    source = IuXraySource(tmp_path / "raw")
    result = prepare(source, tmp_path / "out", image_size=32, workers=1)
    assert result.num_images == 300
    assert not (tmp_path / "out.partial").exists()
