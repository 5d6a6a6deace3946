"""What a report says, finding by finding."""

from dataclasses import dataclass, field

import numpy as np

from radrep.guidance.editing import Sentence, SentenceBank, WrittenReport, edit_report
from radrep.inference.findings import find_findings
from radrep.metrics.labeler import OBSERVATIONS as ALL

TEXT = "the heart is large . there is a small left pleural effusion . no pneumothorax ."
NO_MAPS = np.zeros((0, 0, 0, 0), np.float32)


@dataclass
class Summary:
    """What a discriminator says of an image of 4 x 8 pixels."""

    probabilities: dict[str, float]
    maps: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def predicted_positive(self) -> dict[str, float]:
        return {name: p for name, p in self.probabilities.items() if p > 0.5}


def peak(row: int, column: int) -> np.ndarray:
    found = np.full((4, 8), 0.1)
    found[row, column] = 1.0
    return found


def test_state_side_size_sentence_and_probability() -> None:
    known = {"Pleural Effusion": 0.9, "Cardiomegaly": 0.6}
    found = find_findings(WrittenReport(TEXT), ["a"], NO_MAPS, [], known)
    assert [(f.observation, f.state, f.side, f.size, f.probability) for f in found] == [
        ("Cardiomegaly", "positive", None, "large", 0.6),
        ("Pneumothorax", "negative", None, None, None),
        ("Pleural Effusion", "positive", "left", "small", 0.9),
    ]
    assert found[2].sentence == "there is a small left pleural effusion ."
    assert {f.origin for f in found} == {"generated"}
    assert not any(f.place for f in found)


def test_a_finding_named_on_both_sides_is_there_twice() -> None:
    text = "Small left pleural effusion. Large right pleural effusion."
    found = find_findings(WrittenReport(text), ["a"], NO_MAPS, [], {})
    assert [(f.side, f.size) for f in found] == [("left", "small"), ("right", "large")]


def test_no_finding_has_no_sentence() -> None:
    (found,) = find_findings(WrittenReport("Clear lungs."), ["a"], NO_MAPS, [], {})
    assert (found.observation, found.state, found.sentence) == ("No Finding", "positive", "")


def test_the_place_is_where_the_words_of_the_sentence_attend() -> None:
    words = TEXT.split()
    attention = np.full((len(words), 2, 2, 4), 0.05)
    sentence = slice(words.index("there"), words.index("no"))
    attention[sentence, 1, 0, 3] = 0.6
    attention[: words.index("there"), 0, 1, 0] = 0.6
    written = WrittenReport(TEXT, draft=TEXT)
    heart, denied, effusion = find_findings(written, ["a", "b"], attention, [], {})
    assert denied.place is None
    assert effusion.place is not None
    assert heart.place is not None
    assert (effusion.place.image, effusion.place.x, effusion.place.y) == ("b", 0.875, 0.25)
    assert (heart.place.image, heart.place.x, heart.place.y) == ("a", 0.125, 0.75)
    assert effusion.place.map == "attention"
    assert effusion.place.over_mean == round(0.6 / ((0.6 + 15 * 0.05) / 16), 2)


def test_the_place_is_that_of_the_discriminator_in_the_view_where_it_is_surest() -> None:
    empty = {"Cardiomegaly": np.zeros((4, 8))}
    first = Summary(
        {"Pleural Effusion": 0.2, "Cardiomegaly": 0.9, "Fracture": 0.1, "Pneumothorax": 0.1},
        empty | {"Pleural Effusion": peak(0, 0), "Pneumothorax": peak(0, 0)},
    )
    second = Summary(
        {"Pleural Effusion": 0.7, "Cardiomegaly": 0.1, "Fracture": 0.8, "Pneumothorax": 0.1},
        {n: peak(3, 7) for n in ("Pleural Effusion", "Cardiomegaly", "Fracture", "Pneumothorax")},
    )
    for summary in (first, second):
        for name in ALL:
            summary.probabilities.setdefault(name, 0.0)
            summary.maps.setdefault(name, np.zeros((4, 8)))
    known = {"Fracture": 0.8}
    found = find_findings(WrittenReport(TEXT), ["a", "b"], NO_MAPS, [first, second], known)
    by_name = {f.observation: f for f in found}
    effusion, fracture = by_name["Pleural Effusion"].place, by_name["Fracture"]
    assert effusion is not None
    assert (effusion.image, effusion.x, effusion.y) == ("b", 0.9375, 0.875)
    assert effusion.map == "grad_cam"
    assert by_name["Cardiomegaly"].place is None, "its map is empty there"
    assert by_name["Pneumothorax"].place is None, "denied"
    assert (fracture.state, fracture.sentence, fracture.probability) == ("not mentioned", "", 0.8)
    assert fracture.place is not None


def test_edited_sentences_are_marked_and_have_no_attention() -> None:
    bank = SentenceBank(present={"Pneumothorax": "there is a pneumothorax ."})
    written = edit_report(TEXT, {"Pneumothorax": True}, bank, {"Pneumothorax": 0.7})
    written = WrittenReport(written.text, written.sentences, written.removed, draft=TEXT)
    attention = np.random.default_rng(0).random((len(TEXT.split()), 1, 2, 2))
    found = {f.observation: f for f in find_findings(written, ["a"], attention, [], {})}
    assert found["Pneumothorax"].origin == "inserted"
    assert found["Pneumothorax"].sentence == "there is a pneumothorax ."
    assert found["Pneumothorax"].place is None
    assert found["Pleural Effusion"].origin == "generated"
    assert found["Pleural Effusion"].place is not None
    unedited = find_findings(WrittenReport(TEXT, draft=TEXT), ["a"], attention, [], {})
    assert found["Pleural Effusion"].place == unedited[2].place
    assert written.sentences[0] == Sentence("the heart is large .")
