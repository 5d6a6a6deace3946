import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from radrep.errors import DataError
from radrep.metrics.classification import MEASURES, LabelScore, LabelScores, score_labels

# A first call imports scikit-learn, and others take some ten milliseconds.
few = settings(max_examples=40, deadline=None)

# Few different values, so that ties, zeros and ones come up.
probability = st.integers(0, 8).map(lambda k: k / 8) | st.floats(0, 1, width=32)
studies = st.lists(st.tuples(probability, st.booleans()), min_size=2, max_size=40)


def columns(pairs) -> tuple[np.ndarray, np.ndarray]:
    scores, present = (np.array(column) for column in zip(*pairs, strict=True))
    assume(0 < present.sum() < len(present))
    return scores.astype(np.float32), present


def score(scores, present, **options) -> LabelScore:
    labels = np.asarray(present, np.float32)[:, None]
    return score_labels(np.asarray(scores)[:, None], labels, ["Edema"], **options).rows[0]


def f1_at(scores, present, threshold) -> float:
    fired = scores > threshold
    return 2 * (fired & present).sum() / (fired.sum() + present.sum())


@few
@given(studies)
def test_auroc_is_the_share_of_pairs_in_the_right_order(pairs):
    scores, present = columns(pairs)
    differences = scores[present][:, None].astype(float) - scores[~present]
    right = (differences > 0).mean() + (differences == 0).mean() / 2
    assert score(scores, present).auroc == pytest.approx(right)


@few
@given(studies)
def test_order_alone_decides_auroc_and_average_precision(pairs):
    scores, present = columns(pairs)
    ranks = np.unique(scores, return_inverse=True)[1] / len(scores)
    one, other = score(scores, present), score(ranks, present)
    assert one.auroc == pytest.approx(other.auroc)
    assert one.average_precision == pytest.approx(other.average_precision)
    assert one.f1 == pytest.approx(other.f1) or scores.min() == 0 or ranks.min() == 0


@few
@given(studies)
def test_turning_probabilities_and_labels_round_turns_nothing_but_the_positive(pairs):
    scores, present = columns(pairs)
    scores = np.round(scores * 2**16).astype(np.float32) / 2**16  # 1 - (1 - p) is p
    one, other = score(scores, present), score(1 - scores, ~present)
    assert one.auroc == pytest.approx(other.auroc)
    assert one.brier == pytest.approx(other.brier)


@few
@given(studies)
def test_no_threshold_from_0_to_1_has_a_greater_f1(pairs):
    scores, present = columns(pairs)
    row = score(scores, present)
    assert 0 <= row.threshold <= 1
    assert row.f1 == pytest.approx(f1_at(scores, present, np.float32(row.threshold)))
    for threshold in (0, *scores.tolist()):
        assert f1_at(scores, present, np.float32(threshold)) <= row.f1 + 1e-9


@few
@given(studies)
def test_a_threshold_given_anew_gives_the_same_row(pairs):
    scores, present = columns(pairs)
    row = score(scores, present)
    again = score(scores, present, thresholds=LabelScores((row,)).thresholds())
    assert again == row


@few
@given(studies)
def test_calibration_error_is_a_mean_of_distances_in_bins(pairs):
    scores, present = columns(pairs)
    total = 0.0
    for k in range(15):
        upper = scores.astype(float) * 15 < k + 1 if k < 14 else True
        inside = (scores * np.float32(15) >= k) & upper
        if inside.any():
            distance = abs(scores[inside].astype(float).mean() - present[inside].mean())
            total += distance * inside.mean()
    assert score(scores, present).calibration_error == pytest.approx(total, abs=1e-6)


def test_a_perfect_classifier_is_perfect():
    row = score([0.0, 0.0, 1.0], [0, 0, 1])
    assert (row.auroc, row.average_precision, row.f1, row.precision, row.recall) == (1,) * 5
    assert (row.brier, row.calibration_error) == (0, 0)
    assert row.threshold == 0.5


def test_worked_by_hand():
    row = score([0.9, 0.7, 0.6, 0.2], [1, 0, 1, 0])
    assert (row.num_known, row.num_present) == (4, 2)
    assert row.auroc == pytest.approx(3 / 4)
    assert row.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert row.brier == pytest.approx((0.01 + 0.49 + 0.16 + 0.04) / 4)
    assert row.calibration_error == pytest.approx((0.1 + 0.7 + 0.4 + 0.2) / 4)
    assert row.threshold == pytest.approx(0.4)
    assert (row.precision, row.recall) == (pytest.approx(2 / 3), 1)
    assert row.f1 == pytest.approx(0.8)


