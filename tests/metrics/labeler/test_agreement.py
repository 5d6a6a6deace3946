"""Agreement with the MeSH terms that people gave IU X-Ray's reports, see specs on the floors."""

from collections.abc import Callable
from pathlib import Path

import pytest

from radrep.data.study import SourceStudy
from radrep.metrics.labeler import label_reports
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
