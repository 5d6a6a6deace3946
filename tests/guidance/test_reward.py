"""Rewards of drawn reports against the scorers that evaluation uses."""

import math

import numpy as np
import pytest

from radrep.guidance.reward import ABNORMAL, RewardScorer, RewardWeights, leave_one_out
from radrep.metrics.nlg import score_nlg

RAW = {
    "a": "The heart is enlarged. No pleural effusion.",
    "b": "Small left pleural effusion. The heart is enlarged.",
    "c": "The heart is normal in size. The lungs are clear.",
    "d": "The heart is enlarged. Lungs are clear.",
    "e": "Right pneumothorax.",
    "f": "The heart is enlarged.",
}
WORDS = {id_: text.lower().replace(".", " .") for id_, text in RAW.items()}
DRAWN = (
    "the heart is enlarged . small left pleural effusion .",
    "the heart is normal in size . no pleural effusion .",
    "the lungs are clear .",
    "",
)


@pytest.fixture(scope="module")
def scorer() -> RewardScorer:
    return RewardScorer(WORDS, RAW, RewardWeights())


def test_words_score_as_in_evaluation(scorer: RewardScorer) -> None:
    ids = ["b", "c"]
    found = scorer.score(ids, DRAWN * 2, DRAWN * 2)
    assert found.cider.shape == found.rouge.shape == found.labels.shape == (2, 4)
    for row, id_ in enumerate(ids):
        for column, text in enumerate(DRAWN):
            others = [reference for key, reference in WORDS.items() if key != id_]
            scores = score_nlg([WORDS[id_], *others], [text, *others], meteor="skip")
            assert found.cider[row, column] == pytest.approx(
                scores.per_report["cider"][0], abs=1e-9
            )
            assert found.rouge[row, column] == pytest.approx(
                scores.per_report["rouge_l"][0], abs=1e-9
            )


def test_findings_weigh_by_their_rarity(scorer: RewardScorer) -> None:
    """Cardiomegaly is in four reports, effusion and pneumothorax are in one each: twice as much."""
    heart, effusion, air = ({n} for n in ("Cardiomegaly", "Pleural Effusion", "Pneumothorax"))
    assert scorer.label_f1(heart | effusion, heart | effusion) == 1
    assert scorer.label_f1(heart | effusion, heart) == pytest.approx(2 * 1 / (3 + 1))
    assert scorer.label_f1(heart | effusion, effusion) == pytest.approx(2 * 2 / (3 + 2))
    assert scorer.label_f1(heart, heart | air) == pytest.approx(2 * 1 / (1 + 3))
    assert scorer.label_f1(heart, air) == scorer.label_f1(heart, set()) == 0
    assert scorer.label_f1(set(), heart) == 0
    assert scorer.label_f1(set(), set()) == 0.3
    found = scorer.score(["b", "c"], DRAWN * 2, DRAWN * 2).labels
    np.testing.assert_allclose(found, [[1, 0, 0, 0], [0, 0.3, 0.3, 0.3]])


def test_no_finding_weighs_more_than_three_times_the_commonest() -> None:
    raw = {str(i): "The heart is enlarged." for i in range(100)} | {"x": "Right pneumothorax."}
    scorer = RewardScorer(raw, raw, RewardWeights())
    both = scorer.label_f1({"Cardiomegaly"}, {"Cardiomegaly", "Pneumothorax"})
    assert both == pytest.approx(2 / (1 + 4))
    assert "No Finding" not in ABNORMAL


def test_the_baseline_is_the_mean_of_the_others() -> None:
    rewards = np.random.default_rng(0).random((7, 5))
    found = leave_one_out(rewards)
    for row, own in zip(found, rewards, strict=True):
        for k in range(5):
            assert row[k] == pytest.approx(own[k] - np.delete(own, k).mean())
    assert np.abs(found.sum(axis=1)).max() < 1e-12
    assert math.isclose(leave_one_out(np.array([[1.0, 0.0]]))[0, 0], 1.0)
