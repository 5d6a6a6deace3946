"""A run's folder: its checkpoints by step, which of them is the best, and whether they are whole.

A run has recipe.yaml, environment.json, metrics.jsonl, checkpoints/step-NNNNNNN/ and `best`: a link
or, on a disk without links, a text file with the path of a checkpoint.
"""

import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from radrep.atomic import atomic_write_text
from radrep.errors import CheckpointError

WEIGHTS = "weights.safetensors"
RECIPE = "recipe.yaml"
VOCABULARY = "vocabulary.json"
TRAINING = "training.pt"
CHECKPOINTS = "checkpoints"
BEST = "best"
METRICS = "metrics.jsonl"


def step_folder(run: Path, step: int) -> Path:
    """The folder of the checkpoint after a step."""
    return run / CHECKPOINTS / f"step-{step:07d}"


def _step_folders(run: Path) -> list[Path]:
    """The checkpoints of a run by step; names of different lengths do not sort by number."""
    steps = ((path.name.removeprefix("step-"), path) for path in (run / CHECKPOINTS).glob("step-*"))
    return [path for _, path in sorted((int(n), path) for n, path in steps if n.isdecimal())]


def run_dir(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to; itself, when it was moved out of one."""
    resolved = checkpoint.resolve()
    if resolved.name == BEST and (resolved.parent / CHECKPOINTS).is_dir():  # a copy of the link
        return resolved.parent
    return resolved.parent.parent if resolved.parent.name == CHECKPOINTS else resolved


def last_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run, if it has one."""
    return next(reversed(_step_folders(run)), None)


def drop_old_checkpoints(run: Path) -> None:
    """Keep the newest checkpoint and the best one."""
    best = best_checkpoint(run)
    for folder in _step_folders(run)[:-1]:
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
    best, link, target = run / BEST, run / f".{BEST}.{os.getpid()}", folder.relative_to(run)
    if best.is_dir() and not best.is_symlink():  # a copy that was made of the link
        shutil.rmtree(best)
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(target)
    except (OSError, NotImplementedError):  # exFAT, many network disks, Windows without the right
        atomic_write_text(best, f"{target.as_posix()}\n")
    else:
        os.replace(link, best)


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
        raise CheckpointError(
            f"{run} is not a run or checkpoint: it has no {WEIGHTS} and no {BEST}"
        )
    if os.path.lexists(run / BEST):
        problem = f"{run / BEST} leads to no checkpoint of the run; --resume repairs it"
    elif _has_validated(run):
        problem = f"{run} has lost its {BEST}; --resume repairs it"
    else:
        problem = f"{run} has no finished epoch yet, so it has no best checkpoint"
    raise CheckpointError(f"{problem}{name_others(run)}")


def _has_validated(run: Path) -> bool:
    """Whether an epoch has ended, by the run's log."""
    try:
        return '"val/' in (run / METRICS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def name_others(run: Path, broken: Path | None = None) -> str:
    """Whole checkpoints of a run that can be named instead, for the end of a message."""
    whole = [p for p in _step_folders(run) if p != broken and not find_damage(p)]
    return f". Name one of its checkpoints: {', '.join(map(str, whole))}" if whole else ""


def find_damage(folder: Path, names: Sequence[str] = (WEIGHTS, RECIPE, VOCABULARY)) -> str:
    """What is missing or cut off in a checkpoint, from sizes and headers alone; "" for nothing.

    So the traces of a full disk or of a broken copy are found at once, in models of any size.
    """
    for name in names:
        file = folder / name
        try:
            size = file.stat().st_size
            if size == 0:
                return f"its {name} is empty"
            if name == WEIGHTS:
                with safe_open(file, "pt"):  # compares the header with the size of the file
                    pass
            elif name == TRAINING and not zipfile.is_zipfile(file):
                return f"its {name} is cut off or broken ({size:,} bytes)"
        except FileNotFoundError:
            return f"it has no {name}"
        except (SafetensorError, OSError) as error:
            return f"its {name} is cut off or broken ({error})"
    return ""


def check_resumable(run: Path) -> Path:
    """The newest checkpoint of a run; CheckpointError, with a way out, if it is not whole."""
    needed = (WEIGHTS, RECIPE, VOCABULARY, TRAINING)
    newest, *older = reversed(_step_folders(run))
    if not (damage := find_damage(newest, needed)):
        return newest
    whole = next((folder for folder in older if not find_damage(folder, needed)), None)
    way = "no other checkpoint is whole: train anew with another --out"
    if whole is not None:
        way = f"{whole.name} before it is whole: to resume from that, remove {newest} and try again"
    raise CheckpointError(f"{newest} cannot be resumed from: {damage}; {way}")
