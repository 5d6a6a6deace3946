from dataclasses import replace

import pytest

from radrep.evaluation.conclusion import conclude
from radrep.metrics.format import number, p_value
from radrep.metrics.names import OTHER_CONTEXT
from tests.viz.example import make_card

# The example's differences reach .09 to both sides: less than that is not significant.
SEES = {"model": (0.40, 0.50), "shuffled control": (0.20, 0.30)}
BLIND = {"model": (0.40, 0.50), "shuffled control": (0.38, 0.47)}
WORDS_ONLY = {"model": (0.40, 0.50), "shuffled control": (0.20, 0.47)}
FINDINGS_ONLY = {"model": (0.40, 0.50), "shuffled control": (0.38, 0.30)}
HARMED = {"model": (0.20, 0.30), "shuffled control": (0.40, 0.50)}


def answer(systems, **options):
    return conclude(make_card(systems, **options), "model").answer


@pytest.mark.parametrize(
    ("systems", "expected"),
    [
        (SEES, "This model uses the image."),
        (BLIND, "There is no evidence that this model uses the image."),
        (HARMED, "There is no evidence that this model uses the image."),
        (
            WORDS_ONLY,
            "This model uses the image for its wording, but not measurably for its findings.",
        ),
        (
            FINDINGS_ONLY,
            "This model uses the image for its findings, but not measurably for its wording.",
        ),
        ({"model": (0.4, 0.5)}, "Whether this model uses the image was not tested."),
    ],
)
def test_only_a_significant_loss_in_the_shuffled_control_counts(systems, expected):
    assert answer(systems) == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0.2, 0.3), "It uses the context of the study."),
        ((0.2, 0.47), "It uses the context of the study for its wording, but not measurably for"),
        ((0.38, 0.3), "It uses the context of the study for its findings, but not measurably for"),
        ((0.38, 0.47), "There is no evidence that it uses the context of the study."),
        (None, "This model uses the image."),
    ],
)
def test_only_a_significant_loss_with_another_context_counts(other, expected):
    systems = SEES if other is None else SEES | {OTHER_CONTEXT.name: other}
    found = conclude(make_card(systems), "model")
    assert expected in found.answer
    assert ("context" in found.answer) == (other is not None)
    assert (OTHER_CONTEXT.title in [item.about for item in found.evidence]) == (other is not None)


@pytest.mark.parametrize(
    ("baselines", "expected"),
    [
        ({"constant, best cider": (0.2, 0.3)}, "It scores higher than every baseline."),
        (
            {"constant, best cider": (0.2, 0.49)},
            "It scores higher than every baseline in CIDEr, but not in findings F1 (rules) "
            "without No Finding.",
        ),
        (
            {"constant, best cider": (0.35, 0.3)},
            "No significant difference in CIDEr over 295 studies to one constant report.",
        ),
        (
            {"constant, best cider": (0.6, 0.3)},
            "It scores lower in CIDEr than one constant report.",
        ),
        (
            {"constant, best bleu4": (0.1, 0.3), "constant, best cider": (0.6, 0.3)},
            "It scores lower in CIDEr than one constant report.",
        ),
        (
            {"nearest neighbour": (0.6, 0.3), "constant, best cider": (0.6, 0.3)},
            "It scores lower in CIDEr than one constant report and the nearest training study’s "
            "report.",
        ),
        (
            {"nearest neighbour": (0.41, 0.3), "constant, best cider": (0.6, 0.3)},
            "It scores lower in CIDEr than one constant report. No significant difference in CIDEr "
            "over 295 studies to the nearest training study’s report.",
        ),
        ({"selection": (0.2, 0.3)}, "It scores higher than every baseline."),
        (
            {"selection": (0.2, 0.48), "constant, best cider": (0.2, 0.3)},
            "It scores higher than every baseline in CIDEr, but not in findings F1 (rules) "
            "without No Finding.",
        ),
        (
            {"selection": (0.6, 0.48), "constant, best cider": (0.2, 0.3)},
            "It scores lower in CIDEr than the training report that image features select. So "
            "there is no evidence that it does more than choose among training reports.",
        ),
        (
            {"selection": (0.6, 0.3), "constant, best cider": (0.2, 0.3)},
            "It scores lower in CIDEr than the training report that image features select.",
        ),
        (
            {
                "nearest neighbour": (0.39, 0.3),
                "selection": (0.42, 0.48),
                "constant, best cider": (0.4, 0.3),
            },
            "No significant difference in CIDEr over 295 studies to one constant report, the "
            "nearest training study’s report and the training report that image features select. "
            "So there is no evidence that it does more than choose among training reports.",
        ),
    ],
)
def test_a_baseline_that_is_as_good_stands_in_the_answer(baselines, expected):
    assert answer(SEES | baselines) == f"This model uses the image. {expected}"
    blind = answer(BLIND | baselines)
    assert blind == f"There is no evidence that this model uses the image. {expected}"


