"""What the page marks in a report and in its reference."""

import pytest

from radrep.evaluation.page_studies import add_headings, mark_edits, passages
from radrep.guidance.editing import Sentence
from radrep.metrics.labeler import label_report
from radrep.sections import MARKER
from radrep.viz.html.page import HEADING, Passage


def marked(reference: str, generated: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The marked stretches of both texts with their kinds."""
    theirs, ours = label_report(reference), label_report(generated)
    cut = [
        passages(reference, theirs, ours, otherwise="missed"),
        passages(generated, ours, theirs, otherwise="not-in-reference"),
    ]
    for text, found in zip((reference, generated), cut, strict=True):
        assert "".join(passage.text for passage in found) == text
    first, second = ([(p.text, p.kind) for p in found if p.kind != "plain"] for found in cut)
    return first, second


@pytest.mark.parametrize(
    ("reference", "generated", "kind"),
    [
        ("Small left pleural effusion.", "small right pleural effusion .", "wrong-side"),
        ("Left and right pleural effusions.", "left pleural effusion .", "wrong-side"),
        ("Right pleural effusion.", "bilateral pleural effusions .", "wrong-side"),
        ("Left pleural effusion.", "a left pleural effusion .", "agree"),
        ("Left pleural effusion. Right pleural effusion.", "bilateral effusions .", "agree"),
        ("Left pleural effusion.", "pleural effusion .", "agree"),
        ("The heart is enlarged.", "cardiomegaly .", "agree"),
    ],
)
def test_a_finding_of_both_is_on_the_wrong_side_where_two_sides_differ(
    reference: str, generated: str, kind: str
) -> None:
    theirs, ours = marked(reference, generated)
    assert theirs
    assert {found for _, found in theirs + ours} == {kind}


def test_inserted_sentences_are_cut_out_of_the_passages() -> None:
    sentences = [
        Sentence("no effusion ."),
        Sentence("left pneumothorax .", "inserted", "Pneumothorax", 0.8),
        Sentence("heart is normal .", "shortened"),
    ]
    text = " ".join(sentence.text for sentence in sentences)
    reference, generated = map(label_report, ("Left pneumothorax.", text))
    found = passages(text, generated, reference, otherwise="not-in-reference")
    cut = mark_edits(found, sentences)
    assert "".join(passage.text for passage in cut) == text
    by_edit = {
        edit: "".join(p.text for p in cut if p.edit == edit) for edit in ("inserted", "shortened")
    }
    assert by_edit == {"inserted": "left pneumothorax . ", "shortened": "heart is normal ."}
    (agreed,) = (passage for passage in cut if passage.kind == "agree")
    assert agreed.edit == "inserted"
    assert mark_edits(found, sentences[:1]) == found


def test_what_only_one_names_is_missed_or_not_in_the_reference() -> None:
    theirs, ours = marked("Left pneumothorax. No effusion.", "right rib fracture . no effusion .")
    assert [kind for _, kind in theirs] == ["missed"]
    assert [kind for _, kind in ours] == ["not-in-reference"]


def test_the_note_of_a_wrong_side_shows_both() -> None:
    texts = ("Left pleural effusion.", "right pleural effusion .")
    theirs, ours = map(label_report, texts)
    notes = [
        next(p.note for p in found if p.kind == "wrong-side")
        for found in (
            passages(texts[0], theirs, ours, otherwise="missed"),
            passages(texts[1], ours, theirs, otherwise="not-in-reference"),
        )
    ]
    assert notes == [
        "Pleural Effusion, left; right in the other report",
        "Pleural Effusion, right; left in the other report",
    ]


def test_each_section_has_one_heading_though_the_marker_is_repeated() -> None:
    parts = f"a. {MARKER}", f" b. {MARKER} c."
    for texts in (["".join(parts)], parts):
        headed = add_headings([Passage(text, "plain") for text in texts])
        assert [each.text for each in headed if each.kind == HEADING] == ["Findings", "Impression"]
        assert " ".join(each.text for each in headed).split() == [
            *("Findings", "a.", "Impression", "b.", "c.")
        ]
    plain = [Passage("a.", "plain")]
    assert add_headings(plain) == plain
