"""Score a discriminator label by label."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radrep.atomic import atomic_write_text, check_output, make_folder
from radrep.device import best_device
from radrep.evaluation.controls import shuffled_order
from radrep.evaluation.eval_set import batches_of, default_split
from radrep.inference.classify import Row, classify, score_rows
from radrep.metrics.classification import MEASURES, LabelScores
from radrep.models.base import LabelModel
from radrep.progress import Reporter
from radrep.saliency.masked_split import read_split
from radrep.training.labels import build_labels, check_labels
from radrep.weights.checkpoint import Loaded
from radrep.weights.model_card import MODEL_CARD, LabelEvaluation, describe_model
from radrep.weights.run_folder import run_dir


@dataclass(frozen=True)
class DiscriminatorScores:
    """Scores of a discriminator by label, over images."""

    checkpoint: Path
    split: str
    num_studies: int  # also those without a known label
    num_images: int
    loss: float
    scores: LabelScores
    shuffled_auroc: float | None  # the mean, of the same probabilities permuted over the images
    scores_file: Path

    def to_json(self) -> dict[str, Any]:
        """The content of the scores file."""
        return {
            "split": self.split,
            "num_studies": self.num_studies,
            "num_images": self.num_images,
            "loss": self.loss,
            **{f"macro {metric}": self.scores.macro(metric) for metric in MEASURES},
            "macro auroc, images shuffled": self.shuffled_auroc,
            "labels": [asdict(row) for row in self.scores.rows],
        }


def evaluate_discriminator(
    loaded: Loaded, *, split: str | None, out: Path | None, reporter: Reporter
) -> DiscriminatorScores:
    """Score a discriminator on a split, with the thresholds that validation chose.

    The split is by default test, or val where there is no test study; the files go to `out`, by
    default the folder of the run.
    """
    check_output(out or run_dir(loaded.folder), "--out", folder=True, new=False)
    name = split or default_split(loaded.recipe.data, reporter)
    rows, thresholds, num_studies = classify_split(loaded, name, reporter)
    file = (out or run_dir(loaded.folder)) / f"scores-{name}.json"
    result = score_discriminator(loaded.folder, name, num_studies, rows, thresholds, file)
    evaluated = LabelEvaluation(name, num_studies, len(rows), result.scores)
    atomic_write_text(file.with_name(MODEL_CARD), describe_model(loaded.recipe, evaluated))
    return result


def classify_split(
    loaded: Loaded, name: str, reporter: Reporter
) -> tuple[list[Row], np.ndarray, int]:
    """Rows of the images of a split, the thresholds (labels,), and the number of studies."""
    recipe, model = loaded.recipe, loaded.model
    assert isinstance(model, LabelModel)
    need_text = recipe.model.needs_text
    studies = read_split(recipe.data, name, need_text=need_text)
    # What a word means is learned from the training studies, also for other splits.
    known_by = read_split(recipe.data, "train", need_text=need_text)
    labels = build_labels(recipe, known_by)
    assert labels is not None, "a discriminator has labels"
    check_labels(labels, studies)
    model.to(best_device())
    batches = batches_of(loaded, studies, recipe.train.batch_size, labels)
    with reporter.progress(f"labels for {name}", len(studies), "studies") as advance:
        rows = classify(model, batches, best_device(), advance)
    return rows, model.label_thresholds().cpu().numpy(), len(studies)


def score_discriminator(
    checkpoint: Path,
    split: str,
    num_studies: int,
    rows: list[Row],
    thresholds: np.ndarray,
    file: Path,
) -> DiscriminatorScores:
    """Score the rows of a split, see `score_rows`, and write the scores file."""
    scores, loss = score_rows(rows, thresholds)
    others = shuffled_order(len(rows))
    shuffled = [
        (study, rows[other][1], labels)
        for (study, _, labels), other in zip(rows, others, strict=True)
    ]
    without_images = score_rows(shuffled)[0].macro("auroc")
    result = DiscriminatorScores(
        checkpoint, split, num_studies, len(rows), loss, scores, without_images, file
    )
    make_folder(file.parent)
    atomic_write_text(file, json.dumps(result.to_json(), indent=1) + "\n")
    return result
