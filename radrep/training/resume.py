"""What `radrep train --resume` reads of a run.

Of the newest run in the folder: recipe.yaml, metrics.jsonl (run_log.py cuts it at the step of the
checkpoint) and, of its last checkpoint, weights.safetensors, recipe.yaml, vocabulary.json and
training.pt; of folds, folds.yaml says which there are.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from radrep.data.tokenizer import Tokenizer
from radrep.errors import CheckpointError
from radrep.models.base import TrainableModel
from radrep.progress import Reporter
from radrep.recipe.recipe import Recipe
from radrep.saliency.sdam import check_mask_fingerprint
from radrep.training.loop import Progress
from radrep.weights import checkpoint, run_folder


def newest_run(out: Path) -> Path:
    """The newest of the runs out, out-2, out-3, ... that has a checkpoint; else CheckpointError."""
    numbered = [
        p for p in out.parent.glob(f"{out.name}-*") if p.name[len(out.name) + 1 :].isdigit()
    ]
    runs = [p for p in (out, *numbered) if run_folder.last_checkpoint(p) is not None]
    if not runs:
        raise CheckpointError(f"{out} has no checkpoint to resume from; start it without --resume")
    return max(runs, key=lambda p: int(p.name[len(out.name) + 1 :] or 1))


def choose_checkpoint(run: Path, reporter: Reporter) -> Path:
    """The newest whole checkpoint of a run; damaged newer ones are renamed and reported."""
    last, damaged = run_folder.newest_whole(run)
    if last is None:
        raise CheckpointError(
            f"{run} has no whole checkpoint to resume from: {damaged[0][0]}: {damaged[0][1]}; "
            "train anew with another --out"
        )
    for folder, damage in damaged:
        aside = run_folder.set_aside(folder)
        reporter.warn(f"{folder} is damaged ({damage}) and now lies at {aside.name}")
    if damaged:
        reporter.warn(f"resuming from {last}, the newest checkpoint that is whole")
    return last


def settle_best(run: Path, progress: Progress, recipe: Recipe) -> Progress:
    """The progress of a checkpoint, whose best one may have been lost or damaged since.

    Then that checkpoint is the best if an epoch ended with it, and else the next validation's.
    """
    best = run_folder.step_folder(run, progress.best_step)
    if progress.best is None or (best.is_dir() and not run_folder.find_damage(best)):
        return progress
    value = run_folder.read_score(run, progress.step, recipe.train.monitor)
    if value is None and progress.epoch >= recipe.train.epochs:
        raise CheckpointError(
            f"{run} has lost its best checkpoint, of step {progress.best_step}, and the log line "
            f"of step {progress.step}; train anew with another --out"
        )
    if progress.step_in_epoch or value is None:
        return replace(progress, best=None, best_step=0, epochs_without_better=0)
    return replace(progress, best=value, best_step=progress.step, epochs_without_better=0)


def load_last(
    last: Path,
    *,
    tokenizer: Tokenizer,
    masks: str | None,
    fingerprint: str,
    num_processes: int,
) -> tuple[TrainableModel, Progress, dict[str, Any]]:
    """Model, progress and training.pt of a checkpoint, compared with the data of now.

    `masks` and `fingerprint` are those of the masked images and of the prepared shards. Raises
    CheckpointError where anything differs, before hours of features are computed.
    """
    loaded = checkpoint.load_checkpoint(last, verified=True)  # by `choose_checkpoint`
    if loaded.tokenizer != tokenizer:
        raise CheckpointError(
            f"{last} has a vocabulary of {len(loaded.tokenizer.vocabulary)} words and the prepared "
            f"data give {len(tokenizer.vocabulary)}: the data changed"
        )
    if masks is not None:
        check_mask_fingerprint(loaded.saliency, masks, last)
    state = checkpoint.load_training(last)
    if state.get("data") != fingerprint:
        raise CheckpointError(
            f"{last} was trained on other data than {loaded.recipe.data.prepared} holds now, or by "
            "an older radrep; train anew without --resume"
        )
    progress = Progress(**state["progress"])
    if progress.num_processes != num_processes:
        raise CheckpointError(
            f"{last} was trained by {progress.num_processes} processes and this is "
            f"{num_processes}: start as many as before"
        )
    return loaded.model, progress, state
