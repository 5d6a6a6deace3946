"""Expected-utility selection on drawn studies: closed forms, folds, what it learns from."""

from dataclasses import replace

import numpy as np
import pytest

from radrep.errors import DataError
from radrep.guidance.selection import (
    Selected,
    TrainingStudies,
    UtilityWeights,
    assign_folds,
    cross_fit,
    fit_selector,
    out_of_fold,
    solve_ridge,
)
from radrep.guidance.utility import PARTS, build_pool, utility_parts

STYLES = (
    "the lungs are clear . the heart is normal .",
    "heart size normal . no effusion .",
    "there is a small pleural effusion . the heart is enlarged .",
    "no acute disease .",
)
WORDS = UtilityWeights(rouge=3.0)


def draw_studies(rng: np.random.Generator, num: int = 60, dim: int = 40) -> TrainingStudies:
    """Features that show the style of the report, a report, and a patient of one or two studies."""
    styles = rng.integers(len(STYLES), size=num)
    features = rng.normal(size=(num, dim)).astype(np.float32)
    features[:, : len(STYLES)] += 4 * np.eye(len(STYLES))[styles]
    reports = [STYLES[style] + rng.choice(["", " bones intact ."]) for style in styles]
    patients = [f"patient {i}" for i in rng.integers(1 + num // 2, size=num)]
    return TrainingStudies(features, reports, patients)


@pytest.mark.parametrize("penalty", [0.1, 3.0, 100.0])
def test_the_closed_form_equals_a_refit_without_the_fold(penalty: float) -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(30, 8)), rng.normal(size=(30, 5))
    kernel, folds = features @ features.T / 8, rng.integers(4, size=30)
    found = out_of_fold(kernel, targets, folds, penalty)
    offset = targets.mean(axis=0)
    for fold in range(4):
        own, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        # In the primal form: (X'X / d + penalty)^-1 X' y / d.
        gram = features[rest].T @ features[rest] / 8 + penalty * np.eye(8)
        weights = np.linalg.solve(gram, features[rest].T @ (targets[rest] - offset) / 8)
        np.testing.assert_allclose(found[own], features[own] @ weights + offset, atol=1e-8)


def test_a_selector_predicts_what_the_dual_form_predicts() -> None:
    rng = np.random.default_rng(1)
    studies = draw_studies(rng)
    features, reports = studies.vectors, studies.reports
    new = rng.normal(size=(7, features.shape[1])).astype(np.float32)
    selector = fit_selector(studies, pool_size=8, weights=WORDS, penalties=[2.0])
    parts = utility_parts(reports, build_pool(reports, 8))
    targets = parts.transpose(1, 0, 2).reshape(len(reports), -1)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    own, theirs = (features - mean) / scale, (new - mean) / scale
    dual = solve_ridge(own @ own.T / own.shape[1], targets - targets.mean(axis=0), 2.0)
    expected = theirs @ own.T / own.shape[1] @ dual + targets.mean(axis=0)
    found = selector.predict(new)
    assert found.shape == (len(PARTS), 7, len(selector.pool))
    np.testing.assert_allclose(found[1], expected.reshape(7, 3, -1)[:, 1], atol=1e-4)
    for row, chosen in enumerate(selector.select(new, WORDS)):
        utilities = WORDS.combine(found)[row]
        assert chosen.report == selector.pool[utilities.argmax()]
        assert chosen.utility == pytest.approx(utilities.max())
        assert chosen.top[0] == (chosen.report, chosen.utility)
        assert [value for _, value in chosen.top] == sorted(utilities)[::-1][:5]


def test_selection_uses_the_images_and_shuffled_images_select_worse() -> None:
    rng = np.random.default_rng(2)
    new = draw_studies(rng, 100)
    selector = fit_selector(draw_studies(rng, 200), pool_size=10, weights=WORDS)
    openings = [report.split(" . ")[0] for report in new.reports]
    right, shuffled = (
        np.mean([s.report.startswith(o) for s, o in zip(chosen, openings, strict=True)])
        for chosen in (
            selector.select(new.vectors, WORDS),
            selector.select(rng.permutation(new.vectors), WORDS),
        )
    )
    assert right > 0.8
    assert shuffled < 0.5


def test_a_strong_penalty_is_chosen_where_images_show_nothing() -> None:
    rng = np.random.default_rng(3)
    studies = draw_studies(rng, 100)
    noise = replace(studies, vectors=rng.normal(size=studies.vectors.shape))
    informed, blind = (fit_selector(each, pool_size=10, weights=WORDS) for each in (studies, noise))
    assert informed.penalty < blind.penalty
    assert informed.score > blind.score


def test_weights_of_findings_and_words_are_chosen_after_the_fit() -> None:
    studies = draw_studies(np.random.default_rng(4))
    selector = fit_selector(studies, pool_size=8, weights=WORDS)
    parts = selector.predict(studies.vectors)
    assert np.allclose(UtilityWeights().combine(parts), parts[0])
    combined = UtilityWeights(2.0, 7.0).combine(parts)
    assert np.allclose(combined, parts[0] + 2 * parts[1] + 7 * parts[2])
    named = selector.select(studies.vectors, UtilityWeights(labels=1000.0))
    assert any("effusion" in each.report for each in named)


def test_all_studies_of_a_patient_are_in_one_fold_whatever_their_order() -> None:
    rng = np.random.default_rng(5)
    patients = [f"p{i}" for i in rng.integers(40, size=100)]
    folds = assign_folds(patients, 5)
    of = dict(zip(patients, folds.tolist(), strict=True))
    assert [of[patient] for patient in patients] == folds.tolist()
    assert set(folds.tolist()) == set(range(5))
    order = rng.permutation(100)
    assert assign_folds([patients[i] for i in order], 5).tolist() == folds[order].tolist()


def select_own(studies: TrainingStudies) -> list[Selected]:
    """What is predicted for each of them out of fold."""
    return cross_fit(studies, studies.vectors, studies.patients, pool_size=12, weights=WORDS)


@pytest.mark.parametrize("change", ["another report", "no report", "a report of the pool"])
def test_no_report_reaches_what_is_predicted_for_its_own_study(change: str) -> None:
    studies = draw_studies(np.random.default_rng(6))
    patients, reports = studies.patients, studies.reports
    study = next(i for i, p in enumerate(patients) if patients.count(p) == 1)
    changed = list(reports)
    changed[study] = {
        "another report": "there is a large left pneumothorax .",
        "no report": "",
        "a report of the pool": next(r for r in reports if r != reports[study]),
    }[change]
    before, after = select_own(studies), select_own(replace(studies, reports=changed))
    assert after[study] == before[study]
    assert after != before, "it reaches what is predicted for other studies"


def test_no_report_of_a_patient_reaches_the_patients_other_studies() -> None:
    studies = draw_studies(np.random.default_rng(7))
    patient = max(studies.patients, key=studies.patients.count)
    own = [i for i, p in enumerate(studies.patients) if p == patient]
    assert len(own) > 1
    changed = ["large mass ." if i in own else r for i, r in enumerate(studies.reports)]
    before, after = select_own(studies), select_own(replace(studies, reports=changed))
    assert [after[i] for i in own] == [before[i] for i in own]


def test_a_study_of_a_new_patient_is_selected_for_by_all_training_studies() -> None:
    rng = np.random.default_rng(8)
    studies, new = draw_studies(rng), draw_studies(rng, 5)
    selector = fit_selector(studies, pool_size=12, weights=WORDS)
    found = cross_fit(studies, new.vectors, list("abcde"), pool_size=12, weights=WORDS)
    assert found == selector.select(new.vectors, WORDS)


def test_what_cannot_be_fitted_or_asked_is_refused() -> None:
    studies = draw_studies(np.random.default_rng(8))
    with pytest.raises(DataError, match="no training report has a word"):
        fit_selector(replace(studies, reports=[""] * 60), pool_size=3, weights=WORDS)
    selector = fit_selector(studies, pool_size=3, weights=WORDS)
    with pytest.raises(DataError, match="39 features and selection was fitted on 40"):
        selector.select(studies.vectors[:, 1:], WORDS)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_few_studies_are_enough(num: int) -> None:
    studies = draw_studies(np.random.default_rng(9), num)
    selector = fit_selector(studies, pool_size=300, weights=WORDS)
    chosen = selector.select(studies.vectors, WORDS)
    assert {each.report for each in chosen} <= set(studies.reports)
