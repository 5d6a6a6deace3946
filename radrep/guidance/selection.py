"""Expected-utility selection: the training report with the highest utility that images predict.

A kernel ridge regression, in closed form, from image features to the utilities of a pool of
training reports (`radrep.guidance.utility`). Nothing is learned of any study but those handed in.

Letters: n training studies, d features of a study, m reports of the pool, b new studies.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from radrep.data.store import order_patients
from radrep.errors import DataError
from radrep.guidance.image_features import weighted_scale
from radrep.guidance.utility import PARTS, build_pool, utility_parts

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
NUM_FOLDS = 5
# On IU X-Ray 900 outputs take 110 MB; at rank 128 they take 8 in half precision.
RANK = 128
MAX_STUDIES = 5000  # the fit takes time by their cube
_TOP = 5


@dataclass(frozen=True)
class UtilityWeights:
    """Weights of ROUGE-L and of label F1 in a utility, beside CIDEr-D's of 1."""

    rouge: float = 0.0
    labels: float = 0.0

    def combine(self, parts: np.ndarray) -> np.ndarray:
        """(3, ...) -> (...)."""
        combined: np.ndarray = np.tensordot((1.0, self.rouge, self.labels), parts, axes=1)
        return combined


@dataclass(frozen=True)
class TrainingStudies:
    """What a selector learns from."""

    vectors: np.ndarray  # features of the images, float32 (n, d)
    reports: Sequence[str]  # cleaned
    patients: Sequence[str]  # whose each study is
    weights: np.ndarray | None = None  # of the features, (d,); None: all alike

    def part(self, rows: np.ndarray) -> "TrainingStudies":
        """Some of the studies."""
        reports, patients = ([texts[i] for i in rows] for texts in (self.reports, self.patients))
        return TrainingStudies(self.vectors[rows], reports, patients, self.weights)


@dataclass(frozen=True)
class Selected:
    """The report selected for a study, its predicted utility, and the best of the pool."""

    report: str
    utility: float
    top: tuple[tuple[str, float], ...]  # best first, the selected one included


@dataclass(frozen=True)
class ReportSelector:
    """Predicts the utility of each report of a pool from features of new images.

    Its linear map is kept as a product of two matrices of low rank r.
    """

    pool: tuple[str, ...]
    pool_size: int  # that was asked for
    mean: np.ndarray  # of the training features, (d,)
    scale: np.ndarray  # what they are divided by, (d,)
    basis: np.ndarray  # (d, r)
    loadings: np.ndarray  # (r, 3 m)
    offset: np.ndarray  # mean utilities in training, (3 m,)
    penalty: float  # of the ridge
    score: float  # realised utility out of fold, at that penalty

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """The parts of the utilities, (b, d) -> (3, b, m)."""
        if vectors.shape[1] != len(self.mean):
            raise DataError(
                f"images have {vectors.shape[1]} features and selection was fitted on "
                f"{len(self.mean)}: the two are of other encoders or numbers of views"
            )
        flat = ((vectors - self.mean) / self.scale) @ self.basis @ self.loadings + self.offset
        return flat.reshape(len(vectors), len(PARTS), len(self.pool)).swapaxes(0, 1)

    def select(
        self,
        vectors: np.ndarray,
        weights: UtilityWeights,
        pool_size: int | None = None,
        num_top: int = _TOP,
    ) -> list[Selected]:
        """The report of highest predicted utility for each study, (b, d) -> b.

        Only the `pool_size` most frequent ones answer, by default the whole pool.
        """
        utilities = weights.combine(self.predict(vectors))[:, :pool_size]
        return [self._selected(row, num_top) for row in utilities]

    def _selected(self, utilities: np.ndarray, num_top: int) -> Selected:
        best = np.argsort(-utilities, kind="stable")[:num_top].tolist()
        top = tuple((self.pool[i], float(utilities[i])) for i in best)
        return Selected(*top[0], top)


