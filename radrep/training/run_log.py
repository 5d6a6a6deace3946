"""What a run writes down about itself: environment, metrics, trackers."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_wandb_available

from radrep.atomic import atomic_write_text
from radrep.errors import RecipeError

METRICS = "metrics.jsonl"
ENVIRONMENT = "environment.json"


class MetricsLog:
    """The lines of metrics.jsonl: one JSON object a line, each with its step.

    Args:
        path: The file.
        upto_step: Lines of later steps, which a resumed run will write again, are dropped.
    """

    def __init__(self, path: Path, upto_step: int) -> None:
        self._path = path
        if path.is_file():
            rows = []
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break  # a kill may have cut the last line
            kept = [json.dumps(row) for row in rows if row["step"] <= upto_step]
            atomic_write_text(path, "".join(f"{line}\n" for line in kept))

    def write(self, step: int, row: Mapping[str, object]) -> None:
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")


def check_tracker(name: str) -> None:
    """Check that a tracker's package is there.

    Raises:
        RecipeError: If it is not.
    """
    available = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    if name != "none" and not available[name]():
        text = f"{name} is not installed. Install it with: pip install 'radrep[loggers]'"
        raise RecipeError("this run", [("train.logger", text)])


def describe_environment(accelerator: Accelerator) -> dict[str, object]:
    """Versions, device and commit, as environment.json keeps them."""
    packages = (
        "radrep", "torch", "timm", "transformers", "peft", "accelerate", "numba", "numpy",
        "mamba-ssm",
    )  # fmt: skip
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "device": device.type,
        "device_name": name or platform.machine(),
        "num_processes": accelerator.num_processes,
        "num_threads": torch.get_num_threads(),
        "precision": accelerator.mixed_precision,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The git commit of radrep's own source, where it is run from a checkout."""
    folder = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
