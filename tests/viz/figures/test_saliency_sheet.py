"""Saliency sheets: what a mask keeps can be seen, and why."""

from dataclasses import replace

import numpy as np
import pytest

from radrep.viz.figures.heatmap import outlined_overlay
from radrep.viz.figures.saliency_sheet import SaliencyStudy, draw_saliency_sheet

SIDE = 300


@pytest.fixture
def study() -> SaliencyStudy:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    strength = np.exp(-((rows - 90) ** 2 + (columns - 200) ** 2) / 50**2)
    image = np.random.default_rng(0).integers(40, 200, (SIDE, SIDE), dtype=np.uint8)
    return SaliencyStudy(
        id="CXR7",
        image=image,
        map=np.round(255 * strength).astype(np.uint8),
        masked=image * (strength >= 0.5).astype(np.uint8),
        labels={"Edema": 0.2, "Pleural Effusion": 0.6217},
        projection="frontal",
    )


def panels(study: SaliencyStudy) -> list[np.ndarray]:
    """The four panels of the only row of a sheet, found by the image."""
    sheet = np.asarray(draw_saliency_sheet([study], "t"))
    image = study.image[0].astype(int)
    left = 28
    (top,) = (
        y
        for y in range(len(sheet) - SIDE)
        if (sheet[y, left : left + SIDE] == image[:, None]).all()
    )
    return [sheet[top : top + SIDE, x : x + SIDE] for x in range(left, left + 4 * 312, 312)]


def test_a_row_has_image_map_mask_and_masked_image(study: SaliencyStudy) -> None:
    image, under, mask, masked = panels(study)
    assert (image == study.image[..., None]).all()
    assert (under == outlined_overlay(study.image, study.map)).all()
    assert (masked == study.masked[..., None]).all()
    kept = np.where(study.masked > 0, 255, 0)[..., None]
    assert (mask[1:-1, 1:-1] == kept[1:-1, 1:-1]).all()


def test_a_soft_mask_is_grey_and_black_of_the_image_is_neither_kept_nor_masked(study) -> None:
    image = study.image.copy()
    image[:150] = 0
    _, _, mask, _ = panels_of_half_black(replace(study, image=image, masked=image // 2))
    assert (mask[1:145, 1:-1] == (60, 80, 125)).all()
    assert np.abs(mask[155:-1, 1:-1].astype(int) - 127).max() < 8


def panels_of_half_black(study: SaliencyStudy) -> list[np.ndarray]:
    """As `panels`, of an image whose upper half is black: found by its last row."""
    flipped = [np.ascontiguousarray(p[::-1]) for p in (study.image, study.map, study.masked)]
    turned = replace(study, image=flipped[0], map=flipped[1], masked=flipped[2])
    return [panel[::-1] for panel in panels(turned)]


def test_a_mask_that_keeps_all_stands_out_from_the_paper(study: SaliencyStudy) -> None:
    empty = np.zeros_like(study.map)
    image, under, mask, masked = panels(replace(study, map=empty, masked=study.image, labels={}))
    assert (mask[1:-1, 1:-1] == 255).all()
    assert (mask[0] < 255).all()
    assert (under == image).all()
    assert (masked == image).all()


def test_labels_are_shown_by_falling_probability(study: SaliencyStudy, written) -> None:
    none = replace(study, id="CXR8", labels={}, note="soft mask")
    draw_saliency_sheet([study, none], "iu, train: 2 of 9 images")
    shown = [text for _, _, text in written]
    assert {"Not for clinical use", "iu, train: 2 of 9 images"} <= set(shown)
    start = shown.index("CXR7")
    assert shown[start + 1 : start + 3] == ["Pleural Effusion 0.622", "Edema 0.200"]
    start = shown.index("CXR8")
    assert shown[start + 1] == "None: the whole image was kept."
    assert "soft mask" in shown[start:]
    heads = {"Image", "Grad-CAM", "Mask", "Masked image", "Predicted labels", "low", "high"}
    assert heads <= set(shown)


@pytest.mark.parametrize(("projection", "marks"), [("frontal", 4), ("lateral", 0), ("unknown", 0)])
def test_sides_are_marked_on_frontal_images_only(study, projection, marks, written) -> None:
    draw_saliency_sheet([replace(study, projection=projection)], "t")
    shown = [text for _, _, text in written]
    assert shown.count("R") == shown.count("L") == marks
    assert any("no side marked" in text for text in shown) == (projection != "frontal")


def test_many_labels_long_ids_and_odd_shapes_are_all_shown(study: SaliencyStudy, written) -> None:
    labels = {f"label {number}": number / 100 for number in range(40)}
    tiny = np.ones((1, 9), np.uint8)
    odd = SaliencyStudy("i" * 900, tiny, tiny, tiny, labels, note="n" * 900)
    sheet = draw_saliency_sheet([odd, study], "t" * 900)
    assert len({text for _, _, text in written if text.startswith("label ")}) == 40
    pixels = np.asarray(sheet)
    assert (pixels[:, -20:] == 255).all()
    assert sheet.height > 40 * 20


def test_no_study_leaves_the_heads(written) -> None:
    assert draw_saliency_sheet([], "nothing").height > 100
    assert "nothing" in [text for _, _, text in written]


def test_a_map_of_another_size_is_refused(study: SaliencyStudy) -> None:
    with pytest.raises(ValueError, match="study CXR7.*not of one size"):
        draw_saliency_sheet([replace(study, map=study.map[:10])], "t")
