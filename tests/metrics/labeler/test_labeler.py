import csv
import random
from pathlib import Path

import numpy as np
import pytest

from radrep.metrics.labeler import OBSERVATIONS, STATES, label_report, label_reports
from radrep.preparation.sources.phantom.report import write_report
from radrep.preparation.sources.phantom.source import PhantomSource, study_findings
from tests.metrics.labeler.cases import Case, read_cases
from tests.runaway import no_runaway

CASES = read_cases()
OF_KIND = {
    "consolidation": "Consolidation",
    "nodule": "Lung Lesion",
    "atelectasis": "Atelectasis",
    "effusion": "Pleural Effusion",
    "pneumothorax": "Pneumothorax",
}
SPOKEN = """
    no without not effusion pneumothorax heart enlarged normal left right , . ; : ? and or but with
    may represent versus cannot exclude XXXX \u0130 \u00df \u0301 \ud800 1. 2.5 - / ( ) opacity
    Findings: INDICATION: history of resolution in prior exam showed within limits middle than
    (?) [ ] [x] \u2611 = | + (-) no. 0.6 0,55 % CTR cm CM PE R L # rib PTX isn't except for if
    present a small one ones + - -PTX +effusion
    Correction: Addendum: I meant should read yes None other non b/l w/o ???? .....
"""
WORDS = [*SPOKEN.split(), "\n", "\n\n"]


def as_cleaned(text: str) -> str:
    """As R2Gen's cleaner leaves it: lower case, sentences set off by " . "."""
    for mark in ".,:;?":
        text = text.replace(mark + " ", f" {mark} ").replace(mark + "\n", f" {mark} ")
    return " ".join((text[:-1] + " ." if text.endswith(".") else text).lower().split())


def states(text: str) -> dict[str, str]:
    return dict(label_report(text).states)


def test_there_are_enough_cases_and_none_twice():
    assert len(CASES) >= 200
    assert len({case.text for case in CASES}) == len(CASES)
    assert {e.observation for case in CASES for e in case.expected} == set(OBSERVATIONS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.theme}: {case.text[:60]}")
def test_a_sentence_says_what_a_radiologist_reads_in_it(case: Case):
    found = label_report(case.text)
    for expected in case.expected:
        told = f"{expected.observation}: {found.explain(case.text)}"
        assert found.states[expected.observation] == expected.state, told
        if expected.side:
            assert found.sides[expected.observation] == expected.side, told
        if expected.cue:
            cues = [m.cue for m in found.mentions if m.observation == expected.observation]
            assert expected.cue in cues, told


def test_own_readings_are_met():
    """All that fail are listed. The parts of readings.tsv tell when they were written."""
    path = Path(__file__).with_name("readings.tsv")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(row) > 1 and not row[0].startswith("# text")]
    assert len(rows) >= 300
    assert {finding for _, finding, *_ in rows} == set(OBSERVATIONS)
    wrong = []
    for written, finding, state, *side in rows:
        text = written.replace("\\n", "\n").replace("\\t", "\t")
        found = label_report(text)
        read = [found.states[finding], found.sides.get(finding)]
        if read[0] != state or (side and read[1] != side[0]):
            wrong.append(f"{written!r}: {finding} {read}, should be {state} {side}")
    assert not wrong, "\n".join(wrong)


def one_line(case: Case) -> bool:
    """Headings and list numbers mean nothing once a cleaner has joined the lines."""
    return "\n" not in case.text and ":" not in case.text and not case.text.startswith("1.")


@pytest.mark.parametrize("case", [c for c in CASES if one_line(c)], ids=lambda case: case.text[:60])
def test_a_cleaned_sentence_says_the_same(case: Case):
    assert states(as_cleaned(case.text)) == states(case.text)
    assert states(case.text.upper()) == states(case.text)


def test_the_chexpert_labelers_sample_is_met_exactly(vectors_dir):
    meaning = {"1.0": "positive", "0.0": "negative", "-1.0": "uncertain", "": "absent"}
    path = vectors_dir / "chexpert_labeler_sample" / "labeled_reports.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        text = row.pop("Reports")
        assert states(text) == {name: meaning[value] for name, value in row.items()}, text


def test_phantom_reports_are_read_exactly_with_their_sides():
    studies = PhantomSource(300, seed=11)
    for index, study in enumerate(studies):
        drawn = study_findings(11, index)
        there = {OF_KIND[finding.kind]: finding.side for finding in drawn}
        expected = dict.fromkeys(OBSERVATIONS, "absent") | dict.fromkeys(
            OF_KIND.values(), "negative"
        )
        expected |= dict.fromkeys(there, "positive") | {"Cardiomegaly": "negative"}
        expected["No Finding"] = "absent" if there else "positive"
        for text in (study.sections["findings"], as_cleaned(study.sections["findings"])):
            found = label_report(text)
            assert found.states == expected, text
            assert found.sides == there, text


