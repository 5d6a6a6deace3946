"""Controls from image features: the nearest neighbour, and selection by expected utility."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from radrep.data.dataset import ModelStudies
from radrep.evaluation import image_controls as controls
from radrep.evaluation.eval_set import EvalSet
from radrep.metrics.scorecard import Corpus
from radrep.progress import Reporter

pytestmark = pytest.mark.usefixtures("shared_cache")


def studies_of(phantoms: Path, split: str) -> EvalSet:
    train, asked = (ModelStudies(phantoms, name, target="findings") for name in ("train", split))
    corpus = Corpus(asked.texts("findings"), str.lower, train.texts("findings"))
    return EvalSet(split, tuple(asked.ids), corpus, (), "findings", prepared=asked, train=train)


def test_the_nearest_neighbour_of_a_training_study_is_another_one(phantoms: Path) -> None:
    train, val = (
        controls.SelectedImages.find(ModelStudies(phantoms, split), controls._SELECTION)
        for split in ("train", "val")
    )
    features = controls._features([train, val], Reporter())
    to_itself = controls.find_nearest(train, train, features)
    assert not np.any(to_itself == np.arange(len(train.keys)))
    neighbours = controls.find_nearest(train, val, features)
    assert neighbours.shape == (len(val.keys),)
    assert len(set(neighbours.tolist())) > 1


def test_all_controls_answer_with_training_reports_and_read_each_split_once(
    phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    whole_pass = ModelStudies.__iter__
    monkeypatch.setattr(
        ModelStudies, "__iter__", lambda self: (passes.append(self.split), whole_pass(self))[1]
    )
    studies = studies_of(phantoms, "test")
    found = controls.image_controls(studies, Reporter())
    assert passes == ["train", "test"]
    assert list(found) == ["nearest neighbour", "selection", "film statistics"]
    for reports in found.values():
        assert len(reports) == len(studies.ids)
        assert set(reports) <= set(studies.corpus.cleaned_train)
    without = replace(studies, prepared=None)
    assert controls.image_controls(without, Reporter()) == {}


def test_no_training_report_reaches_what_is_selected_for_its_own_study(phantoms: Path) -> None:
    studies = studies_of(phantoms, "train")
    before = controls.image_controls(studies, Reporter())["selection"]
    reports = list(studies.corpus.train)
    reports[3] = "large pneumothorax on the left ."
    changed = replace(studies, corpus=replace(studies.corpus, train=reports))
    after = controls.image_controls(changed, Reporter())["selection"]
    assert after[3] == before[3]


def test_a_large_training_split_is_sampled(phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = studies_of(phantoms, "test")
    monkeypatch.setattr("radrep.guidance.selection.MAX_STUDIES", 3)
    selected = controls.image_controls(studies, Reporter())["selection"]
    assert 1 <= len(set(selected)) <= 3
