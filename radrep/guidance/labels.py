"""Probabilities of the observations from image features, and where to call one present.

A kernel ridge regression per observation, in closed form, whose scores out of fold are made into
probabilities (Platt, 1999) and decide the operating points: nothing is judged on studies that it
was fitted on.

Letters: n training studies, d features of a study, l observations, b new studies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radrep.errors import DataError
from radrep.guidance.image_features import MIN_SCALE, weighted_scale
from radrep.guidance.selection import assign_folds, out_of_fold, solve_ridge
from radrep.metrics.labeler import label_reports
from radrep.metrics.labeler.vocabulary import ABNORMAL

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_STATES = {"positive": 1.0, "negative": 0.0, "absent": 0.0, "uncertain": np.nan}
_FEWEST = 10  # studies with and without an observation, for it to be predicted
NEVER = np.inf  # a threshold that nothing exceeds


@dataclass(frozen=True)
class LabelPredictor:
    """Predicts observations from features of new images.

    `known` and `found` are the labels of the training studies, NaN unknown, and their probabilities
    out of fold, (n, l) each.
    """

    names: tuple[str, ...]
    mean: np.ndarray  # of the training features, (d,)
    scale: np.ndarray  # what they are divided by, (d,)
    weights: np.ndarray  # (d, l)
    slope: np.ndarray  # of the logistic function, (l,)
    bias: np.ndarray  # (l,)
    known: np.ndarray
    found: np.ndarray

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Of each observation, (b, d) -> (b, l); 0 for those too rare to be learned."""
        if vectors.shape[1] != len(self.mean):
            raise DataError(
                f"images have {vectors.shape[1]} features and findings were learned from "
                f"{len(self.mean)}: the two are of other encoders, numbers of views or versions"
            )
        # In float64, rounded to float32: one result for any batch and any number of threads.
        scores = ((vectors - self.mean) / self.scale).astype(np.float64) @ self.weights
        found: np.ndarray = _logistic(scores * self.slope + self.bias).astype(np.float32)
        return found

    def learned(self) -> tuple[str, ...]:
        """The observations that were frequent enough to be learned."""
        return tuple(
            n for n, known in zip(self.names, self.known.T, strict=True) if _learned(known)
        )

    def at_f_score(self, beta: float) -> np.ndarray:
        """The thresholds of the greatest F score out of fold, (l,).

        `beta` below 1 is for precision, above 1 for recall.
        """
        return np.array([self._best(i, beta) for i in range(len(self.names))])

    def at_sensitivity(self, sensitivity: float) -> np.ndarray:
        """The highest thresholds that find this share of what is present, out of fold, (l,)."""
        thresholds = []
        for i in range(len(self.names)):
            present = np.sort(self.found[self.known[:, i] == 1, i])[::-1]
            needed = max(1, int(np.ceil(sensitivity * len(present) - 1e-9)))
            enough = _learned(self.known[:, i]) and len(present) >= needed
            thresholds.append(np.nextafter(present[needed - 1], -1) if enough else NEVER)
        return np.array(thresholds)

    def precision(self, thresholds: np.ndarray) -> np.ndarray:
        """How often what exceeds the thresholds is present, out of fold, (l,); 0 where nothing."""
        called = (self.found > thresholds) & ~np.isnan(self.known)
        right = (called & (self.known == 1)).sum(axis=0)
        shares: np.ndarray = right / np.maximum(called.sum(axis=0), 1)
        return shares

    def auroc(self) -> np.ndarray:
        """Of each observation, out of fold, (l,); 0 for those too rare to be learned."""
        found = np.zeros(len(self.names))
        for i in range(len(self.names)):
            if _learned(self.known[:, i]):
                sure = ~np.isnan(self.known[:, i])
                found[i] = _auroc(self.found[sure, i], self.known[sure, i] == 1)
        return found

    def _best(self, i: int, beta: float) -> float:
        sure = ~np.isnan(self.known[:, i])
        if not _learned(self.known[:, i]):
            return NEVER
        found, present = self.found[sure, i], self.known[sure, i] == 1
        order = np.argsort(-found, kind="stable")
        right = np.cumsum(present[order])
        called = np.arange(1, len(order) + 1)
        scores = (1 + beta**2) * right / (called + beta**2 * right[-1])
        # Only between different probabilities can a threshold be.
        last = np.append(found[order][:-1] != found[order][1:], True)
        best = int(np.argmax(np.where(last, scores, -1)))
        return float(np.nextafter(found[order][best], -1))


def abnormal_labels(reports: Sequence[str]) -> np.ndarray:
    """The 13 observations of raw reports: 1, 0 or NaN for uncertain, (n, 13)."""
    found = label_reports(list(reports))
    return np.array([[_STATES[each.states[name]] for name in ABNORMAL] for each in found])


