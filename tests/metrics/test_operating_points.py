"""Sensitivity and specificity of reports, and the ROC beside them."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from radrep.metrics.operating_points import rate_findings

NAMES = ("Cardiomegaly", "Pleural Effusion", "Fracture")
TEXT = {
    "both": "the heart is enlarged . there is a pleural effusion .",
    "heart": "the heart is enlarged . no pleural effusion .",
    "none": "the heart is normal in size . no pleural effusion .",
    "maybe": "possible cardiomegaly . no pleural effusion .",
}


def studies(**counts: int) -> list[str]:
    return [TEXT[name] for name, count in counts.items() for _ in range(count)]


def test_rates_are_counted_over_what_references_are_sure_of() -> None:
    references = studies(heart=20, none=30, maybe=10)
    # Names 15 of the 20, and 3 of the 30.
    reports = studies(heart=15, none=5) + studies(heart=3, none=27) + studies(heart=10)
    probabilities = np.random.default_rng(0).random((60, 3))
    (found,) = rate_findings(references, reports, NAMES, probabilities, {0.5: references})
    assert (found.name, found.num_present, found.num_absent) == ("Cardiomegaly", 20, 30)
    assert (found.sensitivity.value, found.specificity.value) == (0.75, 0.9)
    # Wilson's 95 % intervals of 15 of 20 and of 27 of 30.
    assert (found.sensitivity.low, found.sensitivity.high) == pytest.approx(
        (0.531, 0.888), abs=1e-3
    )
    assert (found.specificity.low, found.specificity.high) == pytest.approx(
        (0.744, 0.965), abs=1e-3
    )
    assert found.edited == {0.5: (0.0, 1.0)}, "the references themselves"


def test_the_curve_is_that_of_sklearn_and_its_area_lies_in_the_interval() -> None:
    draw = np.random.default_rng(1)
    references = studies(both=40, none=60)
    truth = np.array([1] * 40 + [0] * 60)
    probabilities = np.stack([(truth + draw.normal(0, 1, 100)).round(1)] * 3, axis=1)
    found = rate_findings(references, references, NAMES, probabilities, {})
    assert [rates.name for rates in found] == ["Cardiomegaly", "Pleural Effusion"]
    rates = found[0]
    assert rates.auroc.value == pytest.approx(roc_auc_score(truth, probabilities[:, 0]))
    assert rates.auroc.low < rates.auroc.value < rates.auroc.high
    assert 0.05 < rates.auroc.high - rates.auroc.low < 0.3
    wrong, right, _ = roc_curve(truth, probabilities[:, 0], drop_intermediate=False)
    points = set(zip(wrong.round(9).tolist(), right.round(9).tolist(), strict=True))
    assert {(round(x, 9), round(y, 9)) for x, y in rates.roc} < points
    assert rates.roc[0] == (0, 0)
    assert rates.roc[-1] == (1, 1)
    assert np.trapezoid(*np.array(rates.roc).T[::-1]) == pytest.approx(rates.auroc.value)


def test_rare_findings_and_those_never_predicted_are_left_out() -> None:
    references = studies(heart=9, none=60)
    probabilities = np.random.default_rng(0).random((69, 3))
    assert rate_findings(references, references, NAMES, probabilities, {}) == ()
    references = studies(heart=30, none=30)
    assert rate_findings(references, references, NAMES, np.zeros((60, 3)), {}) == ()
