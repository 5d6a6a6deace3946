"""Contact sheets: everything is on them, and nothing over anything else."""

import numpy as np
import pytest

from radrep.viz.figures import text as lettering
from radrep.viz.figures.contact_sheet import SheetStudy, draw_sheet


def film(height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width), 90, np.uint8)


def test_sections_labels_title_and_views_are_shown(written) -> None:
    sections = {"comparison": "None.", "impression": "Normal.", "findings": "Clear."}
    labels = {"Mass": 1, "Edema": -1, "Fracture": 0, "Effusion": 1}
    studies = [
        SheetStudy("a", [film()] * 3, ["frontal", "lateral", "unknown"], sections, labels),
        SheetStudy("b", [film()] * 4, ["frontal"] * 4, {}),
    ]
    draw_sheet(studies, "iu, train: 2 of 9 studies, drawn with seed 0")
    texts = [text for _, _, text in written]
    assert "iu, train: 2 of 9 studies, drawn with seed 0" in texts
    start = texts.index("findings")
    assert texts[start : start + 12] == [
        *("findings", "Clear.", "impression", "Normal.", "comparison", "None."),
        *("labels, present", "Mass, Effusion", "labels, uncertain", "Edema"),
        *("labels, absent", "Fracture"),
    ]
    assert {"and 1 more view", "and 2 more views", "no findings, no impression"} <= set(texts)


def test_a_long_id_ends_before_what_stands_beside_it(written) -> None:
    sheet = draw_sheet([SheetStudy("i" * 400, [film()] * 3, ["frontal"] * 3, {})], "t")
    more, name = (text for _, _, text in written if text.startswith(("and", "ii")))
    assert more == "and 1 more view"
    assert name.endswith("...")
    room = sheet.width - 2 * 16 - lettering.text_width(more)
    assert room - 20 < lettering.text_width(name) < room


def test_lines_are_as_wide_as_the_font_draws_them(written) -> None:
    text = "W" * 100 + " " + "illicit " * 60
    picture = draw_sheet([SheetStudy("a", [film()], ["frontal"], {"findings": text})], "t")
    lines = [line for _, _, line in written if set(line) & set("Wl") and line != "frontal"]
    assert len(lines) > 3
    room = picture.width - 2 * 16 - 224 - 8
    assert all(lettering.text_width(line) <= room for line in lines)
    assert len(lines[0]) < len(lines[-2]), "narrow letters: more of them"


def test_projections_stand_in_the_middle_under_their_films(written) -> None:
    draw_sheet([SheetStudy("a", [film()] * 2, ["frontal", "lateral"], {})], "t")
    for name in ("frontal", "lateral"):
        (x,) = (x for x, _, text in written if text == name)
        assert x + lettering.text_width(name) / 2 == pytest.approx(224 / 2, abs=1)
