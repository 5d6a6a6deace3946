"""Buckets of predicted observations: cross-fitted, drawn by a seed, the same in any batch."""

import numpy as np
import pytest
import torch

from radrep.data.batch import Batch
from radrep.guidance.image_features import study_vectors
from radrep.guidance.label_tokens import (
    LabelTokens,
    StudyBuckets,
    assign_buckets,
    bucket_edges,
    label_buckets,
)
from radrep.guidance.labels import LabelPredictor, cross_fit_labels, fit_labels
from radrep.guidance.selection import assign_folds
from radrep.metrics.labeler.vocabulary import ABNORMAL

NUM, STATISTICS, VIEWS = 300, 12, 2
EFFUSION, EDEMA = ABNORMAL.index("Pleural Effusion"), ABNORMAL.index("Edema")


@pytest.fixture(scope="module")
def summaries() -> torch.Tensor:
    """Of 300 studies with two views each."""
    return torch.randn(VIEWS * NUM, STATISTICS, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def drawn(summaries: torch.Tensor) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features and labels of 150 patients; an effusion shows in a number, three have edema."""
    vectors = study_vectors(summaries.split([VIEWS] * NUM), VIEWS)
    draw = np.random.default_rng(0)
    labels = np.zeros((NUM, len(ABNORMAL)))
    labels[:, EFFUSION] = draw.random(NUM) < 1 / (1 + np.exp(-4 * vectors[:, 0]))
    labels[:3, EDEMA] = 1
    labels[5, EFFUSION] = np.nan
    return vectors, labels, [f"p{i // 2}" for i in range(NUM)]


@pytest.fixture(scope="module")
def fitted(drawn: tuple[np.ndarray, np.ndarray, list[str]]) -> LabelPredictor:
    return fit_labels(*drawn, ABNORMAL)


@pytest.mark.parametrize("num_buckets", [2, 3, 4, 7])
def test_higher_buckets_hold_more_of_what_is_present(
    num_buckets: int, drawn: tuple[np.ndarray, np.ndarray, list[str]], fitted: LabelPredictor
) -> None:
    labels = drawn[1]
    edges = bucket_edges(fitted, num_buckets)
    assert edges.shape == (len(ABNORMAL), num_buckets - 1)
    assert np.all(np.diff(edges[EFFUSION]) >= 0)
    buckets = assign_buckets(fitted.found, edges)
    assert set(buckets[:, EDEMA]) == {num_buckets}, "three studies teach nothing: unknown"
    found, present = buckets[:, EFFUSION], labels[:, EFFUSION] == 1
    assert found.max() == num_buckets - 1
    assert present[found == num_buckets - 1].mean() > 0.7
    assert present[found == 0].mean() < 0.2
    of_labels = label_buckets(labels, edges)
    assert set(of_labels[present, EFFUSION]) == {num_buckets - 1}
    assert set(of_labels[labels[:, EFFUSION] == 0, EFFUSION]) == {0}
    assert of_labels[5, EFFUSION] == of_labels[0, EDEMA] == num_buckets


def test_no_label_of_a_patient_reaches_what_is_predicted_for_it(
    drawn: tuple[np.ndarray, np.ndarray, list[str]],
) -> None:
    vectors, labels, patients = drawn
    folds = assign_folds(patients)
    own = [i for i, patient in enumerate(patients) if patient == "p7"]
    changed = labels.copy()
    changed[own] = 1 - changed[own]
    predicted = []
    for each in (labels, changed):
        _, parts = cross_fit_labels(vectors, each, patients, folds, ABNORMAL)
        part = parts[int(folds[own[0]])]
        found = part.probabilities(vectors[own])
        predicted.append((found, assign_buckets(found, bucket_edges(part, 4))))
        other = next(fold for fold in parts if fold != folds[own[0]])
        predicted[-1] += (parts[other].probabilities(vectors[own]),)
    np.testing.assert_array_equal(predicted[0][0], predicted[1][0])
    np.testing.assert_array_equal(predicted[0][1], predicted[1][1])
    assert not np.array_equal(predicted[0][2], predicted[1][2]), "which the other folds learn from"


def test_all_studies_together_are_fitted_as_without_folds(
    drawn: tuple[np.ndarray, np.ndarray, list[str]], fitted: LabelPredictor
) -> None:
    whole, _ = cross_fit_labels(*drawn, assign_folds(drawn[2]), ABNORMAL)
    np.testing.assert_array_equal(whole.found, fitted.found)
    np.testing.assert_array_equal(whole.weights, fitted.weights)


def test_shares_of_the_studies_have_their_labels_and_none() -> None:
    buckets = StudyBuckets(
        {"a": torch.tensor([1])}, {"a": torch.tensor([3])}, unknown=4, gold=0.3, dropped=0.2
    )
    given = [int(buckets("a", seed)) for seed in range(2000)]
    shares = {bucket: given.count(bucket) / len(given) for bucket in (1, 3, 4)}
    assert shares == pytest.approx({1: 0.5, 3: 0.3, 4: 0.2}, abs=0.04)
    assert given == [int(buckets("a", seed)) for seed in range(2000)]
    assert int(buckets.predicted["a"]) == 1, "as it was"


def test_a_filled_model_predicts_what_was_fitted_in_any_batch(
    summaries: torch.Tensor, drawn: tuple[np.ndarray, np.ndarray, list[str]], fitted: LabelPredictor
) -> None:
    tokens = LabelTokens(num_features=STATISTICS, num_views=VIEWS, dim=4)
    batch = Batch(tuple(map(str, range(NUM))), torch.full((NUM,), VIEWS))
    unknown = tokens.read(batch, lambda _: summaries)
    assert set(unknown.flatten().tolist()) == {4}, "nothing is known before"
    edges = bucket_edges(fitted, 4)
    tokens.fill(fitted, edges)
    found = tokens.read(batch, lambda _: summaries)
    wanted = assign_buckets(fitted.probabilities(drawn[0]), edges)
    assert (found.numpy() != wanted).sum() <= 1, "but for the rounding of what is kept"
    alone = [
        tokens.read(Batch(("a",), torch.tensor([VIEWS])), lambda _: part)  # noqa: B023
        for part in summaries.split(VIEWS)
    ]
    assert torch.equal(torch.cat(alone), found)
    again = LabelTokens(num_features=STATISTICS, num_views=VIEWS, dim=4)
    again.load_state_dict(tokens.state_dict())
    assert torch.equal(again.read(batch, lambda _: summaries), found)
