"""Probabilities in closed form: cross-fitted, calibrated, with operating points that hold."""

import numpy as np
import pytest

from radrep.errors import DataError

# `assign_folds` and `out_of_fold` have their own tests, in test_selection.py.
from radrep.guidance.labels import NEVER, LabelPredictor, fit_labels

NAMES = ("common", "rare", "never", "doubtful")


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """400 studies of 200 patients; what is common depends on two of the features."""
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(400, 20)).astype(np.float32) * 10 + 3
    logits = (vectors[:, 0] - vectors[:, 1]) / 7
    labels = np.zeros((400, 4))
    labels[:, 0] = draw.random(400) < 1 / (1 + np.exp(-logits))
    labels[:, 1] = draw.random(400) < 1 / (1 + np.exp(-logits + 2.5))
    labels[:4, 2] = 1
    labels[:, 3] = np.where(draw.random(400) < 0.3, np.nan, labels[:, 0])
    return vectors, labels, [f"p{i // 2}" for i in range(400)]


@pytest.fixture(scope="module")
def fitted(drawn) -> LabelPredictor:
    return fit_labels(*drawn, NAMES)


def test_features_of_another_encoder_are_refused(fitted):
    with pytest.raises(
        DataError, match="images have 21 features and findings were learned from 20"
    ):
        fitted.probabilities(np.zeros((1, 21), np.float32))


def test_probabilities_are_calibrated_out_of_fold_and_on_new_studies(drawn, fitted):
    vectors, labels, _ = drawn
    for column in (0, 1):
        assert fitted.found[:, column].mean() == pytest.approx(labels[:, column].mean(), abs=0.03)
        called = fitted.found[:, column] > 0.5
        assert labels[called, column].mean() > 0.5
    assert np.all(fitted.probabilities(vectors[:3])[:, 2] == 0), "four studies teach nothing"
    again = fitted.probabilities(vectors)
    assert np.corrcoef(again[:, 0], fitted.found[:, 0])[0, 1] > 0.95


def test_a_study_has_the_same_bits_alone_and_in_any_batch(drawn, fitted):
    vectors, _, _ = drawn
    found = fitted.probabilities(vectors)
    for size in (1, 7, 16):
        parts = [fitted.probabilities(vectors[i : i + size]) for i in range(0, 400, size)]
        assert np.array_equal(np.concatenate(parts), found)


def test_a_study_s_own_label_does_not_reach_its_probability_out_of_fold(drawn, fitted):
    vectors, labels, patients = drawn
    changed = labels.copy()
    own = [i for i, patient in enumerate(patients) if patient == "p7"]
    changed[own, 0] = 1 - changed[own, 0]
    other = fit_labels(vectors, changed, patients, NAMES, penalties=(10.0,))
    same = fit_labels(vectors, labels, patients, NAMES, penalties=(10.0,))
    # The mean and the logistic function are of all studies; the order among its fold is not.
    from radrep.guidance.selection import assign_folds

    folds = assign_folds(patients)
    mine = folds == folds[own[0]]
    assert np.array_equal(np.argsort(other.found[mine, 0]), np.argsort(same.found[mine, 0]))
    assert not np.array_equal(np.argsort(other.found[~mine, 0]), np.argsort(same.found[~mine, 0]))


def test_thresholds_hold_what_they_promise(drawn, fitted):
    _, labels, _ = drawn
    for sensitivity in (0.5, 0.8, 0.9, 1.0):
        thresholds = fitted.at_sensitivity(sensitivity)
        for column in (0, 1, 3):
            present = labels[:, column] == 1
            reached = (fitted.found[present, column] > thresholds[column]).mean()
            higher = (fitted.found[present, column] > np.nextafter(thresholds[column], 2)).mean()
            assert reached >= sensitivity > higher or higher >= sensitivity
            assert reached - sensitivity < 0.03
    assert fitted.at_sensitivity(0.9)[2] == NEVER


def test_the_f_score_threshold_is_the_best_of_all(drawn, fitted):
    _, labels, _ = drawn
    for beta in (0.5, 1.0, 2.0):
        thresholds = fitted.at_f_score(beta)
        for column in (0, 1, 3):
            sure = ~np.isnan(labels[:, column])
            found, present = fitted.found[sure, column], labels[sure, column] == 1

            def score(threshold: float) -> float:
                called = found > threshold  # noqa: B023
                right = (called & present).sum()  # noqa: B023
                return (1 + beta**2) * right / (called.sum() + beta**2 * present.sum())  # noqa: B023

            best = max(map(score, [-1.0, *found]))
            assert score(thresholds[column]) == pytest.approx(best)
        precise = fitted.precision(thresholds)
        assert 0 < precise[0] <= 1
    assert fitted.precision(fitted.at_f_score(0.5))[0] > fitted.precision(fitted.at_f_score(2.0))[0]