def test_evidence_gives_both_scores_the_difference_its_interval_and_p():
    card = make_card(SEES | {"constant, best cider": (0.6, 0.51)})
    told = {item.about: [s.replace("\N{NO-BREAK SPACE}", " ") for s in item.sentences]
            for item in conclude(card, "model").evidence}  # fmt: skip
    assert told == {
        "Shuffled control": [
            "CIDEr 0.400 vs 0.200 (shuffled control): +0.200 [0.110, 0.290], p = 0.002.",
            "Findings F1 (rules) without No Finding 0.500 vs 0.300 (shuffled control): "
            "+0.200 [0.110, 0.290], p = 0.002.",
        ],
        "Best constant report": [
            "CIDEr 0.400 vs 0.600 (constant, best cider): −0.200 [−0.290, −0.110], p = 0.002.",
            "Findings F1 (rules) without No Finding 0.500 vs 0.510 (constant, best cider): "
            "−0.010 [−0.100, 0.080], p = 0.31, not significant.",
        ],
        "Diversity": ["112 distinct reports for 295 studies; the most frequent one: 12.2 %."],
    }


def test_a_comparison_the_other_way_round_means_the_same():
    card = make_card(SEES)

    def turn(table):
        (pair,) = table.comparisons
        turned = {
            key: replace(found, value=-found.value, low=-found.high, high=-found.low)
            for key, found in pair.differences.items()
        }
        pair = replace(pair, first=pair.second, second=pair.first, differences=turned)
        return replace(table, comparisons=(pair,))

    turned = replace(card, protocols=(turn(card.full),), findings=turn(card.findings))
    assert conclude(turned, "model") == conclude(card, "model")


def test_without_a_paired_comparison_intervals_must_not_meet():
    assert answer(SEES, compared=False, half_width=0.09) == "This model uses the image."
    # Paired, .11 to both sides of .20 would do; two intervals of that width meet.
    assert answer(SEES, half_width=0.11) == "This model uses the image."
    unpaired = conclude(make_card(SEES, compared=False, half_width=0.11), "model")
    assert unpaired.answer == "There is no evidence that this model uses the image."
    assert unpaired.evidence[0].sentences[0] == (
        "CIDEr 0.400 vs 0.200 (shuffled control): not compared by study."
    )


def test_several_runs_are_ranked_and_the_question_left_open():
    runs = {"runs/a": (0.4, 0.5), "runs/b": (0.2, 0.48), "runs/c": (0.41, 0.5)}
    conclusion = conclude(make_card(runs, main="runs/a"), "runs/a")
    assert conclusion.answer == (
        "runs/a scores higher than runs/b in CIDEr. runs/a and runs/c do not differ significantly "
        "in CIDEr over 295 studies. Whether any of them uses the image was not tested."
    )
    assert [item.about for item in conclusion.evidence] == ["runs/b", "runs/c", "Diversity"]


def test_numbers_as_text():
    assert number(None) == "–"
    assert number(-0.0001) == "0.000"
    assert number(-0.25) == "−0.250"
    assert number(0.25, signed=True) == "+0.250"
    told = [p_value(value).replace("\N{NO-BREAK SPACE}", " ") for value in (0.0002, 0.002, 0.31)]
    assert told == ["p < 0.001", "p = 0.002", "p = 0.31"]
