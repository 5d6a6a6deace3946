"""Saliency sheets: what a discriminator's maps leave of the images, a row a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from radrep.viz.figures import layout as panel
from radrep.viz.figures.heatmap import draw_legend, outlined_overlay
from radrep.viz.figures.layout import SMALL, Text
from radrep.viz.figures.text import PALE, RULE

_FILM, _TEXT, _GAP, _MARGIN = 300, 280, 12, 28  # pixels
_HEADS = ("Image", "Under its map", "Mask", "Masked image", "Labels that fired")
_BLACK = (60, 80, 125)  # what a mask shows where the image itself is black
_MAP = "Map: Grad-CAM of the discriminator, over all labels that fired for the image."
_MASK = (
    "Mask: white is kept, black is masked, grey is kept in part. Blue: the image itself is black "
    "there, so that kept and masked look alike."
)


@dataclass(frozen=True)
class SaliencyStudy:
    """One image with what was made of it.

    Attributes:
        id: Of its study.
        image: uint8 (h, w).
        map: uint8 (h, w), 255 the strongest.
        masked: uint8 (h, w), the image where the mask keeps it and 0 elsewhere.
        labels: Labels that fired, with their probability; none fired: the whole image was kept.
        note: Whatever else is to be said.
        projection: "frontal", "lateral" or "unknown"; sides are marked on frontal images only.
    """

    id: str
    image: np.ndarray
    map: np.ndarray
    masked: np.ndarray
    labels: Mapping[str, float]
    note: str = ""
    projection: str = "unknown"


def draw_saliency_sheet(studies: Sequence[SaliencyStudy], title: str) -> Image.Image:
    """Draw a row a study: its image, that under the map, the mask, the masked image, its labels.

    Args:
        studies: The studies.
        title: What stands above them.

    Raises:
        ValueError: If a map or a masked image is not of its image's size.
    """
    widths = (*[_FILM] * 4, _TEXT)
    width = sum(widths) + 4 * _GAP
    heads = [panel.set_texts([Text(name)], wide) for name, wide in zip(_HEADS, widths, strict=True)]
    blocks = [
        panel.head(title, width),
        draw_legend(width, _MAP, _MASK, panel.SIDES),
        panel.beside(heads, gap=_GAP),
    ]
    for study in studies:
        blocks += [panel.rule(width), _draw_study(study)]
    return panel.margin(panel.below(blocks, gap=12), _MARGIN)


def _draw_study(study: SaliencyStudy) -> Image.Image:
    shapes = {pixels.shape for pixels in (study.image, study.map, study.masked)}
    if len(shapes) > 1:
        raise ValueError(
            f"study {study.id}: image {study.image.shape}, map {study.map.shape} and masked image "
            f"{study.masked.shape} are not of one size"
        )
    image, strength, masked, mask = (
        panel.fit(pixels, _FILM)
        for pixels in (study.image, study.map, study.masked, _mask(study.image, study.masked))
    )
    framed = Image.fromarray(mask)  # or else a mask that keeps all is white on white paper
    ImageDraw.Draw(framed).rectangle((0, 0, framed.width - 1, framed.height - 1), outline=RULE)
    shown = (image, outlined_overlay(image, strength), np.asarray(framed), masked)
    frontal = study.projection == "frontal"
    films = [panel.film_panel(pixels, width=_FILM, frontal=frontal) for pixels in shown]
    return panel.beside([*films, panel.set_texts(_texts(study), _TEXT)], gap=_GAP)


def _mask(image: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """The share of each pixel that is kept, as colours (h, w, 3)."""
    kept = np.minimum(masked, image) / np.maximum(image, 1)
    colours = np.repeat(np.round(255 * kept).astype(np.uint8)[..., None], 3, axis=-1)
    colours[image == 0] = _BLACK
    return colours


def _texts(study: SaliencyStudy) -> list[Text]:
    """The id, the labels that fired, the likeliest first, and what else is to be said."""
    fired = sorted(study.labels.items(), key=lambda item: -item[1])
    told = [Text(f"{name} {probability:.3f}") for name, probability in fired]
    return [
        Text(study.id, SMALL, PALE),
        *(told or [Text("None: the whole image was kept.")]),
        Text(panel.name_view(study.projection), SMALL, PALE),
        Text(study.note, SMALL, PALE),
    ]
