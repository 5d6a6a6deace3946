import random

import pytest

from radrep.preparation.sources.cells import (
    are_names,
    is_cut_number,
    is_formula_error,
    is_missing,
    parse_id,
    parse_label,
    split_findings,
    split_names,
)
from tests.runaway import no_runaway


@pytest.mark.parametrize("unit", ["a_", "a_1 ", "a ", "_ "])
def test_time_grows_with_the_length_of_a_cell(unit):
    with no_runaway(5):
        assert not are_names("a" + unit * 20_000 + ":")


@pytest.mark.parametrize(
    "text", ["", " ", "NA", "n/a", "#N/A", "nan", "NaN", "None", "NULL", "<NA>", "NaT", "-", " - "]
)
def test_words_for_nothing_are_missing(text):
    assert is_missing(text)
    assert parse_id(text) == ""
    assert parse_label(text) is None


@pytest.mark.parametrize("text", ["0", "No", "nano", "none seen", "-1", "unknown", "Normal"])
def test_other_words_are_not_missing(text):
    assert not is_missing(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("1.0", 1), ("1,0", 1), ("+1", 1), ("1.000", 1), (" 1 ", 1), ("TRUE", 1),
        ("True", 1), ("WAHR", 1), ("VRAI", 1), ("0", 0), ("0.0", 0), ("False", 0), ("FALSCH", 0),
        ("-1", -1), ("-1.0", -1), ("2", None), ("0.5", None), ("1.5", None), ("10", None),
        ("yes", None), ("M", None), ("1.0.0", None), ("\u0661", None),
    ],
)  # fmt: skip
def test_labels_are_ones_zeros_and_truths(text, value):
    assert parse_label(text) == value


@pytest.mark.parametrize(
    ("text", "id_"),
    [
        ("12345", "12345"), ("12345.0", "12345"), ("007", "007"), ('="007"', "007"),
        ("'007", "007"),
        ("5.041426700000000000e+07", "50414267"), ("s1", "s1"), ("1.2.840", "1.2.840"),
        ("12e5", "12e5"), ("3E7", "3E7"), ("2020-01-02", "2020-01-02"), ("A-5", "A-5"),
    ],
)  # fmt: skip
def test_ids_are_as_they_were_before_a_number_was_made_of_them(text, id_):
    assert parse_id(f" {text} ") == id_


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1.23E+15", "rounded it to 3 digits"),
        ("1,2345E+12", "rounded it to 5 digits"),
        ("1E+10", "rounded it to 1 digits"),
        ("5.0414e+07", "rounded it"),
        ("5-Mar", "a date"),
        ("Mar-05", "a date"),
        ("#NAME?", "lost it"),
        ("#REF!", "lost it"),
        ("#######", "lost it"),
    ],
)
def test_ids_that_a_spreadsheet_destroyed_are_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_id(text)


def test_numbers_beyond_the_digits_that_excel_keeps_are_recognised():
    assert is_cut_number("1234567890123450000") is True
    assert is_cut_number("1234567890123456000") is False
    assert is_cut_number("123456789012345") is None
    assert is_cut_number("1.2.840.113619.2000000") is None


def test_errors_of_formulas_are_recognised():
    assert all(map(is_formula_error, ("#NAME?", " #DIV/0! ", "###")))
    assert not any(map(is_formula_error, ("", "#", "# 1", "Clear.")))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.png", ["a.png"]), ("", []), ("a", ["a"]), ("a b", ["a b"]),
        ("Smith, John", ["Smith, John"]),
        ("Smith, John.png", ["Smith, John.png"]), ("scan one.png", ["scan one.png"]),
        ("a.png;b.png", ["a.png", "b.png"]), ("a.png | b.JPG", ["a.png", "b.JPG"]),
        ("a.png,b.png", ["a.png", "b.png"]), ("a.png b.png", ["a.png", "b.png"]),
        ("a.png\nb.png\n", ["a.png", "b.png"]), ("x;y", ["x", "y"]), ("a|b", ["a", "b"]),
        ("['a.png', 'b.png']", ["a.png", "b.png"]), ('["a.png", "b.png"]', ["a.png", "b.png"]),
        ("['a.png' 'b.png']", ["a.png", "b.png"]), ("('a.png',)", ["a.png"]), ("[]", []),
        ("[a.png, b.png]", ["a.png", "b.png"]), ("['a, b.png']", ["a, b.png"]),
        ("Smith, John.png; x.png", ["Smith, John.png", "x.png"]),
    ],
)  # fmt: skip
def test_a_cell_may_hold_several_names(text, names):
    assert split_names(text) == names


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("Effusion|Mass", ["Effusion", "Mass"]),
        ("['pleural effusion', 'normal']", ["pleural effusion", "normal"]),
        ("Nodule/Mass", ["Nodule/Mass"]),
        ("A; B", ["A", "B"]),
        ("nan", []),
        ("[]", []),
        ("['a', None]", ["a"]),
    ],
)
def test_a_cell_may_hold_several_findings(text, findings):
    assert split_findings(text) == findings


@pytest.mark.parametrize("mark", [",", ", ", "\n", "\r\n", ";", "|", " | "])
def test_findings_are_apart_at_commas_and_lines_and_numbers_are_none(mark):
    for seed in range(8):
        names = ["Pneumonia", "Nodule/Mass", "No Finding", "2.0", "17", "Pleural effusion"]
        drawn = random.Random(seed).sample(names, 4)
        expected = [name for name in drawn if name not in ("2.0", "17")]
        assert split_findings(mark.join(drawn) + mark) == expected
    assert split_findings("['Effusion, left', 'Mass']") == ["Effusion, left", "Mass"]
