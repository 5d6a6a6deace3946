"""A run's folder, environment, metrics, trackers and speed."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather
from torch import nn

from radrep.atomic import atomic_write_text, check_output, make_folder, sync_folder
from radrep.errors import CheckpointError, RecipeError
from radrep.hub import hub_sources
from radrep.json_text import load_json
from radrep.models.base import TrainableModel
from radrep.modules.language_model import language_part
from radrep.ops.selective_scan.choose import BackendChoice, select_backend
from radrep.progress import Reporter
from radrep.recipe.load import dump_recipe
from radrep.recipe.recipe import Recipe
from radrep.training.parallel.environment import recorded_variables
from radrep.training.validation import SampleReport
from radrep.weights.files import write_error
from radrep.weights.run_folder import METRICS, add_seconds, is_unstarted

_TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb"}  # name in recipes: package
_STEP = "train/global_step"  # of wandb, the axis of all numbers


def check_new_run(recipe: Recipe, out: Path | None) -> None:
    """Raise RadrepError, before any work, if the folder of a new run cannot be made."""
    check_output(out or recipe.out, "--out", folder=True, new=False)
    if out is not None and out.is_dir() and any(out.iterdir()) and not is_unstarted(out):
        raise taken_error(recipe, out)


def claim_run(recipe: Recipe, out: Path | None) -> Path:
    """Make a new run's folder; CheckpointError if `out` holds something already.

    Without `out` it is the recipe's, with -2, -3, ... where a run is already.
    """
    wanted = out or recipe.out
    for number in range(1, 10_000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if folder.is_dir() and not any(folder.iterdir()):
            return folder
        make_folder(folder.parent)
        try:
            folder.mkdir()
        except FileExistsError as error:
            if out is not None:
                raise taken_error(recipe, out) from error
            continue
        sync_folder(folder.parent)
        return folder
    raise CheckpointError(f"{wanted} and its 9,999 successors exist; name another --out")


def taken_error(recipe: Recipe, out: Path) -> CheckpointError:
    """The error of a folder that has something before a new run, new folds or seeds are made."""
    return CheckpointError(
        f"{out} exists already and is not overwritten; name another --out, or resume it with: "
        f"radrep {recipe.task} {shlex.quote(str(out))} --resume"
    )


class MetricsLog:
    """The lines of metrics.jsonl: one JSON object per line, each with its step.

    Lines after `upto_step`, which a resumed run writes again, are dropped.
    """

    def __init__(self, path: Path, upto_step: int) -> None:
        self._path = path
        if path.is_file():
            kept = ""
            for line in path.read_bytes().splitlines():
                try:
                    row = load_json(line)
                    step = int(row["step"])
                except (ValueError, TypeError, LookupError):
                    break  # a kill may have cut the last line
                kept += json.dumps(row) + "\n" if step <= upto_step else ""
            atomic_write_text(path, kept)

    def write(self, step: int, row: Mapping[str, object]) -> None:
        """Append one line; CheckpointError if the disk does not take it."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **row}) + "\n")
        except OSError as error:
            raise write_error(self._path, error) from error

    def sync(self) -> None:
        """Have the disk hold the lines so far: a checkpoint of their step may come after them."""
        if self._path.is_file():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
            sync_folder(self._path.parent)


class RunLog:
    """metrics.jsonl and, where the recipe names one, a tracker; both in the run's own folder."""

    def __init__(self, folder: Path, recipe: Recipe, upto_step: int) -> None:
        self._metrics = MetricsLog(folder / METRICS, upto_step)
        self._folder, self._counted = folder, time.monotonic()
        self._tracker: Any = None
        self._is_wandb = recipe.train.logger == "wandb"
        if self._is_wandb:
            self._tracker = _start_wandb(folder, recipe)
        elif recipe.train.logger == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            self._tracker = SummaryWriter(folder / "tensorboard", purge_step=upto_step + 1)
            self._tracker.add_text("recipe", f"```yaml\n{dump_recipe(recipe)}\n```", upto_step)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Log one row of numbers."""
        self._metrics.write(step, row)
        if self._tracker is None:
            return
        named = {name if "/" in name else f"train/{name}": value for name, value in row.items()}
        if self._is_wandb:
            self._tracker.log({_STEP: step, **named})
        else:
            for name, value in named.items():
                self._tracker.add_scalar(name, value, step)

    @property
    def shows_samples(self) -> bool:
        """Whether reports of validation are shown: by TensorBoard."""
        return self._tracker is not None and not self._is_wandb

    def write_samples(self, step: int, samples: Sequence[SampleReport]) -> None:
        """Log reports of validation, each with its reference and its images under heatmaps."""
        for sample in samples:
            name = f"validation/{sample.id}"
            text = f"**reference**\n\n{sample.reference}\n\n**generated**\n\n{sample.generated}"
            self._tracker.add_text(name, text, step)
            self._tracker.add_image(name, sample.picture, step, dataformats="HWC")

    def sync(self) -> None:
        """Have the disk hold metrics.jsonl, and environment.json how long the run was trained."""
        self._metrics.sync()
        before, self._counted = self._counted, time.monotonic()
        add_seconds(self._folder, self._counted - before)

    def close(self) -> None:
        """End the tracker's run."""
        if self._tracker is not None:
            self._tracker.finish() if self._is_wandb else self._tracker.close()


