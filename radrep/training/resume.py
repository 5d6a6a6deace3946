"""What `radrep train --resume` reads of a run.

Of the newest run in the folder: recipe.yaml, metrics.jsonl (run_log.py cuts it at the step of the
checkpoint) and, of its last checkpoint, weights.safetensors, recipe.yaml, vocabulary.json and
training.pt; of folds, folds.yaml says which there are.
"""

from pathlib import Path
from typing import Any

from radrep.data.tokenizer import Tokenizer
from radrep.errors import CheckpointError
from radrep.models.base import TrainableModel
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
    loaded = checkpoint.load_checkpoint(last)
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
