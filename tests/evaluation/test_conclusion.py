import pytest

from radrep.evaluation.conclusion import judge, number, p_value
from tests.viz.example import make_scores

# The example's differences reach .09 to both sides: less than that is what chance could give.
SEES = {"model": (0.40, 0.50), "shuffled control": (0.20, 0.30)}
BLIND = {"model": (0.40, 0.50), "shuffled control": (0.38, 0.47)}
WORDS_ONLY = {"model": (0.40, 0.50), "shuffled control": (0.20, 0.47)}
FINDINGS_ONLY = {"model": (0.40, 0.50), "shuffled control": (0.38, 0.30)}
HARMED = {"model": (0.20, 0.30), "shuffled control": (0.40, 0.50)}


def answer(systems, **options):
    return judge(make_scores(systems, **options)).answer


@pytest.mark.parametrize(
    ("systems", "expected"),
    [
        (SEES, "This model sees the image."),
        (BLIND, "Nothing here shows that this model sees the image."),
        (HARMED, "Nothing here shows that this model sees the image."),
        (
            WORDS_ONLY,
            "This model chooses words by the image, but its findings do not show it.",
        ),
        (
            FINDINGS_ONLY,
            "This model names findings by the image, but its wording does not show it.",
        ),
        ({"model": (0.4, 0.5)}, "Whether this model sees the image was not tried here."),
    ],
)
def test_only_a_loss_by_shuffling_that_chance_cannot_give_counts_as_seeing(systems, expected):
    assert answer(systems) == expected


@pytest.mark.parametrize(
    ("baselines", "expected"),
    [
        ({"constant, best cider": (0.2, 0.3)}, ", and it scores higher than every baseline."),
        (
            {"constant, best cider": (0.2, 0.49)},
            ", and it scores higher than every baseline in CIDEr, but not in findings F1 (rules) "
            "without No Finding.",
        ),
        (
            {"constant, best cider": (0.35, 0.3)},
            ", but one constant report does as well in CIDEr, as far as 295 studies can tell.",
        ),
        ({"constant, best cider": (0.6, 0.3)}, ", but one constant report scores higher in CIDEr."),
        (
            {"constant, best bleu4": (0.1, 0.3), "constant, best cider": (0.6, 0.3)},
            ", but one constant report scores higher in CIDEr.",
        ),
        (
            {"nearest neighbour": (0.6, 0.3), "constant, best cider": (0.6, 0.3)},
            ", but one constant report and copying the nearest training study’s report both score "
            "higher in CIDEr.",
        ),
        (
            {"nearest neighbour": (0.41, 0.3), "constant, best cider": (0.6, 0.3)},
            ", but one constant report scores higher and copying the nearest training study’s "
            "report does as well in CIDEr, as far as 295 studies can tell.",
        ),
    ],
)
def test_a_baseline_that_is_as_good_stands_in_the_answer(baselines, expected):
    assert answer(SEES | baselines) == f"This model sees the image{expected}"


def test_a_half_answer_has_one_but() -> None:
    assert answer(WORDS_ONLY | {"constant, best cider": (0.35, 0.3)}) == (
        "This model chooses words by the image, but its findings do not show it; one constant "
        "report does as well in CIDEr, as far as 295 studies can tell."
    )
    assert answer(FINDINGS_ONLY | {"constant, best cider": (0.1, 0.1)}) == (
        "This model names findings by the image, but its wording does not show it; it scores "
        "higher than every baseline."
    )


def test_a_blind_model_is_not_saved_by_beating_constants():
    assert answer(BLIND | {"constant, best cider": (0.1, 0.1)}) == (
        "Nothing here shows that this model sees the image, though it scores higher than every "
        "baseline."
    )
    assert answer(BLIND | {"constant, best cider": (0.6, 0.1)}).endswith(
        ", and one constant report scores higher in CIDEr."
    )


def test_evidence_gives_both_scores_the_difference_its_interval_and_p():
    evidence = judge(make_scores(SEES | {"constant, best cider": (0.6, 0.51)})).evidence
    told = {item.about: [s.replace("\N{NO-BREAK SPACE}", " ") for s in item.sentences]
            for item in evidence}  # fmt: skip
    assert told["Images shuffled"] == [
        "CIDEr falls from 0.400 to 0.200: the image gave +0.200 [0.110, 0.290], p = 0.002.",
        "Findings F1 (rules) without No Finding falls from 0.500 to 0.300: "
        "the image gave +0.200 [0.110, 0.290], p = 0.002.",
    ]
    assert told["Best constant report"] == [
        "CIDEr 0.600 (constant, best cider) against the model’s 0.400: the constant is better "
        "(−0.200 [−0.290, −0.110], p = 0.002).",
        "Findings F1 (rules) without No Finding 0.510 (constant, best cider) against the model’s "
        "0.500: chance alone could give the difference (−0.010 [−0.100, 0.080], p = 0.31).",
    ]
    assert told["Variety"] == [
        "112 distinct reports for 295 studies; the commonest goes to 12.2 %."
    ]


def test_a_model_that_always_writes_one_report_is_told_so():
    scores = make_scores({"model": (0.4, 0.5), "shuffled control": (0.4, 0.5)}, half_width=0.0)
    scores["diversity"]["model"] |= {"num_distinct": 1, "most_frequent_share": 1.0}
    verdict = judge(scores)
    assert verdict.answer == "Nothing here shows that this model sees the image."
    assert verdict.evidence[0].sentences[0].startswith("CIDEr stays at 0.400: the image gave 0.000")
    assert verdict.evidence[1].sentences == [
        "1 report for 295 studies; the commonest goes to 100.0 %."
    ]


def test_a_comparison_the_other_way_round_means_the_same():
    scores = make_scores(SEES)
    for block in (scores["protocols"]["full"], scores["findings"]):
        row = block["comparisons"][0]
        row["first"], row["second"] = row["second"], row["first"]
        for found in row["differences"].values():
            low, high = found["low"], found["high"]
            found |= {"value": -found["value"], "low": -high, "high": -low}
    assert judge(scores) == judge(make_scores(SEES))


def test_without_a_paired_comparison_intervals_must_not_meet():
    assert answer(SEES, compared=False, half_width=0.09) == "This model sees the image."
    # Paired, .11 to both sides of .20 would do; two intervals of that width meet.
    assert answer(SEES, half_width=0.11) == "This model sees the image."
    unpaired = judge(make_scores(SEES, compared=False, half_width=0.11))
    assert unpaired.answer == "Nothing here shows that this model sees the image."
    assert unpaired.evidence[0].sentences[0] == (
        "CIDEr falls from 0.400 to 0.200; the two were not compared study by study."
    )


def test_several_runs_are_ranked_and_the_question_left_open():
    runs = {"runs/a": (0.4, 0.5), "runs/b": (0.2, 0.48), "runs/c": (0.41, 0.5)}
    verdict = judge(make_scores(runs, main="runs/a"))
    assert verdict.answer == (
        "runs/a scores higher than runs/b in CIDEr; 295 studies cannot tell runs/a from runs/c "
        "in CIDEr. Whether they see the image was not tried here."
    )
    assert [item.about for item in verdict.evidence] == ["runs/b", "runs/c", "Variety"]


def test_numbers_as_text():
    assert number(None) == "–"
    assert number(-0.0001) == "0.000"
    assert number(-0.25) == "−0.250"
    assert number(0.25, signed=True) == "+0.250"
    told = [p_value(value).replace("\N{NO-BREAK SPACE}", " ") for value in (0.0002, 0.002, 0.31)]
    assert told == ["p < 0.001", "p = 0.002", "p = 0.31"]