def _start_wandb(folder: Path, recipe: Recipe) -> Any:
    """The run at Weights & Biases, a resumed one under its id; RecipeError if it cannot start."""
    import wandb

    id_file = folder / "wandb" / "radrep-run-id.txt"
    make_folder(id_file.parent)
    if not id_file.is_file():
        atomic_write_text(id_file, secrets.token_hex(8))
    try:
        tracker = wandb.init(
            project="radrep",
            name=folder.name,
            id=id_file.read_text("utf-8").strip(),
            resume="allow",
            dir=folder,
            config=recipe.model_dump(mode="json"),
            settings=wandb.Settings(console="off"),  # messages may name studies
        )
    except wandb.Error as error:
        text = f"wandb could not start ({error}): log in with wandb login, set WANDB_MODE=offline, "
        raise RecipeError("this run", [("train.logger", f"{text}or leave it out")]) from error
    # wandb's own step only rises: it would drop what is trained again after a kill.
    tracker.define_metric(_STEP)
    tracker.define_metric("*", step_metric=_STEP, step_sync=True)
    return tracker


def check_tracker(name: str) -> None:
    """Raise RecipeError if a tracker's package is not installed."""
    if name != "none" and importlib.util.find_spec(_TRACKERS[name]) is None:
        text = f"{name} is not installed. Install it with: pip install 'radrep[loggers]'"
        raise RecipeError("this run", [("train.logger", text)])


def scan_backend(model: TrainableModel, device: torch.device) -> BackendChoice | None:
    """What computes the selective scans of a model, None where it has none."""
    scans = any(name.endswith("A_log") for name, _ in model.named_parameters())
    return select_backend(device) if scans else None


def describe_environment(
    accelerator: Accelerator, recipe: Recipe, model: TrainableModel
) -> dict[str, object]:
    """Versions, device, commit, scan backend and hub weights, as environment.json keeps them."""
    packages = (
        "radrep", "torch", "timm", "transformers", "peft", "accelerate", "numba", "numpy",
        "mamba-ssm", "triton",
    )  # fmt: skip
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    device = accelerator.device
    scan = scan_backend(model, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "device": device.type,
        "device_name": name or platform.machine(),
        "num_processes": accelerator.num_processes,
        "num_threads": torch.get_num_threads(),
        "precision": recipe.train.precision,
        "variables": recorded_variables(),
        "scan_backend": None if scan is None else str(scan),
        "commit": _commit(),
        "hub_sources": hub_sources(cast(nn.Module, model)),
    }


def _commit() -> str | None:
    """Of radrep's own source, where it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, text=True, timeout=10
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None


def parameter_table(model: TrainableModel) -> list[tuple[str, int, int]]:
    """Parts of a model with their numbers of parameters, all and trained; last the whole model."""
    rows: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part, count = _part(name), parameter.numel()
        total, trained = rows.get(part, (0, 0))
        rows[part] = (total + count, trained + count * parameter.requires_grad)
    rows["whole"] = (sum(row[0] for row in rows.values()), sum(row[1] for row in rows.values()))
    return [(part, total, trained) for part, (total, trained) in rows.items()]


def _part(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "language_model":
        return language_part(rest)
    if part == "encoder" and ".adapters." in rest:
        return "encoder adapters"
    if part == "encoder" and ".mixer." in rest:
        return "encoder mixers"
    return part.replace("_", "-" if part == "encoder_decoder" else " ")


def log_model(
    recipe: Recipe, accelerator: Accelerator, model: TrainableModel, reporter: Reporter
) -> None:
    """Report a model's size, the device, and how validation writes."""
    section = recipe.train
    for part, total, trained in parameter_table(model):
        share = "all" if trained == total else f"{trained:,}" if trained else "none"
        reporter.info("model", f"{part}: {total:,} parameters, {share} trained")
    batch = section.batch_size * section.grad_accum_steps * accelerator.num_processes
    reporter.info(
        "device",
        f"{accelerator.num_processes} x {accelerator.device.type}, {section.precision}, "
        f"effective batch {batch}",
    )
    if recipe.decode.method in ("select", "consensus"):
        reporter.info("val", f"reports are {recipe.decode.by_decoder.made}")
    if (scan := scan_backend(model, accelerator.device)) is not None:
        reporter.info("scan", str(scan))


class Meter:
    """Speed, memory, share of time spent waiting for data, time left."""

    def __init__(self, steps_left: int) -> None:
        self._steps_left = steps_left
        self._steps = 0
        self._images = 0
        self._waited = 0.0
        self._seconds = 0.0
        self._since: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data, but for an epoch's first batch."""
        start = time.perf_counter()
        yield
        now = time.perf_counter()
        if self._since is None:
            self._since = now
        else:
            self._waited += now - start

    def count(self, images: int) -> None:
        """Count one step."""
        now = time.perf_counter()
        self._seconds += now - (self._since or now)
        self._since = now
        self._steps += 1
        self._steps_left -= 1
        self._images += images

    def pause(self) -> None:
        """Stop the clock: validation is not training."""
        self._since = None

    def fields(self, accelerator: Accelerator) -> dict[str, object]:
        """The meter's part of a progress line; of several processes the slowest counts."""
        mine = [self._seconds, self._waited, _memory_gib()]
        if accelerator.num_processes > 1:
            together = gather(torch.tensor([mine], device=accelerator.device))
            mine = together.amax(dim=0).tolist()
        seconds, waited, memory = mine
        seconds = max(seconds, 1e-9)
        left = int(self._steps_left * seconds / max(1, self._steps))
        hours, minutes = divmod(left // 60, 60)
        return {
            "img/s": f"{self._images / seconds:.0f}",
            "mem": f"{memory:.1f}G",
            "data": f"{100 * waited / seconds:.0f}%",
            "eta": f"{hours}:{minutes:02d}:{left % 60:02d}",
        }


def _memory_gib() -> float:
    """Peak memory: of the device where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