def test_every_way_of_wording_a_phantom_is_read_alike():
    findings = study_findings(11, 3)
    told = {
        tuple(states(write_report(findings, np.random.default_rng(k))).items()) for k in range(40)
    }
    assert len(told) == 1


def test_positive_outweighs_uncertain_and_uncertain_negative():
    for text, expected in (
        ("No effusion. Possible effusion. Left effusion.", "positive"),
        ("Possible effusion. No effusion.", "uncertain"),
        ("No effusion.", "negative"),
        ("Clear lungs.", "absent"),
    ):
        assert states(text)["Pleural Effusion"] == expected


def test_no_finding_stands_beside_devices_and_what_is_denied_only():
    assert states("")["No Finding"] == "positive"
    assert states("Right PICC. No effusion.")["No Finding"] == "positive"
    for text in ("Effusion.", "Possible effusion.", "Emphysema.", "Heart failure."):
        assert states(text)["No Finding"] == "absent"


def test_a_side_belongs_to_mentions_of_the_state_that_won():
    found = label_report("Left effusion. Possible right effusion. No bilateral pneumothorax.")
    assert found.sides == {"Pleural Effusion": "left"}


def test_mentions_stand_where_they_say():
    text = "İ. No focal\n  consolidation, or pleural\neffusion.  The Heart is  enlarged."
    found = label_report(text)
    assert [text[m.start : m.end] for m in found.mentions] == [
        "consolidation",
        "pleural\neffusion",
        "Heart is  enlarged",
    ]
    assert [text[slice(*m.sentence)] for m in found.mentions] == [
        "No focal\n  consolidation, or pleural\neffusion",
        "No focal\n  consolidation, or pleural\neffusion",
        "The Heart is  enlarged",
    ]


def test_every_decision_explains_itself():
    text = "Small left effusion. No pneumothorax.\nHeart size is normal. Emphysema."
    found = label_report(text)
    assert found.explain(text) == [
        "Pleural Effusion (left): positive by 'effusion', in 'Small left effusion'",
        "Pneumothorax: negative by 'pneumothorax', for 'no', in 'No pneumothorax'",
        "Cardiomegaly: negative by 'Heart size', for 'normal', in 'Heart size is normal'",
        "No Finding: negative by 'Emphysema', an abnormality that is none of the other thirteen, "
        "in 'Emphysema'",
    ]
    assert label_report("Lungs clear.").explain("Lungs clear.") == [
        "No Finding: positive, nothing abnormal is stated but support devices"
    ]


def test_many_reports_are_labelled_as_one_by_one():
    texts = [case.text for case in CASES] * 2
    assert label_reports(texts) == [label_report(text) for text in texts]
    assert label_reports([]) == []


def test_any_text_is_labelled_and_its_mentions_lie_within_it():
    draw = random.Random(0)
    for _ in range(1500):
        text = draw.choice(("", " ")).join(draw.choices(WORDS, k=draw.randint(0, 30)))
        found = label_report(text)
        assert tuple(found.states) == OBSERVATIONS
        assert set(found.states.values()) <= set(STATES)
        starts = [mention.start for mention in found.mentions]
        assert starts == sorted(starts)
        for mention in found.mentions:
            start, end = mention.sentence
            assert 0 <= start <= mention.start < mention.end <= end <= len(text)
            assert mention.cue is None or mention.cue in " ".join(text[start:end].lower().split())
        assert found.explain(text)


@pytest.mark.parametrize(
    "unit",
    ["no effusion or ", "effusion versus ", "effusion and not seen ", "a", " ", "\n ", ". ", "no ",
     "prior exam showed effusion ", "heart and ", "abc : ", "Findings: ", "left effusion and ",
     "\u0130", "Pneumothorax: No ", "? effusion ", "[ ] effusion ", "(", "\t", "CTR 0.6 / ", "1) ",
     "no effusion except a ", "Correction: no effusion. ", "I meant left effusion. ", "- ", "?",
     "I mean left. Effusion. ", ": no. ", "effusion: ",
     "+ ptx ", "-ptx, ", "ptx -, ", "a small one on ", "No effusion; a small one. ",
     ".", "*", "_"],
)  # fmt: skip
def test_a_huge_text_takes_time_in_proportion(unit):
    text = (unit * 50_000)[:50_000]
    with no_runaway(20):
        label_report(text)
