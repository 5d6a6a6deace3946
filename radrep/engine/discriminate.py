"""Training and scoring of SDAM's discriminator."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from radrep.data.batch import Batch
from radrep.data.dataset import in_order
from radrep.data.store import PreparedStudies
from radrep.data.study import Study
from radrep.engine.build import build_dataset, build_labels, build_preprocess
from radrep.engine.checkpoint import Loaded, run_of
from radrep.engine.evaluation_files import check_out
from radrep.engine.files import write_whole
from radrep.engine.generate import best_device
from radrep.engine.model_card import MODEL_CARD, describe_model
from radrep.engine.reporter import Advance, Reporter
from radrep.engine.splits import read_split
from radrep.engine.studies_scored import default_split
from radrep.engine.training import Training
from radrep.engine.workers import count_cores
from radrep.errors import DataError
from radrep.metrics.classification import MEASURES, LabelScores, score_labels
from radrep.metrics.findings import OBSERVATIONS
from radrep.recipe import schema
from radrep.recipe.schema import Recipe
from radrep.saliency.discriminator import Discriminator, spread_labels

Row = tuple[str, np.ndarray, np.ndarray]


class DiscriminatorTraining(Training):
    """Training of the discriminator, validated label by label; it also sets the thresholds."""

    def __init__(self, recipe: Recipe, last: Path | None, reporter: Reporter) -> None:
        super().__init__(recipe, last, reporter)
        assert self.labels is not None, "a discriminator has labels"
        check_labels(self.labels, self.splits["val"])
        self.reporter.fact("labels", f"{self.labels.vocabulary}: {', '.join(self.labels.known)}")

    def validate(self) -> dict[str, float]:
        """Loss and mean scores of the labels on validation, an image a row."""
        accelerator, model = self.accelerator, self.model
        assert isinstance(model, Discriminator)
        mine = classify(model, self.val_batches(), accelerator.device)
        rows = gather_object(mine) if accelerator.num_processes > 1 else mine
        scores, loss = _score(rows)
        model.thresholds.copy_(torch.from_numpy(scores.thresholds()))
        model.train()
        found = {"val/loss": loss}
        for name in ("auroc", "average_precision"):
            value = scores.macro(name)
            assert value is not None, "checked before training"
            found[f"val/{name}"] = value
        return found


@dataclass(frozen=True)
class DiscriminatorScores:
    """What an evaluation of a discriminator found.

    Attributes:
        checkpoint: The checkpoint.
        split: The split.
        num_studies: Its studies, those of which no label is known too.
        scores: By label, an image a row.
        scores_file: scores-<split>.json.
    """

    checkpoint: Path
    split: str
    num_studies: int
    scores: LabelScores
    scores_file: Path


def evaluate_discriminator(
    loaded: Loaded, *, split: str | None, out: Path | None, reporter: Reporter
) -> DiscriminatorScores:
    """Score a discriminator on a split, with the thresholds that validation chose.

    Args:
        loaded: Its checkpoint.
        split: "train", "val" or "test"; by default test, or val where the data has no test study.
        out: Where the scores go; the run's folder, if not given.
        reporter: Who is told how it goes.

    Raises:
        DataError: If the prepared folder is missing, the split is empty or has no labels.
    """
    recipe, model = loaded.recipe, loaded.model
    assert isinstance(model, Discriminator)
    assert isinstance(recipe.model, schema.Discriminator)
    check_out(out)
    name = split or default_split(recipe.data.prepared, reporter)
    need_text = recipe.model.labels == "reports"
    studies = read_split(recipe.data, name, need_text=need_text)
    # Which words mean what is a matter of the training studies, also for others.
    known_by = read_split(recipe.data, "train", need_text=need_text)
    labels = build_labels(recipe, known_by)
    assert labels is not None, "a discriminator has labels"
    check_labels(labels, studies)
    model.to(best_device())
    dataset = build_dataset(
        recipe,
        studies,
        preprocess=build_preprocess(recipe.data, model),
        codec=loaded.codec,
        labels=labels,
    )
    num_workers = min(recipe.data.num_workers, count_cores())
    batches = in_order(dataset, recipe.train.batch_size, num_workers=num_workers)
    with reporter.progress(f"labels for {name}", len(dataset), "studies") as advance:
        rows = classify(model, batches, best_device(), advance)
    scores, loss = _score(rows, model.thresholds.cpu().numpy())
    file = (out or run_of(loaded.folder)) / f"scores-{name}.json"
    told: dict[str, Any] = {
        "split": name,
        "num_studies": len(studies),
        "num_images": len(rows),
        "loss": loss,
        **{f"macro {metric}": scores.macro(metric) for metric in MEASURES},
        "labels": [asdict(row) for row in scores.rows],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(told, indent=1) + "\n")
    write_whole(file.with_name(MODEL_CARD), describe_model(recipe, told))
    return DiscriminatorScores(loaded.folder, name, len(studies), scores, file)


@torch.no_grad()
def classify(
    model: Discriminator,
    batches: Iterable[Batch],
    device: torch.device,
    advance: Advance | None = None,
) -> list[Row]:
    """Probabilities beside labels, a row an image: (study, probabilities, labels).

    In float32 whatever training computes in, as masks are made: thresholds must fit both.
    """
    model.eval()
    rows: list[Row] = []
    for batch in batches:
        batch = batch.to(device)
        found, labels = model.probabilities(batch), spread_labels(batch)
        studies = np.repeat(batch.ids, batch.num_views.numpy()).tolist()
        rows += zip(studies, found.cpu().numpy(), labels.cpu().numpy(), strict=True)
        if advance is not None:
            advance(len(batch.ids))
    return rows


def check_labels(labels: Callable[[Study], np.ndarray], studies: PreparedStudies) -> None:
    """Refuse before the work of hours what cannot be scored.

    Raises:
        DataError: If no label is both present and absent.
    """
    table = np.stack([labels(study) for study in studies])
    if not ((table == 1).any(axis=0) & (table == 0).any(axis=0)).any():
        raise DataError(
            f"{studies.prepared}: no label is both present and absent in {studies.split}, so that "
            "nothing can be scored; prepare more studies, or choose other model.labels"
        )


def _score(rows: Sequence[Row], thresholds: np.ndarray | None = None) -> tuple[LabelScores, float]:
    """Scores of each label, and the loss as training has it."""
    rows = sorted(rows, key=lambda row: row[0])
    probabilities, labels = (np.stack(column) for column in list(zip(*rows, strict=True))[1:])
    known = ~np.isnan(labels)
    sure = np.clip(np.where(labels == 1, probabilities, 1 - probabilities), 1e-7, 1)
    loss = -float(np.log(sure[known]).sum()) / labels.size
    return score_labels(probabilities, labels, OBSERVATIONS, thresholds=thresholds), loss
