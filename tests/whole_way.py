"""A recipe and phantoms small enough to train in seconds, for the tests that run commands."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from radrep.cli import app
from radrep.data.arrow import encode_png
from radrep.data.manifest import PREPARED
from radrep.data.store import PreparedStudies
from radrep.preparation.pipeline import prepare
from radrep.preparation.sources.phantom.source import PhantomSource

TINY: dict[str, Any] = {
    "task": "train",
    "data": {
        "image_size": 64,
        "tokenizer": {"cleaner": "plain", "min_count": 1},
        "num_workers": 0,
        "max_views": 1,
    },
    "model": {
        "name": "csr_lmca",
        "backbone": {"name": "test_resnet.r160_in1k", "weights": "none"},
        "enhancer": {"dim": 16, "num_layers": 1, "state_dim": 4},
        "memory": {"size": 16, "top_k": 4},
        "transformer": {"dim": 16, "num_layers": 1, "num_heads": 2, "ff_dim": 16},
    },
    "optim": {
        "name": "adam",
        "lr": 7e-4,
        "encoder_lr": 5e-5,
        "betas": [0.9, 0.98],
        "eps": 1e-9,
        "weight_decay": 5e-5,
        "amsgrad": True,
        "min_lr": 1e-6,
        "clip_norm": 1.0,
    },  # fmt: skip
    "train": {"epochs": 2, "batch_size": 8, "log_every": 1, "seed": 9233, "monitor": "val/loss"},
    "decode": {"method": "greedy", "max_new_tokens": 12},
}


def draw_prepared(folder: Path, num: int = 48, **texts: Any) -> Path:
    """Prepare phantoms, 48 of them: 32 to train, 8 and 8 to validate and test."""
    source = PhantomSource(num, image_size=64, splits=(4 / 6, 1 / 6, 1 / 6), **texts)
    return prepare(source, folder, image_size=64, workers=1).out


def write_films(prepared: Path, folder: Path, split: str = "train", num: int = 4) -> list[Path]:
    """The first images of the first studies of a split, as files named by the study."""
    folder.mkdir(exist_ok=True)
    studies = PreparedStudies(prepared, split)
    films = []
    for index in range(min(num, len(studies))):
        films.append(folder / f"{studies[index].id}.png")
        films[-1].write_bytes(encode_png(studies.read_images(index)[0]))
    return films


def without_split(prepared: Path, copy: Path, split: str) -> Path:
    """A copy of a prepared folder that never had the studies of a split."""
    shutil.copytree(prepared, copy)
    record = json.loads((copy / PREPARED).read_text())
    for shard in record["shards"]:
        if shard["split"] == split:
            (copy / shard["name"]).unlink()
    record.pop("sha256", None)  # as of an older radrep
    record["shards"] = [shard for shard in record["shards"] if shard["split"] != split]
    (copy / PREPARED).write_text(json.dumps(record))
    return copy


def write_recipe(folder: Path, prepared: Path, **sections: dict[str, Any]) -> Path:
    """The tiny recipe as a file in a folder, with keys of its sections changed."""
    recipe = json.loads(json.dumps(TINY))
    recipe["out"] = str(folder / "run")
    recipe["data"]["prepared"] = str(prepared)
    for name, changes in sections.items():
        recipe[name] = recipe.get(name, {}) | changes
    frozen = recipe["model"].get("backbone", {}).get("frozen", False)
    recipe["data"].setdefault("random_crop", not frozen)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def radrep(*words: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def start_radrep(*words: str | Path) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "radrep", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_midway(
    command: str, recipe: Path, *, lines: int, number: signal.Signals = signal.SIGKILL
) -> tuple[int, str]:
    """Start a training, signal it once metrics.jsonl has so many lines; its exit code and words."""
    process = start_radrep(command, recipe)
    metrics = recipe.parent / "run/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < lines:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    return process.returncode, told


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
