"""Consensus of candidates: utilities as an evaluation's, and what tips the choice."""

import numpy as np
import pytest

from radrep.guidance.consensus import ConsensusRule, DocumentFrequencies, label_agreement
from radrep.guidance.selection import UtilityWeights
from radrep.guidance.utility import Pool, utility_parts
from radrep.metrics.labeler.vocabulary import ABNORMAL

NORMAL = "the heart is normal in size . the lungs are clear . no pleural effusion ."
TRAINING = [
    NORMAL,
    "the heart is normal in size . the lungs are clear .",
    "the heart is enlarged . there is a small pleural effusion .",
    "the heart is enlarged . the lungs are clear .",
    "no pneumothorax . the lungs are clear . the heart is normal .",
    "there is a large pleural effusion .",
]


POSITIVE = (
    (), (), ("Cardiomegaly", "Pleural Effusion"), ("Cardiomegaly",), (), ("Pleural Effusion",)
)  # fmt: skip
NOTHING = np.zeros(len(TRAINING))


def rule(*, others: float = 1.0, labels: float = 0.0) -> ConsensusRule:
    weights = UtilityWeights(rouge=5.0, labels=5.0)
    frequencies = DocumentFrequencies.of(TRAINING)
    return ConsensusRule(frequencies, weights, tuple(TRAINING), others, labels)


def probabilities(**present: float) -> np.ndarray:
    return np.array([present.get(name.replace(" ", "_"), 0.05) for name in ABNORMAL])


def utilities() -> np.ndarray:
    """Of the training reports as candidates against each as the reference."""
    pool = Pool(tuple(TRAINING), np.full(len(TRAINING), -1))
    return utility_parts(TRAINING, pool)


def test_utilities_are_those_of_selection_with_the_frequencies_of_training() -> None:
    positive = np.array([[float(name in found) for name in ABNORMAL] for found in POSITIVE])
    np.testing.assert_allclose(rule().utility_parts(TRAINING, positive), utilities(), atol=1e-6)


def test_predictions_for_the_pool_are_kept_and_carried_over_to_other_reports() -> None:
    """Where one training report alone is what images call for, utilities against it come out."""
    table = rule().weights.combine(utilities())
    for row, reference in enumerate(TRAINING):
        found = rule().predict(TRAINING, table[row])
        np.testing.assert_allclose(found, table[row], atol=0.2)  # the penalty's share
        assert found.argmax() == row
        close, far = "the heart is enlarged . small effusion .", "no pneumothorax ."
        if reference == TRAINING[2]:
            near = rule().predict([close, far], table[row])
            assert near[0] > near[1] + 1
            twice = ConsensusRule(
                DocumentFrequencies.of(TRAINING), rule().weights, tuple(TRAINING)
            ).predict([close, close], table[row])
            assert twice[0] == twice[1] == near[0]


def test_the_report_that_most_agree_with_is_chosen_and_of_equals_the_first() -> None:
    odd, none = "there is a large pleural effusion .", probabilities()
    assert rule().choose([odd, TRAINING[1], NORMAL, TRAINING[4]], NOTHING, none) in (1, 2)
    assert rule().choose([NORMAL, NORMAL, odd], NOTHING, none) == 0
    assert rule().choose([odd], NOTHING, none) == 0
    assert rule().choose(["", NORMAL, TRAINING[1]], NOTHING, none) != 0
    table = rule().weights.combine(utilities())
    wanted = [TRAINING[1], NORMAL, TRAINING[4], odd]
    assert rule(others=0.0).choose(wanted, table[5], none) == 3, "what images call for"


def test_probabilities_overrule_a_silent_majority_only_where_they_are_high() -> None:
    candidates = [NORMAL, TRAINING[1], TRAINING[4], TRAINING[2]]
    large = probabilities(Cardiomegaly=0.9, Pleural_Effusion=0.8)
    assert rule().choose(candidates, NOTHING, large) < 3
    assert rule(labels=20.0).choose(candidates, NOTHING, large) == 3
    assert rule(labels=20.0).choose(candidates, NOTHING, probabilities(Fracture=0.9)) < 3


def test_agreement_counts_present_and_absent_by_half() -> None:
    named = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    sure = label_agreement(named, np.array([1.0, 1e-9]))
    np.testing.assert_allclose(sure, [0.5, 1.0, 0.0, 0.5], atol=1e-6)
    assert label_agreement(np.zeros((1, 3)), np.array([0.3, 0.2, 0.9]))[0] == pytest.approx(0.5)
    assert not label_agreement(named, np.zeros(2)).any(), "nothing is predicted"
