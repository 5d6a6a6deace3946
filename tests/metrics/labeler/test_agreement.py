"""Agreement with labels that others gave, and with IU X-Ray's MeSH terms (specs: the floors)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support

from radrep.data.study import SourceStudy
from radrep.errors import DataError
from radrep.metrics.labeler import OBSERVATIONS, Findings, label_reports
from radrep.metrics.labeler.agreement import Agreement, count_agreement
from radrep.preparation.sources.iu_xray.source import IuXraySource

# Observation -> the MeSH term, and the least F1 for positive on the training studies.
FLOORS = {
    "Cardiomegaly": ("Cardiomegaly", 0.85),
    "Pleural Effusion": ("Pleural Effusion", 0.85),
    "Atelectasis": ("Pulmonary Atelectasis", 0.80),
    "No Finding": ("normal", 0.80),
}


@pytest.fixture(scope="module")
def training(data_dir: Path) -> list[SourceStudy]:
    return [study for study in IuXraySource(data_dir / "iu_xray") if study.split == "train"]


def whole_text(study: SourceStudy) -> str:
    """MeSH terms describe findings and impression."""
    return "\n".join(study.sections.get(name, "") for name in ("findings", "impression"))


@pytest.fixture(scope="module")
def agreement(training: list[SourceStudy]) -> Callable[[str, str], float]:
    found = label_reports([whole_text(study) for study in training])

    def f1(observation: str, term: str) -> float:
        ours = {i for i, one in enumerate(found) if one.states[observation] == "positive"}
        theirs = {i for i, study in enumerate(training) if term in study.labels}
        assert len(theirs) > 50
        return 2 * len(ours & theirs) / (len(ours) + len(theirs))

    return f1


@pytest.mark.parametrize(("observation", "term", "floor"), [(k, *v) for k, v in FLOORS.items()])
def test_findings_agree_with_mesh_terms(agreement, observation, term, floor):
    assert agreement(observation, term) >= floor


def test_figures_of_known_labels_equal_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    states = rng.choice(["positive", "uncertain", "negative", "absent"], (200, 14))
    reports = [Findings(dict(zip(OBSERVATIONS, row, strict=True)), {}, ()) for row in states]
    given = rng.choice([1, 0, np.nan], (200, 14), p=[0.3, 0.5, 0.2])
    for i, row in enumerate(count_agreement(reports, given)):
        known = ~np.isnan(given[:, i])
        theirs, ours = given[known, i] == 1, states[known, i] == "positive"
        expected = precision_recall_fscore_support(theirs, ours, average="binary")[:3]
        assert row.observation == OBSERVATIONS[i]
        assert (row.num_known, row.given, row.labeler) == (known.sum(), theirs.sum(), ours.sum())
        assert row.uncertain == (states[known, i] == "uncertain").sum()
        assert (row.precision, row.recall, row.f1) == pytest.approx(expected)
        assert row.kappa == pytest.approx(cohen_kappa_score(theirs, ours))


def test_figures_without_a_denominator_are_none() -> None:
    nothing = Agreement("Edema", 5, given=0, labeler=0, both=0, uncertain=0)
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.kappa) == (None,) * 4
    always = Agreement("Edema", 5, given=5, labeler=5, both=5, uncertain=0)
    assert (always.f1, always.kappa) == (1, None)
    assert Agreement("Edema", 0, given=0, labeler=0, both=0, uncertain=0).kappa is None
    assert Agreement("Edema", 5, given=0, labeler=5, both=0, uncertain=0).kappa == 0
    with pytest.raises(DataError, match=r"labels \(2, 14\) and 1 reports do not fit"):
        count_agreement(label_reports(["Clear."]), np.zeros((2, 14)))
