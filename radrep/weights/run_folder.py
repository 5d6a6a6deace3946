"""A run's folder: its checkpoints by step, which of them is the best, and whether they are whole.

A run has recipe.yaml, environment.json, metrics.jsonl, checkpoints/step-NNNNNNN/ and `best`: a link
or, on a disk without links, a text file with the path of a checkpoint.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import Timeout
from safetensors import SafetensorError

from radrep.atomic import atomic_write_text, locked, remove_tree, sync_folder
from radrep.errors import CheckpointError, DamagedError
from radrep.json_text import load_json
from radrep.weights.files import find_change, optimizer_parts, read_header

WEIGHTS = "weights.safetensors"
RECIPE = "recipe.yaml"
VOCABULARY = "vocabulary.json"
TRAINING = "training.pt"
CHECKPOINTS = "checkpoints"
BEST = "best"
METRICS = "metrics.jsonl"
ENVIRONMENT = "environment.json"
LOCK = ".lock"
_SHOWN = 5  # runs in a message


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint in a run's folder."""
    return int(checkpoint.name.removeprefix("step-"))


def step_folder(run: Path, step: int) -> Path:
    """The folder of the checkpoint after a step."""
    return run / CHECKPOINTS / f"step-{step:07d}"


def optimizer_folder(run: Path, step: int) -> Path:
    """Where the processes write a sharded optimizer, before it becomes a part of a checkpoint."""
    return run / CHECKPOINTS / f".optimizer-{step:07d}.partial"


def step_folders(run: Path) -> list[Path]:
    """The checkpoints of a run by step; names of different lengths do not sort by number."""
    steps = ((path.name.removeprefix("step-"), path) for path in (run / CHECKPOINTS).glob("step-*"))
    found = [(int(n), path) for n, path in steps if n.isdecimal() and path.is_dir()]
    return [path for _, path in sorted(found)]


