"""Heatmaps over radiographs: the attention of a report's words and a discriminator's Grad-CAM."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from radrep.viz.figures import layout
from radrep.viz.figures.layout import LARGE, SMALL, Text
from radrep.viz.figures.text import PALE

# Black, purple, orange, pale yellow: brightness rises all the way, so it reads in grey too.
_STOPS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])
_DARK, _BRIGHT = 45, 190  # grey values under the legend's colours
_SIDES = {1: 384, 2: 340}  # longer side of an image, in pixels, by the number of views
_SIDE = 300  # of more views
_GAP, _GUTTER, _MARGIN = 12, 36, 28
_LOW = 56  # height of two empty panels side by side
_SCALE = (
    "Colours run from low to high within each picture and cannot be compared between pictures. "
    "The line marks half way from lowest to highest. No colour: the image itself."
)
_ATTENTION = (
    "Attention: the model's attention to each place while it generated the words, on average. It "
    "does not explain why they were generated. A maximum barely above the mean stands out by "
    "colour only."
)
_GRAD_CAM = (
    "Grad-CAM: the places that raise the discriminator's score of the finding. The discriminator "
    "classifies the image alone, without the report. The map does not outline a lesion."
)
_NO_MAPS = "This model has no attention maps."


@dataclass(frozen=True)
class FindingAttention:
    """One finding in the report and by the discriminator; maps are (rows, columns), one per view.

    Without a discriminator its map is empty and its numbers are None.
    """

    name: str  # the CheXpert observation, such as "Pleural Effusion"
    status: str  # in the report: "positive", "uncertain", "negative" or "not mentioned"
    sentence: str  # that mentions it, or ""
    attention: Sequence[np.ndarray]  # of its words; empty without it or for a model without maps
    grad_cam: Sequence[np.ndarray]  # of the discriminator, in [0, 1]
    probability: float | None  # of the discriminator, the largest of the views
    threshold: float | None  # above which the discriminator predicts the finding


def overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Lay a map (rows, columns) of any scale over an image (h, w): colours, uint8 (h, w, 3)."""
    strength = _strength(attention, image.shape)
    places = np.linspace(0.0, 1.0, len(_STOPS))
    colour = np.stack([np.interp(strength, places, _STOPS[:, i]) for i in range(3)], axis=-1)
    grey = np.repeat(image[..., None].astype(np.float64), 3, axis=-1)
    share = 0.65 * strength[..., None]  # places without attention show the image itself
    return np.round((1 - share) * grey + share * colour).astype(np.uint8)


def outlined_overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """As `overlay`, with a line half way from the map's lowest to its highest value."""
    colours = overlay(image, attention)  # white within and black without shows on any image
    inside = _strength(attention, image.shape) >= 0.5
    area = Image.fromarray(inside.astype(np.uint8))
    colours[inside & (np.asarray(area.filter(ImageFilter.MinFilter(3))) == 0)] = 255
    colours[~inside & (np.asarray(area.filter(ImageFilter.MaxFilter(3))) == 1)] = 0
    return colours


