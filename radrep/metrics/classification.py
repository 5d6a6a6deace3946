"""Scores of predicted label probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radrep.errors import DataError
from radrep.metrics.names import LABELS, metric_names

CALIBRATION_BINS = 15  # as in Guo et al., 2017
NEVER = 1.0  # a threshold that no probability exceeds
MEASURES = metric_names(LABELS)


@dataclass(frozen=True)
class LabelScore:
    """Scores of one label over the images where it is known.

    Everything but the counts is None unless the label is both present and absent in them.
    """

    name: str
    num_known: int
    num_present: int
    auroc: float | None = None
    average_precision: float | None = None
    brier: float | None = None  # mean squared distance of the probability from 1 or 0 (Brier, 1950)
    calibration_error: float | None = None  # expected, in 15 equal bins (Guo et al., 2017)
    threshold: float | None = None  # predicted where its probability is greater; median of several
    f1: float | None = None
    precision: float | None = None  # 0 if it is never predicted
    recall: float | None = None


@dataclass(frozen=True)
class LabelScores:
    """Scores of several labels, in order."""

    rows: tuple[LabelScore, ...]

    def macro(self, measure: str) -> float | None:
        """The mean of a measure over the labels that have it, None if none has."""
        if measure not in MEASURES:
            raise DataError(
                f"'{measure}' is no measure of a label; choose from {', '.join(MEASURES)}"
            )
        values = [getattr(row, measure) for row in self.rows]
        had = [value for value in values if value is not None]
        return float(np.mean(had)) if had else None

    def thresholds(self) -> np.ndarray:
        """Thresholds, float32 (labels,); 1, which is never exceeded, for unscored labels."""
        found = [NEVER if row.threshold is None else row.threshold for row in self.rows]
        return np.array(found, np.float32)


def score_labels(
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    thresholds: np.ndarray | None = None,
) -> LabelScores:
    """Score probabilities of labels, 0 to 1, (n, labels), compared as float32.

    Labels are 1 present, 0 absent, NaN unknown, (n, labels). Thresholds are chosen on other data,
    (labels,), or (n, labels) where several models scored a part each. Without them each label has
    that of its greatest F1 here (which is optimistic): half way between two probabilities, and the
    highest of several that are as good.

    Raises:
        DataError: If the shapes do not fit, or a probability or label is out of range.
    """
    if probabilities.shape != labels.shape or labels.shape[1:] != (len(names),):
        raise DataError(
            f"probabilities {probabilities.shape}, labels {labels.shape} and {len(names)} names do "
            "not fit: expected one row per image and one column per name in both"
        )
    if thresholds is not None and thresholds.shape not in ((len(names),), labels.shape):
        raise DataError(f"expected {len(names)} thresholds, one a label, got {thresholds.shape}")
    rows = []
    for i, name in enumerate(names):
        known = ~np.isnan(labels[:, i])
        scores, present = probabilities[known, i].astype(np.float32), labels[known, i]
        within = (scores >= 0) & (scores <= 1)
        if not within.all():
            wrong = scores[~within][0]
            raise DataError(f"{name}: a probability is {wrong}; expected 0 to 1")
        if not np.isin(present, (0, 1)).all():
            wrong = present[~np.isin(present, (0, 1))][0]
            raise DataError(f"{name}: a label is {wrong}; expected 1, 0 or NaN")
        given = None
        if thresholds is not None:
            given = np.broadcast_to(thresholds, labels.shape)[known, i]
        rows.append(_score_label(name, scores, present == 1, given))
    return LabelScores(tuple(rows))


def _score_label(
    name: str, scores: np.ndarray, present: np.ndarray, given: np.ndarray | None
) -> LabelScore:
    num_present = int(np.count_nonzero(present))
    if num_present in (0, len(present)):
        return LabelScore(name, len(present), num_present)
    # Two seconds to import, which commands that score no labels need not wait for.
    from sklearn.metrics import (
        average_precision_score,
        brier_score_loss,
        precision_recall_fscore_support,
        roc_auc_score,
    )

    threshold = np.array([_best_threshold(scores, present)]) if given is None else given
    precision, recall, f1, _ = precision_recall_fscore_support(
        present, scores > threshold.astype(np.float32), average="binary", zero_division=0
    )
    return LabelScore(
        name,
        len(present),
        num_present,
        auroc=float(roc_auc_score(present, scores)),
        average_precision=float(average_precision_score(present, scores)),
        brier=float(brier_score_loss(present, scores.astype(np.float64))),
        calibration_error=_calibration_error(scores, present),
        threshold=float(np.median(threshold)),
        f1=float(f1),
        precision=float(precision),
        recall=float(recall),
    )


def _best_threshold(scores: np.ndarray, present: np.ndarray) -> float:
    """The threshold from 0 to 1 of the greatest F1."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, lowest = precision_recall_curve(present, scores)
    # A threshold of at least 0 never predicts a label at probability 0.
    possible = np.flatnonzero((lowest > 0) & (recall[:-1] > 0))
    if not len(possible):
        return NEVER
    f1 = 2 * precision[possible] * recall[possible] / (precision[possible] + recall[possible])
    best = possible[np.flatnonzero(f1 >= f1.max() - 1e-12)[-1]]
    above = np.float32(lowest[best])
    below = np.float32(lowest[best - 1] if best else 0)
    # Between neighbouring floats the middle would be rounded to one of them.
    return float(min((below + above) / 2, np.nextafter(above, below)))


def _calibration_error(scores: np.ndarray, present: np.ndarray) -> float:
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    surplus = np.bincount(bins, scores.astype(np.float64) - present)  # of probability, by bin
    return float(np.abs(surplus).sum() / len(scores))
