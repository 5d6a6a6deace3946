"""Heatmaps: the films are there, under their maps, sides marked where they are known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from radrep.viz.figures.heatmap import FindingAttention, draw_attention, outlined_overlay, overlay

SIDE = 384  # of the film of a study with one view
EFFUSION = FindingAttention(
    name="Pleural Effusion",
    status="positive",
    sentence="small left effusion .",
    attention=(),
    grad_cam=(),
    probability=None,
    threshold=None,
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (height, width), dtype=np.uint8)


def peak(row: int, column: int, num: int = 7) -> np.ndarray:
    """A map, smooth as those of a model, highest at one place."""
    rows, columns = np.mgrid[:num, :num]
    return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 4)


def places(sheet: Image.Image, piece: np.ndarray) -> list[tuple[int, int]]:
    """Upper left corners (row, column) at which a sheet has exactly these colours."""
    pixels = np.asarray(sheet)
    if piece.ndim == 2:
        piece = np.repeat(piece[..., None], 3, axis=-1)
    height, width = piece.shape[:2]
    red = pixels[: pixels.shape[0] - height + 1, :, 0]
    fits = np.ones((len(red), pixels.shape[1] - width + 1), bool)
    for column in range(0, width, max(1, width // 8)):
        fits &= red[:, column : column + fits.shape[1]] == piece[0, column, 0]
    return [
        (int(row), int(left))
        for row, left in np.argwhere(fits)
        if (pixels[row : row + height, left : left + width] == piece).all()
    ]


def texts(written: Sequence[tuple[float, float, str]]) -> list[str]:
    return [text for _, _, text in written]


def test_overlay_shows_the_film_where_the_map_is_lowest_and_colour_where_it_is_highest() -> None:
    film = noise(70, 70)
    attention = np.zeros((7, 7))
    attention[1, 5] = 3.0
    drawn = overlay(film, attention)
    assert (drawn[40:, :30] == film[40:, :30, None]).all()
    red, green, blue = drawn[15, 55].astype(int)
    assert red > green > blue
    assert (overlay(film, 100 * attention) == drawn).all(), "of any scale"


def test_a_stronger_place_is_lighter_in_grey_too() -> None:
    film = np.full((20, 256), 60, np.uint8)
    ramp = np.tile(np.linspace(0, 1, 256), (20, 1))
    grey = np.asarray(Image.fromarray(overlay(film, ramp)).convert("L")).astype(int)[10]
    assert (np.diff(grey[128:]) >= 0).all()
    assert grey[-1] - grey[0] > 60


def test_the_line_runs_half_way_and_changes_nothing_else() -> None:
    film = noise(70, 100)
    ramp = np.tile(np.linspace(0, 1, 100), (70, 1))
    drawn, plain = outlined_overlay(film, ramp), overlay(film, ramp)
    assert set(np.nonzero((drawn != plain).any(axis=(0, 2)))[0]) == {49, 50}
    assert (drawn[:, 49] == 0).all()
    assert (drawn[:, 50] == 255).all()


def test_a_flat_map_leaves_the_film_as_it_is(written) -> None:
    film = noise(SIDE, SIDE)
    flat = np.full((7, 7), 0.2)
    assert (outlined_overlay(film, flat) == film[..., None]).all()
    assert len(places(draw_attention([film], [flat], study="s"), film)) == 2
    assert " ".join(texts(written)).count("flat map: no place stands out") == 1


def test_a_film_stands_bare_and_under_each_map() -> None:
    film, words, sentence, saliency = noise(SIDE, SIDE), peak(3, 3), peak(5, 5), peak(2, 6, 10)
    finding = replace(
        EFFUSION, attention=[sentence], grad_cam=[saliency], probability=0.6, threshold=0.3
    )
    sheet = draw_attention([film], [words], study="s", projections=["frontal"], findings=[finding])
    ((top, left),) = places(sheet, film)
    ((top_all, right),) = places(sheet, outlined_overlay(film, words))
    assert top == top_all
    assert right >= left + SIDE
    ((below, left_below),) = places(sheet, outlined_overlay(film, sentence))
    assert below >= top + SIDE
    assert left_below == left
    assert places(sheet, outlined_overlay(film, saliency)) == [(below, right)]


@pytest.mark.parametrize("num", [1, 2, 3])
def test_views_of_unequal_shapes_stand_beside_one_another(num: int) -> None:
    side = {1: 384, 2: 340, 3: 300}[num]
    shapes = [(side, side), (side, side - 100), (side - 90, side)][:num]
    films = [noise(*shape, seed) for seed, shape in enumerate(shapes)]
    maps = [peak(3, column) for column in range(num)]
    sheet = draw_attention(films, maps, study="s")
    bare = [places(sheet, film) for film in films]
    under = [places(sheet, outlined_overlay(f, m)) for f, m in zip(films, maps, strict=True)]
    corners = [corner for (corner,) in bare + under]
    assert len({row for row, _ in corners}) == 1
    columns = [column for _, column in corners]
    assert columns == sorted(columns)
    assert min(np.diff(columns)) > side
    assert sheet.width < 1000 * num


def test_other_sizes_are_scaled_to_the_panel_in_shape() -> None:
    white = np.full((60, 40), 130, np.uint8)
    sheet = draw_attention([white], [peak(3, 3)], study="s")
    assert places(sheet, np.full((SIDE, 256), 130, np.uint8))
    assert not places(sheet, np.full((SIDE + 1, 10), 130, np.uint8))


@pytest.mark.parametrize(
    ("projections", "marked"),
    [
        (["frontal", "lateral"], 1),
        (["frontal", "frontal"], 2),
        (["lateral", "unknown"], 0),
        ([], 0),
    ],
)
def test_sides_are_marked_on_frontal_films_only(projections, marked: int, written) -> None:
    finding = replace(EFFUSION, attention=[peak(1, 1)] * 2)
    draw_attention(
        [noise(64, 64)] * 2,
        [peak(3, 3)] * 2,
        study="s",
        projections=projections,
        findings=[finding],
    )
    shown = texts(written)
    assert shown.count("R") == shown.count("L") == 3 * marked  # bare, all words, sentence
    given = projections or ["unknown"] * 2
    assert shown.count("lateral: no side marked") == given.count("lateral")
    assert shown.count("projection unknown: no side marked") == given.count("unknown")
    assert any(text.startswith("R and L: the patient's right and left") for text in shown)


def test_right_stands_at_the_left_edge_outside_the_film(written) -> None:
    film = noise(SIDE, SIDE)
    sheet = draw_attention([film], [peak(3, 3)], study="s", projections=["frontal"])
    (right, left) = [(x, y) for x, y, text in written if text in ("R", "L")][:2]
    assert right[0] == 0
    assert SIDE - 20 < left[0] < SIDE
    assert places(sheet, film), "no mark covers the film"


def test_report_and_discriminator_are_shown(written) -> None:
    finding = replace(EFFUSION, grad_cam=[peak(2, 2)], probability=0.62, threshold=0.275)
    rare = replace(finding, name="Fracture", probability=0.0188, threshold=0.0188)
    open_ended = replace(finding, name="Edema", status="uncertain", threshold=None)
    draw_attention(
        [noise(64, 64)],
        [peak(3, 3)],
        study="CXR7",
        report="the heart is normal .",
        findings=[finding, rare, open_ended],
    )
    shown = texts(written)
    expected = {
        *("Study CXR7", "Not for clinical use", "the heart is normal .", "low", "high"),
        *("Pleural Effusion", "Report: positive", '"small left effusion ."'),
        *("Discriminator: present", "probability 0.620, above its threshold of 0.275"),
        *("Fracture", "Discriminator: absent"),
        "probability 0.019, not above its threshold of 0.019",
        *("Edema", "Report: uncertain", "Discriminator: no threshold", "probability 0.620"),
    }
    assert expected <= set(shown)


def test_attention_is_captioned_in_numbers_since_colours_are_stretched(written) -> None:
    even = np.ones((2, 2))
    even[0, 0] = 1.02
    high = np.array([[3.0, 1.0], [1.0, 1.0]])
    views = ["frontal", "lateral"]
    draw_attention([noise(64, 64)] * 2, [even, 2 * high], study="s", projections=views)
    shown = " ".join(texts(written))
    assert "frontal; 25 % of the attention; maximum 1.0 times the mean" in shown
    assert "lateral: no side marked; 75 % of the attention; maximum 2.0 times the mean" in shown


@pytest.mark.parametrize(
    ("maps", "finding", "reasons"),
    [
        (1, EFFUSION, {"No map of this sentence.", "No discriminator."}),
        (1, replace(EFFUSION, sentence=""), {"The report has no sentence on it."}),
        (0, EFFUSION, {"This model has no attention maps."}),
        (1, replace(EFFUSION, probability=0.1), {"No map of this finding."}),
    ],
)
def test_what_is_missing_is_an_empty_panel_with_the_reason(maps, finding, reasons, written) -> None:
    film = noise(SIDE, SIDE)
    sheet = draw_attention([film], [peak(3, 3)] * maps, study="s", findings=[finding])
    assert reasons <= set(texts(written))
    assert len(places(sheet, film)) == 1, "the bare film stands in for no map"


def test_a_panel_left_empty_is_as_high_as_the_film_beside_it() -> None:
    film = noise(SIDE, SIDE)
    finding = replace(EFFUSION, grad_cam=[peak(2, 2)], probability=0.5, threshold=0.1)
    sheet = draw_attention([film], [peak(3, 3)], study="s", findings=[finding])
    ((top, _),) = places(sheet, outlined_overlay(film, peak(2, 2)))
    ((_, left),) = places(sheet, film)
    column = np.asarray(sheet)[:, left + 10].min(axis=-1)
    assert (column[top : top + SIDE] < 255).all()
    assert column[top - 1] == column[top + SIDE] == 255


@pytest.mark.parametrize("num", [0, 8])
def test_long_texts_and_odd_films_do_not_burst_the_sheet(num: int, written) -> None:
    films = [noise(3, 700), noise(700, 3), noise(1, 1)]
    maps = [np.zeros((7, 7)), np.ones((1, 1)), peak(1, 2)]
    findings = [
        replace(EFFUSION, sentence="y" * 900, attention=maps, grad_cam=maps, probability=1.0)
    ] * num
    sheet = draw_attention(
        films,
        maps,
        study="i" * 900,
        projections=["frontal"] * 3,
        report="\u80ba caf\u00e9 " * 100,
        findings=findings,
    )
    edge = np.asarray(sheet)
    assert sheet.width < 2000
    assert (edge[:, :20] == 255).all()
    assert (edge[:, -20:] == 255).all()
    assert "".join(texts(written)).count("y" * 50) >= num


def test_maps_and_projections_must_be_one_a_view() -> None:
    films = [noise(64, 64)] * 2
    with pytest.raises(ValueError, match="2 images, but 1 maps"):
        draw_attention(films, [peak(3, 3)], study="s")
    with pytest.raises(ValueError, match="2 images, but 1 projections"):
        draw_attention(films, [], study="s", projections=["frontal"])
