import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrep.data.text import CLEANERS, get_cleaner, target_text
from radrep.errors import DataError


def test_iu_cleaner_matches_the_published_vectors(vectors_dir):
    clean = get_cleaner("r2gen_iu")
    cases = json.loads((vectors_dir / "r2gen_iu_cleaner.json").read_text())["cases"]
    assert cases
    for case in cases:
        assert clean(case["report"]) == case["cleaned"]


@pytest.mark.parametrize(
    ("report", "cleaned"),
    [
        ("", " ."),
        ("Lungs clear", "lungs clear ."),
        ("1. Clear lungs. 2. No effusion. 6. Old.", "clear lungs . no effusion . 6 . old ."),
        ("At T1. No fracture", "at tno fracture ."),  # the published code takes this "1. " too
        ("Clear... Heart normal.....", "clear . heart normal ."),
        ("1........ Clear.", "clear ."),  # three halvings make one dot of 8
        ("1......... Clear.", "1 . clear ."),  # and two of 9
        ("well-expanded a/b \"c\" 'd' ~5 #2", "well-expanded ab c d ~5 #2 ."),
        ("Heart , normal ,", "heart  normal  ."),
        ("line\nbreak __ gap", "line\nbreak  gap ."),
    ],
)
def test_iu_cleaner_keeps_the_published_quirks(report, cleaned):
    assert get_cleaner("r2gen_iu")(report) == cleaned


@pytest.mark.parametrize(
    ("report", "cleaned"),
    [
        ("The\nlungs   are\n\nclear.", "the lungs are clear ."),
        ("Since ___ no change", "since  no change ."),
        ("Clear.........Heart normal.", "clearheart normal ."),
        (" FINDINGS: PA view. 2. Old.", "findings pa view . old ."),
        ("a" + " " * 65 + "b", "a  b ."),  # six halvings leave two of 65 spaces
    ],
)
def test_mimic_cleaner_collapses_breaks_underscores_and_spaces_first(report, cleaned):
    assert get_cleaner("r2gen_mimic")(report) == cleaned


@pytest.mark.parametrize(
    ("report", "cleaned"),
    [
        ("FINDINGS: Clear.", "findings : clear ."),
        ("Size: < 3 cm. 2. Time 10:30 [sic].", "size : < 3 cm . time 10 :30 sic ."),
        ("Two\nlines:___.", "two lines : ."),
        ("a-b @ c=d; e", "a-b @ c=d e ."),
    ],
)
def test_r2gengpts_cleaner_keeps_colons_with_a_space_in_front(report, cleaned):
    assert get_cleaner("r2gengpt_mimic")(report) == cleaned


@pytest.mark.parametrize("name", ["r2gen_iu", "r2gen_mimic"])
def test_published_cleaners_remove_exactly_the_marks_of_the_range_bug(name):
    kept = [mark for mark in string.punctuation if mark in get_cleaner(name)(f"a{mark}b")[:-1]]
    assert kept == list("#$-`|~")


def test_plain_cleaner_keeps_what_a_person_would_keep():
    cleaned = get_cleaner("plain")(
        'Opacity at T8: 3/4 of field,\n50% (1.5 cm)... L1-L2 isn\'t "new" since ___; XXXX?'
    )
    assert cleaned == (
        'opacity at t8 : 3/4 of field , 50% ( 1.5 cm ) . l1-l2 isn\'t " new " since ___ ; xxxx ?'
    )


@given(st.text())
def test_plain_cleaner_is_idempotent_and_loses_no_letter_or_digit(text):
    clean = get_cleaner("plain")
    once = clean(text)
    assert clean(once) == once.lower()
    assert [c for c in text.lower() if c.isalnum()] == [c for c in once if c.isalnum()]


def test_an_unknown_cleaner_is_refused_with_the_names_there_are():
    with pytest.raises(DataError, match="'r2gen'.*r2gen_iu, r2gen_mimic, r2gengpt_mimic, plain"):
        get_cleaner("r2gen")
    assert list(CLEANERS) == ["r2gen_iu", "r2gen_mimic", "r2gengpt_mimic", "plain"]


def test_target_text_takes_the_section_asked_for():
    sections = {"findings": " Clear. ", "impression": "Normal.", "indication": "Cough."}
    assert target_text(sections, "findings") == "Clear."
    assert target_text(sections, "impression") == "Normal."
    assert target_text(sections, "both") == "Clear. Normal."
    assert target_text({"impression": "Normal."}, "both") == "Normal."
    assert target_text({"impression": "Normal."}, "findings") == ""
    last = {"last_paragraph": " No change. ", "comparison": "None."}
    assert target_text(last, "both") == "No change."
    assert target_text(last, "findings") == target_text(last, "impression") == ""
    assert target_text(last | {"findings": "Clear."}, "both") == "Clear."
    with pytest.raises(DataError, match="'indication' is not one of findings, impression, both"):
        target_text(sections, "indication")
