"""Edited reports say what was decided, and keep the rest."""

import random

import pytest

from radrep.guidance.editing import SentenceBank, edit_report, split_report
from radrep.metrics.labeler import label_report
from radrep.metrics.labeler.vocabulary import ABNORMAL
from radrep.preparation.sources.phantom.source import PhantomSource

TRAIN = (
    "the heart is normal in size . the lungs are clear . no pleural effusion or pneumothorax .",
    "mild cardiomegaly . there is a small left pleural effusion . no pneumothorax .",
    "mild cardiomegaly . there is a small right pleural effusion . no pneumothorax .",
    "moderate cardiomegaly is again seen . old right rib fractures . no pleural effusion .",
    "there is patchy airspace disease in the left lower lobe . no acute bony abnormality .",
    "heart and mediastinum normal . a 3 mm nodule in the right lung .",
    "there is a new large pneumothorax . no focal consolidation pleural effusion or pneumothorax .",
)
BANK = SentenceBank.build(TRAIN)


def test_the_bank_has_the_commonest_sentence_without_side_measure_or_comparison():
    assert BANK.present["Cardiomegaly"] == "mild cardiomegaly ."
    assert BANK.present["Pleural Effusion"] == "there is a small pleural effusion ."
    assert BANK.present["Fracture"] == "old rib fractures ."
    assert "Lung Lesion" not in BANK.present, "its only sentence measures"
    assert "Pneumothorax" not in BANK.present, "its only sentence compares"
    assert BANK.absent[frozenset(["Pneumothorax"])] == "no pneumothorax ."


def test_a_finding_takes_the_place_of_its_denial_and_the_rest_of_the_denial_stays():
    edited = edit_report(TRAIN[0], {"Pleural Effusion": True, "Cardiomegaly": False}, BANK)
    assert edited.text == (
        "the heart is normal in size . the lungs are clear . there is a small pleural effusion . "
        "no pneumothorax ."
    )
    assert [s.origin for s in edited.sentences] == [
        *("generated", "generated", "inserted", "shortened"),
    ]
    assert edited.sentences[2].observation == "Pleural Effusion"
    assert edited.removed == ("no pleural effusion or pneumothorax .",)
    assert [s.text for s in edited.changes] == [s.text for s in edited.sentences[2:]]


@pytest.mark.parametrize(
    ("report", "decisions", "text"),
    [
        ("mild cardiomegaly . clear lungs .", {"Cardiomegaly": False}, "clear lungs ."),
        ("Mild cardiomegaly. Fine.", {"Cardiomegaly": True}, "Mild cardiomegaly. Fine."),
        ("possible cardiomegaly .", {"Cardiomegaly": True}, "mild cardiomegaly ."),
        ("", {"Cardiomegaly": True}, "mild cardiomegaly ."),
        ("", {"Cardiomegaly": False}, ""),
        # Normal in words that name no observation.
        (
            "the lungs are clear . the bones are intact .",
            {"Lung Opacity": True, "Fracture": True},
            "there is patchy airspace disease in the lower lobe . old rib fractures .",
        ),
        ("no acute cardiopulmonary abnormality .", {"Cardiomegaly": True}, "mild cardiomegaly ."),
        ("no acute cardiopulmonary abnormality .", {"Cardiomegaly": False},
         "no acute cardiopulmonary abnormality ."),
        # No sentence to put in: what the report says stays.
        ("there is no pneumothorax .", {"Pneumothorax": True}, "there is no pneumothorax ."),
    ],
)  # fmt: skip
def test_cases(report: str, decisions: dict[str, bool], text: str) -> None:
    assert edit_report(report, decisions, BANK).text == text


def test_no_decision_changes_nothing():
    for report in TRAIN:
        edited = edit_report(report, {}, BANK)
        assert edited.text == report
        assert not edited.changes


def test_edited_reports_agree_with_every_decision_and_editing_again_changes_nothing():
    draw = random.Random(0)
    reports = [study.sections["findings"] for study in PhantomSource(60, seed=3)]
    bank = SentenceBank.build([*reports, *TRAIN])
    assert len(bank.present) >= 6
    for report in reports + list(TRAIN):
        decisions = {
            name: draw.random() < 0.4
            for name in draw.sample(ABNORMAL, draw.randint(1, len(ABNORMAL)))
        }
        possible = {n: d for n, d in decisions.items() if not d or n in bank.present}
        edited = edit_report(report, possible, bank)
        states = label_report(edited.text).states
        assert {n: states[n] == "positive" for n in possible} == possible, report
        assert edit_report(edited.text, possible, bank).text == edited.text


def test_sentences_are_the_report():
    for report in (*TRAIN, "One. Two! Three", "  spaced .  out . "):
        assert " ".join(split_report(report)).split() == report.split()
