"""Probabilities of a discriminator for prepared images, and their scores."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from radrep.data.batch import Batch
from radrep.metrics.classification import LabelScores, score_labels
from radrep.metrics.labeler import OBSERVATIONS
from radrep.models.base import LabelModel
from radrep.models.discriminator import spread_labels
from radrep.progress import Advance

Row = tuple[str, np.ndarray, np.ndarray]


@torch.no_grad()
def classify(
    model: LabelModel,
    batches: Iterable[Batch],
    device: torch.device,
    advance: Advance | None = None,
) -> list[Row]:
    """Probabilities beside labels, (study, probabilities, labels) of each image.

    In float32 whatever training computes in, as masks are made: thresholds must fit both.
    """
    model.eval()
    rows: list[Row] = []
    for batch in batches:
        batch = batch.to(device)
        found = model.probabilities(batch)
        labels = spread_labels(batch)[:, : found.shape[1]]  # without words
        studies = np.repeat(batch.ids, batch.num_views.numpy()).tolist()
        rows += zip(studies, found.cpu().numpy(), labels.cpu().numpy(), strict=True)
        if advance is not None:
            advance(len(batch.ids))
    return rows


def score_rows(
    rows: Sequence[Row], thresholds: np.ndarray | None = None
) -> tuple[LabelScores, float]:
    """Scores of each label, and the loss as training has it.

    Thresholds are (labels,), or those of each row, (n, labels).
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i][0])
    probabilities, labels = (np.stack([rows[i][column] for i in order]) for column in (1, 2))
    if thresholds is not None and thresholds.ndim == 2:
        thresholds = thresholds[order]
    known = ~np.isnan(labels)
    sure = np.clip(np.where(labels == 1, probabilities, 1 - probabilities), 1e-7, 1)
    loss = -float(np.log(sure[known]).sum()) / labels.size
    return score_labels(probabilities, labels, OBSERVATIONS, thresholds=thresholds), loss
