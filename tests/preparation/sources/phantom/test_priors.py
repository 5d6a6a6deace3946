"""Phantoms of which two in a row are of one patient."""

import numpy as np
import pytest

from radrep.data.study import SourceStudy
from radrep.metrics.labeler import label_report
from radrep.preparation.sources.phantom.drawing import KINDS, SIZES, Finding, draw_phantom
from radrep.preparation.sources.phantom.source import PhantomSource, draw_study, study_findings
from tests.metrics.labeler.test_labeler import OF_KIND

STUDIES = 2000


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Finding, ...]]:
    return [study_findings(0, index) for index in range(STUDIES)]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[SourceStudy, SourceStudy]]:
    """Studies of one patient each: the earlier and the later one."""
    studies = list(PhantomSource(STUDIES, priors=True))
    return list(zip(studies[::2], studies[1::2], strict=True))


def test_a_patient_has_two_studies_in_order_and_in_one_split(pairs):
    for before, after in pairs:
        assert (before.patient_id, before.split) == (after.patient_id, after.split)
        assert (before.order, after.order) == (0, 1)
    assert len({before.patient_id for before, _ in pairs}) == STUDIES / 2
    counts = PhantomSource(46, priors=True, splits=(0.5, 0.25, 0.25)).expected_counts
    assert counts == {"train": 24, "val": 10, "test": 12}


def test_the_earlier_study_is_as_without_priors(pairs):
    without = [study.sections for study in PhantomSource(STUDIES)]
    assert [before.sections for before, _ in pairs] == without[::2]
    assert [after.sections for _, after in pairs] != without[1::2]


def test_most_findings_stay_on_their_side_and_the_prevalence_too(drawn):
    stayed = {True: [], False: []}
    counts = dict.fromkeys(KINDS, 0)
    for index in range(1, STUDIES, 2):
        before = {f.kind: f for f in drawn[index - 1]}
        after = {f.kind: f for f in study_findings(0, index, priors=True)}
        for kind in KINDS:
            counts[kind] += kind in after
            stayed[kind in before].append(kind in after)
            if kind in before and kind in after:
                assert before[kind].side == after[kind].side
    assert 0.66 <= np.mean(stayed[True]) <= 0.74
    assert 0.07 <= np.mean(stayed[False]) <= 0.12
    assert all(0.20 <= count / (STUDIES / 2) <= 0.28 for count in counts.values())


def test_the_film_shows_what_the_later_report_names():
    (_, study) = PhantomSource(2, image_size=96, priors=True)
    findings = study_findings(0, 1, priors=True)
    expected = draw_phantom(np.random.default_rng([0, 1, 0]), findings, 96)
    np.testing.assert_array_equal(study.images[0].read(96), expected)
    assert not np.array_equal(expected, draw_study(0, 1, 96))


def test_the_later_report_names_what_is_there_and_how_it_changed(drawn, pairs):
    seen = set()
    for index, (_, study) in zip(range(1, STUDIES, 2), pairs, strict=True):
        report, before = study.sections["findings"], {f.kind: f for f in drawn[index - 1]}
        after = {f.kind: f for f in study_findings(0, index, priors=True)}
        labels = label_report(report)
        assert labels.sides == {OF_KIND[f.kind]: f.side for f in after.values()}, report
        for kind in before.keys() | after.keys():
            (sentence,) = [s for s in report.split(". ") if kind in s.lower()]
            expected = "has resolved"
            if kind in after:
                assert after[kind].size in sentence.lower()
                expected = "new"
            if kind in before and kind in after:
                sizes = [SIZES.index(each[kind].size) for each in (before, after)]
                words = ("smaller than before", "unchanged", "larger than before")
                expected = words[1 + int(np.sign(sizes[1] - sizes[0]))]
            else:
                assert kind in after or before[kind].side in sentence
            assert sentence.rstrip(".").endswith(expected), sentence
            seen.add(expected)
    assert len(seen) == 5