def fit_labels(
    vectors: np.ndarray,
    labels: np.ndarray,
    patients: Sequence[str],
    names: Sequence[str],
    penalties: Sequence[float] = PENALTIES,
    columns: np.ndarray | None = None,
) -> LabelPredictor:
    """Fit on training studies: features (n, d), labels 1, 0 or NaN unknown (n, l).

    `columns` are the weights of the features, (d,), by default all alike. The penalty of each
    observation is the one with the greatest AUROC out of fold by patient.
    """
    features = _Standardised.of(vectors, columns)
    return _fit(features, labels, patients, names, penalties)


def cross_fit_labels(
    vectors: np.ndarray,
    labels: np.ndarray,
    patients: Sequence[str],
    folds: np.ndarray,
    names: Sequence[str],
    penalties: Sequence[float] = PENALTIES,
) -> tuple[LabelPredictor, dict[int, LabelPredictor]]:
    """As `fit_labels` on all studies, and by fold (n,) on those of the other folds.

    No label of a fold reaches its predictor: penalty, logistic function and operating points are of
    the others too. Images do, by mean and standard deviation of the features.
    """
    features = _Standardised.of(vectors)
    parts: dict[int, LabelPredictor] = {}
    for fold in np.unique(folds).tolist():
        rest = np.flatnonzero(folds != fold)
        theirs = [patients[i] for i in rest.tolist()]
        parts[fold] = _fit(features.part(rest), labels[rest], theirs, names, penalties)
    return _fit(features, labels, patients, names, penalties), parts


@dataclass(frozen=True)
class _Standardised:
    """Features with mean 0 and standard deviation 1, or the root of their weight."""

    mean: np.ndarray  # (d,)
    scale: np.ndarray  # (d,)
    rows: np.ndarray  # (n, d)
    kernel: np.ndarray  # (n, n)

    @classmethod
    def of(cls, vectors: np.ndarray, columns: np.ndarray | None = None) -> "_Standardised":
        mean = vectors.mean(axis=0)
        scale = weighted_scale(vectors, columns)
        rows = (vectors - mean) / scale
        return cls(mean, scale, rows, rows @ rows.T / rows.shape[1])

    def part(self, rows: np.ndarray) -> "_Standardised":
        kernel = self.kernel[np.ix_(rows, rows)]
        return _Standardised(self.mean, self.scale, self.rows[rows], kernel)


def _fit(
    features: _Standardised,
    labels: np.ndarray,
    patients: Sequence[str],
    names: Sequence[str],
    penalties: Sequence[float],
) -> LabelPredictor:
    kernel, standard = features.kernel, features.rows
    folds = assign_folds(patients)
    # What is unknown counts as the mean, which teaches nothing.
    counts = np.maximum((~np.isnan(labels)).sum(axis=0), 1)
    means = np.nansum(labels, axis=0) / counts
    targets = np.where(np.isnan(labels), means, labels)
    scored = [out_of_fold(kernel, targets, folds, penalty) for penalty in penalties]
    num = len(names)
    weights = np.zeros((standard.shape[1], num), np.float32)
    slope, bias = np.zeros(num), np.full(num, -np.inf)
    found = np.zeros(labels.shape)
    for i in range(num):
        if not _learned(labels[:, i]):
            continue
        sure = ~np.isnan(labels[:, i])
        present = labels[sure, i] == 1
        ranks = [_auroc(scores[sure, i], present) for scores in scored]
        best = int(np.argmax(ranks))
        slope[i], shift = _platt(scored[best][sure, i], present)
        dual = solve_ridge(kernel, targets[:, i : i + 1] - means[i], penalties[best])
        weights[:, i] = (standard.T @ dual)[:, 0] / standard.shape[1]
        found[:, i] = _logistic(scored[best][:, i] * slope[i] + shift)
        bias[i] = means[i] * slope[i] + shift  # the ridge predicts differences from the mean
    mean, scale = features.mean, features.scale
    return LabelPredictor(tuple(names), mean, scale, weights, slope, bias, labels, found)


def _learned(labels: np.ndarray) -> bool:
    return min((labels == 1).sum(), (labels == 0).sum()) >= _FEWEST


def _logistic(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-values))


def _auroc(scores: np.ndarray, present: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score  # two seconds to import

    return float(roc_auc_score(present, scores))


def _platt(scores: np.ndarray, present: np.ndarray) -> tuple[float, float]:
    """Slope and shift of the logistic function that fits best."""
    from sklearn.linear_model import LogisticRegression

    size = max(float(scores.std()), MIN_SCALE)
    fitted = LogisticRegression(C=1e3).fit(scores[:, None] / size, present)
    return float(fitted.coef_[0, 0]) / size, float(fitted.intercept_[0])