def test_calibrated_probabilities_have_a_small_error_and_shifted_ones_the_shift():
    draw = np.random.default_rng(0)
    scores = draw.uniform(0, 0.7, 40_000)
    present = draw.random(40_000) < scores
    assert score(scores, present).calibration_error < 0.01
    assert score(scores + 0.2, present).calibration_error == pytest.approx(0.2, abs=0.01)


def test_random_scores_have_the_scores_of_chance():
    draw = np.random.default_rng(0)
    row = score(draw.random(20_000), draw.random(20_000) < 0.1)
    assert row.auroc == pytest.approx(0.5, abs=0.02)
    assert row.average_precision == pytest.approx(0.1, abs=0.01)
    assert row.recall > 0.9  # the greatest F1 of chance is that of firing always


def test_unknown_labels_take_no_part():
    draw = np.random.default_rng(1)
    scores, labels = draw.random((50, 1)), (draw.random((50, 1)) < 0.4).astype(float)
    known = draw.random(50) < 0.5
    labels[~known] = np.nan
    assert score(scores[:, 0], labels[:, 0]) == score(scores[known, 0], labels[known, 0])


@pytest.mark.parametrize("value", [0, 1, np.nan])
def test_a_label_of_one_kind_has_no_score_and_never_fires(value):
    labels = np.array([[value, 1], [value, 0]])
    probabilities = np.array([[1.0, 0.9], [1.0, 0.1]])
    scores = score_labels(probabilities, labels, ["Fracture", "Edema"])
    row = scores.rows[0]
    assert row == LabelScore("Fracture", 0 if np.isnan(value) else 2, 2 if value == 1 else 0)
    assert scores.thresholds().dtype == np.float32
    assert not (probabilities[:, 0] > scores.thresholds()[0]).any()
    for measure in MEASURES:
        assert scores.macro(measure) == getattr(scores.rows[1], measure)


def test_macro_is_the_mean_over_labels():
    draw = np.random.default_rng(2)
    scores = score_labels(draw.random((30, 3)), np.eye(3)[draw.integers(3, size=30)], list("abc"))
    for measure in MEASURES:
        expected = np.mean([getattr(row, measure) for row in scores.rows])
        assert scores.macro(measure) == pytest.approx(expected)
    nothing = score_labels(np.ones((2, 1)), np.ones((2, 1)), ["a"])
    assert nothing.macro("auroc") is None
    with pytest.raises(DataError, match="'auc' is no measure of a label; choose from auroc"):
        scores.macro("auc")


def test_given_thresholds_are_applied_and_not_chosen():
    row = score([0.9, 0.7, 0.6, 0.2], [1, 0, 1, 0], thresholds=np.array([0.8]))
    assert (row.threshold, row.precision, row.recall) == (0.8, 1, 0.5)
    never = score([0.9, 1.0], [0, 1], thresholds=np.array([1.0]))
    assert (never.precision, never.recall, never.f1) == (0, 0, 0)
    assert never.auroc == 1


def test_neighbouring_numbers_are_distinguished():
    low = np.float32(0.3)
    for high in (np.nextafter(low, np.float32(1)), np.nextafter(low, np.float32(0))):
        row = score([low, high], [low > high, high > low])
        assert row.f1 == 1


def test_what_does_not_fit_is_refused():
    ones = np.ones((2, 1))
    with pytest.raises(DataError, match=r"\(2, 1\), labels \(3, 1\) and 1 names do not fit"):
        score_labels(ones, np.ones((3, 1)), ["a"])
    with pytest.raises(DataError, match="and 2 names do not fit"):
        score_labels(ones, ones, ["a", "b"])
    with pytest.raises(DataError, match=r"expected 1 thresholds, one a label, got \(2,\)"):
        score_labels(ones, ones, ["a"], thresholds=np.ones(2))
    with pytest.raises(DataError, match="Edema: a probability is nan; expected 0 to 1"):
        score([0.5, np.nan], [0, 1])
    with pytest.raises(DataError, match="Edema: a probability is 1.5"):
        score([0.5, 1.5], [0, 1])
    with pytest.raises(DataError, match="Edema: a label is -1.0; expected 1, 0 or NaN"):
        score([0.5, 0.5], [-1, 1])
