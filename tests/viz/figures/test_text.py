"""Texts on pictures: wrapped by what the font draws, and no character lost."""

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw

from radrep.viz.figures import text as lettering
from radrep.viz.figures.text import line_height, shorten, text_width, wrap, write


@pytest.fixture
def only_own_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a system without any well-known font."""
    default = lettering._fonts(lettering.SIZE)[:1]
    monkeypatch.setattr(lettering, "_fonts", lambda size: default)
    lettering._shown.cache_clear()
    yield
    lettering._shown.cache_clear()


@pytest.mark.usefixtures("only_own_font")
def test_what_no_font_has_is_shown_as_what_it_is() -> None:
    ((shown, _),) = lettering._runs("caf\N{LATIN SMALL LETTER E WITH ACUTE} \u80ba\n.")
    assert shown == "cafe [U+80BA] ."


@pytest.mark.parametrize("size", [lettering.SIZE, 21])
def test_wrapped_lines_fit_and_lose_nothing(size: int) -> None:
    text = "small left effusion " * 5 + "W" * 80 + " . clear"
    lines = wrap(text, 200, size)
    assert all(text_width(line, size) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("", 200, size) == []


def test_larger_letters_are_wider_and_need_more_lines() -> None:
    text = "no focal consolidation or effusion " * 4
    assert text_width(text, 26) == pytest.approx(2 * text_width(text, 13), rel=0.05)
    assert len(wrap(text, 300, 26)) > len(wrap(text, 300, 13))


def test_a_shortened_text_fits_and_states_so() -> None:
    assert shorten("short", 200) == "short"
    cut = shorten("i" * 300, 100)
    assert cut.endswith("...")
    assert 90 < text_width(cut) <= 100


def test_a_character_wider_than_the_line_has_a_line_of_its_own() -> None:
    assert wrap("WW i", 3) == ["W", "W", "i"]


@pytest.mark.parametrize("size", [lettering.SIZE, 21])
def test_a_line_stays_within_its_height_and_width(size: int) -> None:
    text = "Ag\N{LATIN SMALL LETTER J}|q"
    picture = Image.new("L", (200, 60), 255)
    write(ImageDraw.Draw(picture), (10, 10), text, 0, size)
    rows, columns = np.nonzero(np.asarray(picture) < 255)
    assert rows.min() >= 10
    assert rows.max() < 10 + line_height(size) + 1
    assert columns.min() >= 9
    assert columns.max() <= 10 + text_width(text, size)
