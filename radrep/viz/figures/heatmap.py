"""Heatmaps over radiographs: where the words of a report looked, and where a discriminator did."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from radrep.viz.figures import layout as panel
from radrep.viz.figures import text as lettering
from radrep.viz.figures.layout import BODY, LARGE, SMALL, Text
from radrep.viz.figures.text import PALE

# Black, purple, orange, pale yellow: brightness rises all the way, so it reads in grey too.
_STOPS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])
_DARK, _BRIGHT = 45, 190  # parts of a film that the legend shows
_SIDES = {1: 384, 2: 340}  # longer side of a film, in pixels, by the number of views
_SIDE = 300  # of more views
_GAP, _GUTTER, _MARGIN = 12, 36, 28
_LOW = 56  # height of an empty panel beside another
_SCALE = (
    "Low to high within each picture, so colours say nothing from one picture to another. "
    "The line runs half way between lowest and highest. No colour: the film itself."
)
_WORDS = (
    "Attention of the words: the places that the model's attention lay on while it wrote them, "
    "on average. It does not tell why they were written. A highest place hardly above the mean "
    "stands out by its colour only."
)
_DISCRIMINATOR = (
    "Discriminator: a classifier of the film alone, which does not see the report. Its map "
    "(Grad-CAM) shows the places that speak for the finding. It is no outline of a lesion."
)
_NO_SENTENCE = "The report has no sentence on it."
_NO_MAPS = "This model has no map of its words."


@dataclass(frozen=True)
class FindingAttention:
    """One finding as the report and the discriminator have it.

    Attributes:
        name: The CheXpert observation, such as "Pleural Effusion".
        said: What the report says: "positive", "uncertain", "negative" or "not mentioned".
        sentence: The sentence that says it, "" where there is none.
        words: Attention of that sentence's words, one map (rows, columns) a view; empty if there
            is no such sentence or the model has no maps.
        saliency: Grad-CAM of the discriminator, one map (rows, columns) in [0, 1] a view; empty
            without a discriminator.
        probability: Of the discriminator, the largest of the views; None without one.
        threshold: Above which the discriminator calls the finding present.
    """

    name: str
    said: str
    sentence: str
    words: Sequence[np.ndarray]
    saliency: Sequence[np.ndarray]
    probability: float | None
    threshold: float | None


def overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Lay an attention map over an image; the brightest place is the map's highest.

    Args:
        image: Pixels, uint8 (h, w).
        attention: Not negative, (rows, columns), of any scale.

    Returns:
        Colours, uint8 (h, w, 3).
    """
    strength = _strength(attention, image.shape)
    places = np.linspace(0.0, 1.0, len(_STOPS))
    colour = np.stack([np.interp(strength, places, _STOPS[:, i]) for i in range(3)], axis=-1)
    grey = np.repeat(image[..., None].astype(np.float64), 3, axis=-1)
    share = 0.65 * strength[..., None]  # places without attention show the film itself
    return np.round((1 - share) * grey + share * colour).astype(np.uint8)