def _strength(attention: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A map scaled to [0, 1] and to the (h, w) of an image; a flat map is 0."""
    height, width = shape
    scaled = attention - attention.min()
    scaled = scaled / max(float(scaled.max()), 1e-12)
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(smooth), 0.0, 1.0)


def draw_legend(width: int, *notes: str) -> Image.Image:
    """Explain the colours of an overlay, then each note in a paragraph of its own."""
    ramp = np.tile(np.linspace(0.0, 1.0, 240), (12, 1))
    bar = np.concatenate(
        [outlined_overlay(np.full(ramp.shape, grey, np.uint8), ramp) for grey in (_DARK, _BRIGHT)]
    )
    ends = [layout.set_line("low"), Image.fromarray(bar), layout.set_line("high")]
    key = layout.beside(ends, gap=8)
    scale = layout.set_texts([Text(_SCALE, SMALL, PALE)], width - key.width - _GUTTER)
    paragraphs = [layout.set_texts([Text(note, SMALL, PALE)], width) for note in notes]
    return layout.below([layout.beside([key, scale], gap=_GUTTER), *paragraphs], gap=6)


def draw_attention(
    images: Sequence[np.ndarray],
    attention: Sequence[np.ndarray],
    *,
    study: str,
    projections: Sequence[str] = (),
    report: str = "",
    findings: Sequence[FindingAttention] = (),
) -> Image.Image:
    """Draw the views of a study, uint8 (h, w), plain and under their maps, one block per finding.

    At a block's left is the attention of the words, (rows, columns) per view, none for a model
    without maps, at its right the discriminator's Grad-CAM; what is missing is an empty panel with
    the reason. Projections are "frontal", "lateral" or, by default, "unknown".
    """
    views = _Views(images, projections or ["unknown"] * len(images))
    width = 2 * views.width + _GUTTER
    notes = [layout.SIDES]
    if any(finding.probability is not None for finding in findings):
        notes.insert(0, _GRAD_CAM)
    if attention or any(finding.attention for finding in findings):
        notes.insert(0, _ATTENTION)
    blocks = [layout.head(f"Study {study}", width)]
    if report.strip():
        blocks.append(layout.set_texts([Text("Report", SMALL, PALE), Text(report)], width))
    left = _Half([], "Images", views.draw())
    mapped = views.draw(attention, is_attention=True) if attention else _NO_MAPS
    halves = _draw_halves(left, _Half([], "Attention, all words", mapped), views)
    blocks += [draw_legend(width, *notes), layout.rule(width), halves]
    for finding in findings:
        left = _report_half(views, finding, has_maps=len(attention) > 0)
        halves = _draw_halves(left, _discriminator_half(views, finding), views)
        title = layout.set_texts([Text(finding.name, LARGE)], width)
        blocks += [layout.rule(width), layout.below([title, halves], gap=4)]
    return layout.margin(layout.below(blocks, gap=16), _MARGIN)


class _Views:
    def __init__(self, images: Sequence[np.ndarray], projections: Sequence[str]) -> None:
        if len(projections) != len(images):
            raise ValueError(f"{len(images)} images, but {len(projections)} projections")
        self.num = len(images)
        self._side = _SIDES.get(self.num, _SIDE)
        fitted = [layout.fit(image, self._side) for image in images]
        self._views = list(zip(fitted, projections, strict=True))
        self.width = self.num * (self._side + _GAP) - _GAP
        self.height = max(len(image) for image in fitted)

    def draw(self, maps: Sequence[np.ndarray] = (), *, is_attention: bool = False) -> Image.Image:
        """All views beside one another, plain or each under its map (rows, columns)."""
        if len(maps) not in (0, self.num):
            raise ValueError(f"{self.num} images, but {len(maps)} maps")
        total = sum(float(each.sum()) for each in maps)
        panels = []
        for number, (image, projection) in enumerate(self._views):
            caption = [layout.name_view(projection)]
            for each in maps[number : number + 1]:
                image = outlined_overlay(image, each)
                if is_attention and each.sum() > 0:
                    if self.num > 1:
                        caption.append(f"{100 * each.sum() / total:.0f} % of the attention")
                    caption.append(f"maximum {each.max() / each.mean():.1f} times the mean")
                if np.ptp(each) == 0:
                    caption.append("flat map: no place stands out")
            frontal, words = projection == "frontal", "; ".join(caption)
            panel = layout.image_panel(image, width=self._side, frontal=frontal, caption=words)
            panels.append(panel)
        return layout.beside(panels, gap=_GAP)


@dataclass(frozen=True)
class _Half:
    """Left or right of a block: texts, a caption, and the picture or the reason there is none."""

    texts: Sequence[Text]
    caption: str
    picture: Image.Image | str


def _report_half(views: _Views, finding: FindingAttention, *, has_maps: bool) -> _Half:
    texts = [Text(f"Report: {finding.status}")]
    if finding.sentence:
        texts.append(Text(f'"{finding.sentence}"', colour=PALE))
    if finding.attention:
        picture: Image.Image | str = views.draw(finding.attention, is_attention=True)
    elif not finding.sentence:
        picture = "The report has no sentence on it."
    else:
        picture = "No map of this sentence." if has_maps else _NO_MAPS
    return _Half(texts, "Attention, words of this sentence", picture)


def _discriminator_half(views: _Views, finding: FindingAttention) -> _Half:
    caption = "Grad-CAM of the discriminator"
    if finding.probability is None:
        return _Half([Text("Discriminator: none")], caption, "No discriminator.")
    details = f"probability {finding.probability:.3f}"
    if views.num > 1:
        details += " (highest of the views)"
    predicted = "no threshold"
    if finding.threshold is not None:
        above = finding.probability > finding.threshold
        predicted = "present" if above else "absent"
        details += f", {'' if above else 'not '}above its threshold of {finding.threshold:.3f}"
    texts = [Text(f"Discriminator: {predicted}"), Text(details, colour=PALE)]
    picture = views.draw(finding.grad_cam) if finding.grad_cam else "No map of this finding."
    return _Half(texts, caption, picture)


def _draw_halves(left: _Half, right: _Half, views: _Views) -> Image.Image:
    halves, width = (left, right), views.width
    height = _LOW if all(isinstance(half.picture, str) for half in halves) else views.height
    rows = [
        [layout.set_texts(half.texts, width) for half in halves],
        [layout.set_texts([Text(half.caption, SMALL, PALE)], width) for half in halves],
        [
            layout.empty_panel(half.picture, width, height)
            if isinstance(half.picture, str)
            else half.picture
            for half in halves
        ],
    ]
    return layout.below([layout.beside(row, gap=_GUTTER) for row in rows], gap=6)