def run_dir(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to; itself, when it was moved out of one."""
    resolved = checkpoint.resolve()
    if resolved.name == BEST and (resolved.parent / CHECKPOINTS).is_dir():  # a copy of the link
        return resolved.parent
    return resolved.parent.parent if resolved.parent.name == CHECKPOINTS else resolved


def last_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run, if it has one."""
    return next(reversed(step_folders(run)), None)


def drop_old_checkpoints(run: Path) -> None:
    """Keep the newest checkpoint and the best one."""
    best = best_checkpoint(run)
    for folder in step_folders(run)[:-1]:
        if folder.resolve() != best:
            shutil.rmtree(folder)


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint that `best` leads to; None without one.

    Where the path in it is wrong, as after a move or a copy, the name of the checkpoint counts.
    """
    best = run / BEST
    try:
        if best.is_dir():
            return best.resolve()
        target = str(best.readlink()) if best.is_symlink() else best.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    name = target.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]  # "\\" of Windows
    folder = run / CHECKPOINTS / name
    return folder.resolve() if name and "\0" not in name and folder.is_dir() else None


def link_best(run: Path, folder: Path) -> None:
    """Make `best` lead to a checkpoint of the run: by a link or, where none can be made, a text."""
    best, link, target = run / BEST, run / f".{BEST}.{os.getpid()}.partial", folder.relative_to(run)
    if best.is_dir() and not best.is_symlink():  # a copy that was made of the link
        shutil.rmtree(best)
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(target)
    except (OSError, NotImplementedError):  # exFAT, many network disks, Windows without the right
        atomic_write_text(best, f"{target.as_posix()}\n")
    else:
        os.replace(link, best)
        sync_folder(run)  # before the checkpoint that it led to is removed


def restore_best(run: Path, best_step: int) -> None:
    """Repair `best` on resume: a crash may fall between a checkpoint and its link."""
    folder = step_folder(run, best_step)
    if folder.is_dir() and best_checkpoint(run) != folder.resolve():
        link_best(run, folder)


def find_best(run: Path) -> Path:
    """The best checkpoint of a run; CheckpointError with the reason if there is none."""
    if (best := best_checkpoint(run)) is not None:
        return best
    if not (run / CHECKPOINTS).is_dir():
        inner = sorted(path.parent.name for path in run.glob(f"*/{CHECKPOINTS}"))
        hint = f"; name one of its runs: {', '.join(inner[:_SHOWN])}" if inner else ""
        raise CheckpointError(
            f"{run} is not a run or checkpoint: it has no {WEIGHTS} and no {BEST}{hint}"
        )
    if os.path.lexists(run / BEST):
        problem = f"{run / BEST} leads to no checkpoint of the run; --resume repairs it"
    elif _has_validated(run):
        problem = f"{run} has lost its {BEST}; --resume repairs it"
    else:
        problem = f"{run} has no finished epoch yet, so it has no best checkpoint"
    raise damage_error(problem, run)


def _has_validated(run: Path) -> bool:
    """Whether an epoch has ended, by the run's log."""
    try:
        return '"val/' in (run / METRICS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def read_scores(run: Path, step: int) -> dict[str, float]:
    """What the run's log has of the validation after a step; empty if it has none."""
    try:
        for line in (run / METRICS).read_text("utf-8").splitlines():
            row = load_json(line)
            found = {name: float(value) for name, value in row.items() if name.startswith("val/")}
            if row["step"] == step and found:
                return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return {}


def read_environment(run: Path) -> dict[str, Any]:
    """environment.json of a run's last start; empty where it cannot be read."""
    try:
        found = load_json((run / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_seconds(run: Path) -> float | None:
    """How long a run was trained, by all its starts; None of an older radrep."""
    found = read_environment(run).get("seconds")
    return found if isinstance(found, int | float) else None


def add_seconds(run: Path, seconds: float) -> None:
    """Add to how long a run was trained; an environment.json that cannot be read stays."""
    if environment := read_environment(run):
        environment["seconds"] = round((read_seconds(run) or 0.0) + seconds, 3)
        write_environment(run, environment)


def write_environment(run: Path, environment: Mapping[str, object]) -> None:
    """Write environment.json."""
    atomic_write_text(run / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")


def damage_error(text: str, run: Path) -> CheckpointError:
    """What is wrong with the checkpoint that a run is known by, and its newest whole one if any."""
    whole = next((p for p in reversed(step_folders(run)) if not find_damage(p)), None)
    return CheckpointError(text) if whole is None else DamagedError(text, run, whole)


def find_damage(
    folder: Path,
    names: Sequence[str] = (WEIGHTS, RECIPE, VOCABULARY),
    *,
    hashed: Sequence[str] | None = None,
) -> str:
    """What is missing, cut off or changed in a checkpoint; "" for nothing.

    Sizes and headers come first: they show what a full disk or a broken copy did. Then all
    checksums are compared, or those of the files that are to be `hashed`.
    """
    for name in names:
        file = folder / name
        try:
            size = file.stat().st_size
            if size == 0:
                return f"its {name} is empty"
            if name == WEIGHTS:
                read_header(file)
            elif name == TRAINING and not zipfile.is_zipfile(file):
                return f"its {name} is cut off or broken ({size:,} bytes)"
        except FileNotFoundError:
            return f"it has no {name}"
        except PermissionError:
            return f"its {name} cannot be read: no permission"
        except (SafetensorError, OSError) as error:
            return f"its {name} is cut off or broken ({error})"
    return find_change(folder, names if hashed is None else hashed)


def is_unstarted(run: Path) -> bool:
    """Whether a run ended before its first checkpoint."""
    return (run / LOCK).is_file() and not step_folders(run)


def hold(run: Path, held: ExitStack) -> None:
    """Hold a run's lock, which ends with its process; CheckpointError if another has it."""
    try:
        held.enter_context(locked(run / LOCK, timeout=0))
    except Timeout as error:
        raise CheckpointError(
            f"{run} is being trained by another process; wait for its end, or stop it first"
        ) from error
    sync_folder(run)  # by its lock a run is known that was lost before its first checkpoint


def find_partials(run: Path) -> list[Path]:
    """What kills left half written, where no other process holds the run's lock."""
    own = (BEST, RECIPE, METRICS, ENVIRONMENT, "MODEL_CARD.md")
    left = [path for name in own for path in run.glob(f".{name}.*.partial")]
    left += run.glob(f"{CHECKPOINTS}/.*.partial")
    left += run.glob(f"{CHECKPOINTS}/*/.*.partial")
    return left


def remove_partials(run: Path) -> None:
    """Remove what kills left half written; the run's lock must be held."""
    for path in find_partials(run):
        remove_tree(path)


def newest_whole(run: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest whole checkpoint of a run, None without any, and damaged newer ones with why."""
    damaged: list[tuple[Path, str]] = []
    for folder in reversed(step_folders(run)):
        training = optimizer_parts(folder) or [TRAINING]
        if not (damage := find_damage(folder, (WEIGHTS, RECIPE, VOCABULARY, *training))):
            return folder, damaged
        damaged.append((folder, damage))
    return None, damaged


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint so that it is none any more; return where it lies."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)