def fit_selector(
    studies: TrainingStudies,
    *,
    pool_size: int,
    weights: UtilityWeights,
    penalties: Sequence[float] = PENALTIES,
    advance: Callable[[], object] | None = None,
) -> ReportSelector:
    """Fit on some training studies.

    The penalty is the one whose selections, out of fold by patient, have the highest utility.
    `advance` is called after each. Raises DataError if no study has a report.
    """
    vectors, reports = studies.vectors, studies.reports
    pool = build_pool(reports, pool_size)
    if not pool.reports:
        raise DataError("no training report has a word, so there is none to select")
    parts = utility_parts(reports, pool)
    mean = vectors.mean(axis=0)
    scale = weighted_scale(vectors, studies.weights)
    standard = (vectors - mean) / scale
    kernel = standard @ standard.T / standard.shape[1]
    folds = assign_folds(studies.patients)
    utilities = weights.combine(parts)
    best = (-np.inf, 0.0)
    for penalty in penalties:
        chosen = out_of_fold(kernel, utilities, folds, penalty).argmax(axis=1)
        realised = float(utilities[np.arange(len(chosen)), chosen].mean())
        best = max(best, (realised, penalty))
        if advance is not None:
            advance()
    targets = parts.transpose(1, 0, 2).reshape(len(reports), -1)  # (n, 3 m)
    offset = targets.mean(axis=0)
    dual = solve_ridge(kernel, targets - offset, best[1])
    basis, loadings = _factorise(standard, kernel, dual)
    return ReportSelector(
        pool=pool.reports,
        pool_size=pool_size,
        mean=mean,
        scale=scale,
        basis=basis,
        loadings=loadings,
        offset=offset.astype(np.float32),
        penalty=best[1],
        score=best[0],
    )


def cross_fit(
    studies: TrainingStudies,
    vectors: np.ndarray,
    patients: Sequence[str],
    *,
    pool_size: int,
    weights: UtilityWeights,
    advance: Callable[[], object] | None = None,
) -> list[Selected]:
    """What is selected for some studies, (b, d), by selectors that had no report of the patient.

    For a patient of the training studies it is fitted on the other folds alone: pool, document
    frequencies, normalisation and penalty too.
    """
    folds = assign_folds(studies.patients)
    known = dict(zip(studies.patients, folds.tolist(), strict=True))
    wanted = np.array([known.get(patient, -1) for patient in patients])
    selected: dict[int, Selected] = {}
    for fold in np.unique(wanted):
        rest = studies.part(np.flatnonzero(folds != fold))
        selector = fit_selector(rest, pool_size=pool_size, weights=weights, advance=advance)
        rows = np.flatnonzero(wanted == fold).tolist()
        selected |= zip(rows, selector.select(vectors[rows], weights), strict=True)
    return [selected[i] for i in range(len(patients))]


def training_rows(num_studies: int) -> range:
    """The training studies to fit on: all, or at most `MAX_STUDIES` at equal distances."""
    return range(0, num_studies, max(1, math.ceil(num_studies / MAX_STUDIES)))


def assign_folds(patients: Sequence[str], num_folds: int = NUM_FOLDS) -> np.ndarray:
    """The fold of each study, (n,): all of a patient in one, about equally many patients in each.

    The order of the studies changes nothing.
    """
    fold = {patient: i % num_folds for i, patient in enumerate(order_patients(patients))}
    return np.array([fold[patient] for patient in patients])


def solve_ridge(kernel: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """Dual weights of a kernel ridge regression, (n, n) and (n, k) -> (n, k)."""
    dual = torch.from_numpy(targets.astype(kernel.dtype))
    solved: np.ndarray = torch.cholesky_solve(dual, _cholesky(kernel, penalty)).numpy()
    return solved


def out_of_fold(
    kernel: np.ndarray, targets: np.ndarray, folds: np.ndarray, penalty: float
) -> np.ndarray:
    """What a ridge regression on the other folds predicts for each study, (n, k).

    In closed form from the fit on all: the residuals of a fold are its dual weights times the
    inverse of its block of the inverse kernel. The mean of the targets is that of all folds.
    """
    inverse = torch.cholesky_inverse(_cholesky(kernel, penalty)).numpy()
    dual = inverse @ (targets - targets.mean(axis=0)).astype(kernel.dtype)
    predicted = np.empty_like(targets)
    for fold in np.unique(folds):
        own = np.flatnonzero(folds == fold)
        residuals = np.linalg.solve(inverse[np.ix_(own, own)], dual[own])
        predicted[own] = targets[own] - residuals
    return predicted


def _cholesky(kernel: np.ndarray, penalty: float) -> torch.Tensor:
    regular = torch.from_numpy(kernel).clone()
    regular.diagonal().add_(penalty)
    return torch.linalg.cholesky(regular)


def _factorise(
    standard: np.ndarray, kernel: np.ndarray, dual: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The primal weights as a product of low rank, (d, r) and (r, k), from dual ones (n, k).

    The product with the smallest error on the training studies: their predictions' main directions.
    """
    predicted = kernel @ dual  # (n, k)
    _, directions = np.linalg.eigh(predicted.T @ predicted)  # ascending
    kept = directions[:, ::-1][:, :RANK]
    basis = standard.T @ (dual @ kept / standard.shape[1])
    size = np.maximum(np.abs(basis).max(axis=0), np.finfo(np.float32).tiny)  # fits half precision
    return basis / size, size[:, None] * kept.T
