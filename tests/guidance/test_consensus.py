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


def rule(*, labels: float = 0.0) -> ConsensusRule:
    weights = UtilityWeights(rouge=5.0, labels=5.0)
    return ConsensusRule(DocumentFrequencies.of(TRAINING), weights, labels)


def probabilities(**present: float) -> np.ndarray:
    return np.array([present.get(name.replace(" ", "_"), 0.05) for name in ABNORMAL])


def test_utilities_are_those_of_selection_with_the_frequencies_of_training() -> None:
    """Training reports against one another, which `utility_parts` scores as references."""
    pool = Pool(tuple(TRAINING), np.full(len(TRAINING), -1))
    ours = rule()
    positive = np.array(
        [[1.0 if (name in found) else 0.0 for name in ABNORMAL] for found in (
            (), (), ("Cardiomegaly", "Pleural Effusion"), ("Cardiomegaly",), (),
            ("Pleural Effusion",),
        )]
    )  # fmt: skip
    np.testing.assert_allclose(
        ours.utility_parts(TRAINING, positive), utility_parts(TRAINING, pool), atol=1e-6
    )


def test_the_report_that_most_agree_with_is_chosen_and_of_equals_the_first() -> None:
    odd = "there is a large pleural effusion ."
    assert rule().choose([odd, TRAINING[1], NORMAL, TRAINING[4]], probabilities()) in (1, 2)
    assert rule().choose([NORMAL, NORMAL, odd], probabilities()) == 0
    assert rule().choose([odd], probabilities()) == 0
    assert rule().choose(["", NORMAL, TRAINING[1]], probabilities()) != 0


def test_probabilities_overrule_a_silent_majority_only_where_they_are_high() -> None:
    candidates = [NORMAL, TRAINING[1], TRAINING[4], TRAINING[2]]
    large = probabilities(Cardiomegaly=0.9, Pleural_Effusion=0.8)
    assert rule().choose(candidates, large) < 3
    assert rule(labels=20.0).choose(candidates, large) == 3
    assert rule(labels=20.0).choose(candidates, probabilities(Fracture=0.9)) < 3


def test_agreement_counts_present_and_absent_by_half() -> None:
    named = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    sure = label_agreement(named, np.array([1.0, 1e-9]))
    np.testing.assert_allclose(sure, [0.5, 1.0, 0.0, 0.5], atol=1e-6)
    assert label_agreement(np.zeros((1, 3)), np.array([0.3, 0.2, 0.9]))[0] == pytest.approx(0.5)
    assert not label_agreement(named, np.zeros(2)).any(), "nothing is predicted"
