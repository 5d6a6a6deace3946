"""Saliency sheets: what the masks of a discriminator keep of the images, one row per study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from radrep.viz.figures import layout
from radrep.viz.figures.heatmap import draw_legend, outlined_overlay
from radrep.viz.figures.layout import SMALL, Text
from radrep.viz.figures.text import PALE, RULE

_IMAGE, _TEXT, _GAP, _MARGIN = 300, 280, 12, 28  # pixels
_WIDTHS = {
    **dict.fromkeys(("Image", "Grad-CAM", "Mask", "Masked image"), _IMAGE),
    "Predicted labels": _TEXT,
}
_BLACK = (60, 80, 125)  # the mask's colour where the image itself is black
_MAP = "Grad-CAM of the discriminator, over all labels predicted for the image."
_MASK = (
    "Mask: white is kept, black is masked, grey is kept in part. Blue: the image itself is black "
    "there, so that kept and masked cannot be distinguished."
)


@dataclass(frozen=True)
class SaliencyStudy:
    """One image, its map (255 the strongest) and the image where its mask keeps it, uint8 (h, w).

    `labels` are the predicted ones with their probability; without one the whole image was kept.
    Sides are marked if the projection is "frontal".
    """

    id: str
    image: np.ndarray
    map: np.ndarray
    masked: np.ndarray
    labels: Mapping[str, float]
    note: str = ""
    projection: str = "unknown"


def draw_saliency_sheet(studies: Sequence[SaliencyStudy], title: str) -> Image.Image:
    """Draw one row per study: its image, that under its map, the mask, the masked image, labels."""
    heads = [layout.set_texts([Text(name)], width) for name, width in _WIDTHS.items()]
    row = layout.beside(heads, gap=_GAP)
    legend = draw_legend(row.width, _MAP, _MASK, layout.SIDES)
    blocks = [layout.head(title, row.width), legend, row]
    for study in studies:
        blocks += [layout.rule(row.width), _draw_study(study)]
    return layout.margin(layout.below(blocks, gap=12), _MARGIN)


def _draw_study(study: SaliencyStudy) -> Image.Image:
    shapes = {pixels.shape for pixels in (study.image, study.map, study.masked)}
    if len(shapes) > 1:
        raise ValueError(
            f"study {study.id}: image {study.image.shape}, map {study.map.shape} and masked image "
            f"{study.masked.shape} are not of one size"
        )
    image, strength, masked, mask = (
        layout.fit(pixels, _IMAGE)
        for pixels in (study.image, study.map, study.masked, _mask(study.image, study.masked))
    )
    framed = Image.fromarray(mask)  # a mask that keeps all would be white on white paper
    ImageDraw.Draw(framed).rectangle((0, 0, framed.width - 1, framed.height - 1), outline=RULE)
    shown = (image, outlined_overlay(image, strength), np.asarray(framed), masked)
    frontal = study.projection == "frontal"
    panels = [layout.image_panel(pixels, width=_IMAGE, frontal=frontal) for pixels in shown]
    return layout.beside([*panels, layout.set_texts(_texts(study), _TEXT)], gap=_GAP)


def _mask(image: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """The share of each pixel that is kept, as colours (h, w, 3)."""
    kept = np.minimum(masked, image) / np.maximum(image, 1)
    colours = np.repeat(np.round(255 * kept).astype(np.uint8)[..., None], 3, axis=-1)
    colours[image == 0] = _BLACK
    return colours


def _texts(study: SaliencyStudy) -> list[Text]:
    predicted = sorted(study.labels.items(), key=lambda item: -item[1])
    labels = [Text(f"{name} {probability:.3f}") for name, probability in predicted]
    return [
        Text(study.id, SMALL, PALE),
        *(labels or [Text("None: the whole image was kept.")]),
        Text(layout.name_view(study.projection), SMALL, PALE),
        Text(study.note, SMALL, PALE),
    ]
