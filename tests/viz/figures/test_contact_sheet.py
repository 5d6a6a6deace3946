"""Contact sheets: everything that is told is on them, and nothing over anything else."""

import numpy as np
import pytest

from radrep.viz.figures import text as lettering
from radrep.viz.figures.contact_sheet import SheetStudy, draw_sheet


def film(height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width), 90, np.uint8)


def test_sections_labels_title_and_views_are_told(written) -> None:
    sections = {"comparison": "None.", "impression": "Normal.", "findings": "Clear."}
    labels = {"Mass": 1, "Edema": -1, "Fracture": 0, "Effusion": 1}
    studies = [
        SheetStudy("a", [film()] * 3, ["frontal", "lateral", "unknown"], sections, labels),
        SheetStudy("b", [film()] * 4, ["frontal"] * 4, {}),
    ]
    draw_sheet(studies, "iu, train: 2 of 9 studies, drawn with seed 0")
    texts = [text for _, _, text in written]
    assert texts[0] == "iu, train: 2 of 9 studies, drawn with seed 0"
    start = texts.index("findings")
    assert texts[start : start + 12] == [
        *("findings", "Clear.", "impression", "Normal.", "comparison", "None."),
        *("labels, present", "Mass, Effusion", "labels, uncertain", "Edema"),
        *("labels, absent", "Fracture"),
    ]
    assert {"and 1 more view", "and 2 more views", "no findings, no impression"} <= set(texts)


def test_a_long_id_ends_before_what_stands_beside_it(written) -> None:
    draw_sheet([SheetStudy("i" * 400, [film()] * 3, ["frontal"] * 3, {})], "t")
    (x, _, more), (start, _, name) = (row for row in written if row[2].startswith(("and", "ii")))
    assert more == "and 1 more view"
    assert name.endswith("...")
    assert start + lettering.text_width(name) < x


def test_lines_are_as_wide_as_the_font_draws_them(written) -> None:
    text = "W" * 100 + " " + "illicit " * 60
    picture = draw_sheet([SheetStudy("a", [film()], ["frontal"], {"findings": text})], "t")
    lines = [(x, line) for x, _, line in written if set(line) & set("Wl") and line != "frontal"]
    assert len(lines) > 3
    assert all(x + lettering.text_width(line) <= picture.width - 16 for x, line in lines)
    assert len(lines[0][1]) < len(lines[-2][1]), "narrow letters: more of them"


def test_projections_stand_in_the_middle_under_their_films(written) -> None:
    draw_sheet([SheetStudy("a", [film()] * 2, ["frontal", "lateral"], {})], "t")
    for left, name in ((16, "frontal"), (16 + 224 + 8, "lateral")):
        (x,) = (x for x, _, text in written if text == name)
        assert x + lettering.text_width(name) / 2 == pytest.approx(left + 112, abs=1)