def outlined_overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Lay an attention map over an image, with a line half way from its lowest to its highest.

    The line is white within and black without, so that it shows on any film, also in grey.

    Args:
        image: Pixels, uint8 (h, w).
        attention: Not negative, (rows, columns), of any scale.

    Returns:
        Colours, uint8 (h, w, 3).
    """
    colours = overlay(image, attention)
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
    """Explain the colours of an overlay and whatever else needs it.

    Args:
        width: Of the picture, in pixels.
        notes: What to say beyond the colours' scale, a paragraph each.
    """
    ramp = np.tile(np.linspace(0.0, 1.0, 240), (12, 1))
    bar = np.concatenate(
        [outlined_overlay(np.full(ramp.shape, grey, np.uint8), ramp) for grey in (_DARK, _BRIGHT)]
    )
    low, high = (
        panel.set_texts([Text(word)], lettering.text_width(word, BODY)) for word in ("low", "high")
    )
    key = panel.beside([low, Image.fromarray(bar), high], gap=8)
    room = width - key.width - _GUTTER
    scale = panel.set_texts([Text(_SCALE, SMALL, PALE)], room)
    told = [panel.set_texts([Text(note, SMALL, PALE)], width) for note in notes]
    return panel.below([panel.beside([key, scale], gap=_GUTTER), *told], gap=6)


def draw_looks(
    images: Sequence[np.ndarray],
    looks: Sequence[np.ndarray],
    *,
    study: str,
    projections: Sequence[str] = (),
    report: str = "",
    findings: Sequence[FindingAttention] = (),
) -> Image.Image:
    """Draw the views of a study bare and under their maps, a block a finding.

    Each block has the attention of the words at its left and the discriminator's map at its right.
    What is missing is an empty panel that says why.

    Args:
        images: Views, uint8 (h, w), at least one.
        looks: Attention of all words to each view's patches, (rows, columns); none for a model
            without maps.
        study: Its id.
        projections: "frontal", "lateral" or "unknown" for each view; all unknown, if not given.
        report: The report.
        findings: What to show of single findings.

    Raises:
        ValueError: If maps or projections are not one a view.
    """
    films = _Films(images, projections or ["unknown"] * len(images))
    width = 2 * films.width + _GUTTER
    notes = []
    if looks or any(finding.words for finding in findings):
        notes.append(_WORDS)
    if any(finding.probability is not None for finding in findings):
        notes.append(_DISCRIMINATOR)
    blocks = [panel.head(f"Study {study}", width)]
    if report.strip():
        told = [Text("Report", SMALL, PALE), Text(report)]
        blocks.append(panel.set_texts(told, width))
    under = films.draw(looks, attention=True) if looks else _NO_MAPS
    blocks += [
        draw_legend(width, *notes, panel.SIDES),
        panel.rule(width),
        _halves(
            _Half([], "Films", films.draw()),
            _Half([], "Attention of all words", under),
            films,
        ),
    ]
    for finding in findings:
        title = panel.set_texts([Text(finding.name, LARGE)], width)
        halves = _halves(
            _words_half(films, finding, has_maps=len(looks) > 0),
            _discriminator_half(films, finding),
            films,
        )
        blocks += [panel.rule(width), panel.below([title, halves], gap=4)]
    return panel.margin(panel.below(blocks, gap=16), _MARGIN)


class _Films:
    """The views of a study at the size in which they are shown."""

    def __init__(self, images: Sequence[np.ndarray], projections: Sequence[str]) -> None:
        if len(projections) != len(images):
            raise ValueError(f"{len(images)} images, but {len(projections)} projections")
        self._side = _SIDES.get(len(images), _SIDE)
        self._films = [panel.fit(image, self._side) for image in images]
        self._projections = projections
        self.num = len(images)
        self.width = self.num * (self._side + _GAP) - _GAP
        self.height = max(len(film) for film in self._films)

    def draw(self, maps: Sequence[np.ndarray] = (), *, attention: bool = False) -> Image.Image:
        """All views beside one another, under maps if there are any.

        Args:
            maps: One (rows, columns) a view, or none at all.
            attention: Whether the maps are attention, to be told in numbers as well: the share of
                each view, and how far its highest place stands out.
        """
        if len(maps) not in (0, len(self._films)):
            raise ValueError(f"{len(self._films)} images, but {len(maps)} maps")
        sums = [float(each.sum()) for each in maps]
        panels = []
        for number, film in enumerate(self._films):
            projection = self._projections[number]
            told = [panel.name_view(projection)]
            if attention and sums[number] > 0:
                if len(maps) > 1:
                    told.append(f"{100 * sums[number] / sum(sums):.0f} % of the attention")
                peak = float(maps[number].max()) * maps[number].size / sums[number]
                told.append(f"highest {peak:.1f} times the mean")
            if maps and np.ptp(maps[number]) == 0:
                told.append("flat map: no place stands out")
            shown = outlined_overlay(film, maps[number]) if maps else film
            panels.append(
                panel.film_panel(
                    shown,
                    width=self._side,
                    frontal=projection == "frontal",
                    caption="; ".join(told),
                )
            )
        return panel.beside(panels, gap=_GAP)


@dataclass(frozen=True)
class _Half:
    """The left or the right of a block: texts, what the picture is, and the picture or why none."""

    texts: Sequence[Text]
    label: str
    picture: Image.Image | str


def _words_half(films: _Films, finding: FindingAttention, *, has_maps: bool) -> _Half:
    texts = [Text(f"Report: {finding.said}")]
    if finding.sentence:
        texts.append(Text(f'"{finding.sentence}"', colour=PALE))
    picture: Image.Image | str
    if finding.words:
        picture = films.draw(finding.words, attention=True)
    elif not finding.sentence:
        picture = _NO_SENTENCE
    else:
        picture = "No map of this sentence." if has_maps else _NO_MAPS
    return _Half(texts, "Attention of the words of this sentence", picture)


def _discriminator_half(films: _Films, finding: FindingAttention) -> _Half:
    probability, threshold = finding.probability, finding.threshold
    if probability is None:
        texts = [Text("Discriminator: none")]
    else:
        told = f"probability {probability:.3f}" + (
            " (highest of the views)" if films.num > 1 else ""
        )
        if threshold is None:
            called = "no threshold"
        elif probability > threshold:
            called, told = "present", f"{told}, above its threshold of {threshold:.3f}"
        else:
            called, told = "absent", f"{told}, not above its threshold of {threshold:.3f}"
        texts = [Text(f"Discriminator: {called}"), Text(told, colour=PALE)]
    picture: Image.Image | str
    if finding.saliency:
        picture = films.draw(finding.saliency)
    else:
        picture = "No discriminator." if probability is None else "No map of this finding."
    return _Half(texts, "Grad-CAM of the discriminator", picture)


def _halves(left: _Half, right: _Half, films: _Films) -> Image.Image:
    """Two halves of a block; their pictures begin at one height."""
    width = films.width
    pictures = [half.picture for half in (left, right)]
    height = _LOW if all(isinstance(each, str) for each in pictures) else films.height
    rows = [
        [panel.set_texts(half.texts, width) for half in (left, right)],
        [panel.set_texts([Text(half.label, SMALL, PALE)], width) for half in (left, right)],
        [
            panel.empty_panel(each, width, height) if isinstance(each, str) else each
            for each in pictures
        ],
    ]
    return panel.below([panel.beside(row, gap=_GUTTER) for row in rows], gap=6)
