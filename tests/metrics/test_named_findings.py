import pytest

from radrep.data.sources.phantom import PhantomSource
from radrep.metrics.named_findings import PairCounts, chance_f1, named_findings, named_findings_f1

LEFT_EFFUSION = "There is a small left pleural effusion."
RIGHT_NODULE = "Large rounded nodule in the right lung."
NORMAL = "The lungs are clear. No pleural effusion or pneumothorax."


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (LEFT_EFFUSION, {("effusion", "left")}),
        (RIGHT_NODULE, {("nodule", "right")}),
        (NORMAL, set()),
        ("", set()),
        ("no left pleural effusion .", set()),
        ("No pneumothorax. A large right pneumothorax is seen.", {("pneumothorax", "right")}),
        ("small airspace consolidation in the left lung", {("consolidation", "left")}),
        ("There is a small pleural effusion.", set()),
        (
            "the lungs are clear . a small left pleural effusion is seen . a small left pleural "
            "effusion is seen . moderate pneumothorax on the right .",
            {("effusion", "left"), ("pneumothorax", "right")},
        ),
        ("there is a there is a no no left left .", set()),
        (
            "a small left nodule and a large right effusion",
            {("nodule", "left"), ("effusion", "right")},
        ),
    ],
)
def test_pairs_are_read_from_real_and_generated_text(report, expected):
    assert named_findings(report) == expected


def test_f1_matches_a_hand_count():
    references = [LEFT_EFFUSION, RIGHT_NODULE, NORMAL, LEFT_EFFUSION + " " + RIGHT_NODULE]
    hypotheses = [LEFT_EFFUSION, NORMAL, RIGHT_NODULE, LEFT_EFFUSION]
    score = named_findings_f1(references, hypotheses)
    assert score.precision == pytest.approx(2 / 3)
    assert score.recall == pytest.approx(2 / 4)
    assert score.f1 == pytest.approx(4 / 7)
    assert score.pairs == {
        ("effusion", "left"): PairCounts(right=2, wrong=0, missed=0),
        ("nodule", "right"): PairCounts(right=0, wrong=1, missed=2),
    }


def test_the_wrong_side_is_an_error_twice():
    score = named_findings_f1([LEFT_EFFUSION], [LEFT_EFFUSION.replace("left", "right")])
    assert score.f1 == 0
    assert score.pairs[("effusion", "right")].wrong == 1
    assert score.pairs[("effusion", "left")].missed == 1


def test_a_report_that_names_nothing_scores_zero():
    assert named_findings_f1([LEFT_EFFUSION], [NORMAL]).f1 == 0
    assert named_findings_f1([NORMAL], [NORMAL]).f1 == 0


def test_different_numbers_of_reports_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        named_findings_f1([NORMAL, NORMAL], [NORMAL])
    with pytest.raises(ValueError, match="shorter"):
        chance_f1([NORMAL, NORMAL], [NORMAL])


def test_perfect_reports_score_one_and_fall_to_prevalence_when_shuffled():
    reports = [study.sections["findings"] for study in PhantomSource(600)]
    assert named_findings_f1(reports, reports).f1 == 1
    chance = chance_f1(reports, reports, permutations=20)
    assert 0.08 < chance < 0.17  # about the share of studies that have a given pair
    assert chance == chance_f1(reports, reports, permutations=20)
    assert chance != chance_f1(reports, reports, permutations=20, seed=1)
