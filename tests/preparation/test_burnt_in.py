"""Burnt-in text: what prepare notes of films with a name in their pixels, and of those without."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from radrep.preparation.burnt_in import has_text, open_
from radrep.preparation.sources.phantom.source import draw_study
from tests.data.dicom.drawing import draw
from tests.whole_way import radrep

NOTE = "text seems to be burnt into the pixels, which may name the patient"


def write(film: np.ndarray, text: str, size: int, at: tuple[int, int] = (6, 6)) -> np.ndarray:
    """A film with a text on it, bright on dark ground or dark on bright."""
    picture = Image.fromarray(film)
    is_bright = film[at[1] : at[1] + size, at[0] : at[0] + size * len(text) // 2].mean() > 127
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text(at, text, font=font, fill=20 if is_bright else 240)
    return np.asarray(picture)


def phantom(number: int, side: int = 256) -> np.ndarray:
    return draw_study(3, number, side)


@pytest.mark.parametrize("size", [12, 18])
@pytest.mark.parametrize("text", ["SMITH, JOHN A", "1958-03-12 14:32", "MRN 00482913"])
@pytest.mark.parametrize("place", [(6, 6), (80, 6), (40, 230)])
def test_names_dates_and_numbers_are_found(text: str, size: int, place: tuple[int, int]) -> None:
    assert has_text(write(phantom(1), text, size, place))


@pytest.mark.parametrize("text", ["L", "LT", "RT", "AP"])
def test_side_markers_are_no_text(text: str) -> None:
    for number in range(4):
        assert not has_text(phantom(number))
        assert not has_text(write(phantom(number), text, 16, (200, 8)))


def test_text_of_a_large_film_is_found() -> None:
    film = np.asarray(Image.fromarray(phantom(2)).resize((2304, 2304)))
    assert not has_text(film)
    assert has_text(write(film, "DOE^JANE 54Y", 60, (60, 40)))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 300)),
    st.sampled_from(["black", "white", "noise", "stripes"]),
)
def test_films_of_any_size_and_grain_have_none(shape: tuple[int, int], kind: str) -> None:
    film = np.full(shape, 255 if kind == "white" else 0, np.uint8)
    if kind == "noise":
        film = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if kind == "stripes":
        film[:, ::6] = 255
    assert not has_text(film)


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(7, 40), st.integers(7, 40)), st.sampled_from([5, 7, 9, 13]))
def test_strokes_are_what_scipys_opening_takes_away(shape: tuple[int, int], width: int) -> None:
    film = np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(open_(film, width), ndimage.grey_opening(film, size=(width, width)))


def test_prepare_notes_the_image(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    films = {"clean.png": phantom(4), "named.png": write(phantom(5), "DOE^JANE 1958-03-12", 14)}
    for name, film in films.items():
        Image.fromarray(film).save(raw / name)
    declared = draw(phantom(6).astype(np.uint16) * 16, elements={"BurnedInAnnotation": "YES"})
    (raw / "declared.dcm").write_bytes(declared)
    result = radrep("prepare", "folder", "--raw", raw, "--out", out, "--workers", "1")
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    assert f"note: named.png: {NOTE}; it stays there" in told
    assert told.count(NOTE) == 1
    assert "BurnedInAnnotation" in told
    notes = json.loads((out / "prepared.json").read_text())["image_notes"]
    assert [name for name, note in notes if NOTE in note] == ["named.png"]
