"""Panels: films and texts as pictures of their own, to be put beside and above one another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from radrep.viz.figures import text as lettering
from radrep.viz.figures.text import INK, PALE, PAPER, RULE, Colour

SMALL, BODY, LARGE = 14, 16, 21  # pixels, sizes of text
_EMPTY = (246, 246, 248)
_SIDE_MARK = 17
_STRIP = lettering.line_height(_SIDE_MARK) + 2  # above a film, for its marks
SIDES = (
    "R and L: the patient's right and left, beside frontal films only, by the convention that the "
    "patient's right is at the left edge. They are not read from the film: a marker on the film "
    "itself goes first."
)
WARNING = "Not for clinical use"
_VIEWS = {"lateral": "lateral: no side marked", "unknown": "projection unknown: no side marked"}


@dataclass(frozen=True)
class Text:
    """One paragraph.

    Attributes:
        words: What it says; nothing is set for an empty one.
        size: Of its letters, in pixels.
        colour: Of its letters.
    """

    words: str
    size: int = BODY
    colour: Colour = INK


def set_texts(texts: Sequence[Text], width: int) -> Image.Image:
    """Set paragraphs below one another, wrapped to `width` pixels."""
    lines = [
        (line, text) for text in texts for line in lettering.wrap(text.words, width, text.size)
    ]
    height = sum(lettering.line_height(text.size) for _, text in lines)
    picture = Image.new("RGB", (width, height), PAPER)
    draw, top = ImageDraw.Draw(picture), 0
    for line, text in lines:
        lettering.write(draw, (0, top), line, text.colour, text.size)
        top += lettering.line_height(text.size)
    return picture


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """Scale an image so that its longer side has `side` pixels.

    Args:
        pixels: uint8 (h, w) or (h, w, 3).
        side: Pixels of the longer side.
    """
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def name_view(projection: str) -> str:
    """What to say of a view's projection, and of its sides where they are not marked."""
    return _VIEWS.get(projection, projection)


def film_panel(
    pixels: np.ndarray, *, width: int, frontal: bool = False, caption: str = ""
) -> Image.Image:
    """Show a film with its caption below and, if it is frontal, its sides marked above.

    The marks stand on the paper, so that they cover nothing and are not taken for marks on the
    film. Films of panels with and without marks begin at the same height.

    Args:
        pixels: uint8 (h, w) or (h, w, 3), no wider than the panel.
        width: Of the panel, in pixels.
        frontal: Whether to mark the patient's right and left.
        caption: What stands below the film.
    """
    film = Image.fromarray(pixels).convert("RGB")
    told = set_texts([Text(caption, SMALL, PALE)], width)
    panel = Image.new("RGB", (width, _STRIP + film.height + 4 + told.height), PAPER)
    panel.paste(film, (0, _STRIP))
    panel.paste(told, (0, _STRIP + film.height + 4))
    if frontal:
        draw = ImageDraw.Draw(panel)
        # On a film narrower than the two letters, L stands beside R.
        right = film.width - lettering.text_width("L", _SIDE_MARK)
        beside_it = lettering.text_width("R ", _SIDE_MARK)
        lettering.write(draw, (0, 0), "R", INK, _SIDE_MARK)
        lettering.write(draw, (max(right, beside_it), 0), "L", INK, _SIDE_MARK)
    return panel


def empty_panel(reason: str, width: int, height: int) -> Image.Image:
    """Stand in for films `height` pixels high, with the reason why there are none."""
    lines = lettering.wrap(reason, width - 32, BODY)
    step = lettering.line_height(BODY)
    panel = Image.new("RGB", (width, _STRIP + max(height, (len(lines) + 2) * step)), PAPER)
    draw = ImageDraw.Draw(panel)
    draw.rectangle((0, _STRIP, width - 1, panel.height - 1), fill=_EMPTY, outline=RULE)
    top = (_STRIP + panel.height - len(lines) * step) // 2
    for number, line in enumerate(lines):
        left = (width - lettering.text_width(line, BODY)) // 2
        lettering.write(draw, (left, top + number * step), line, PALE, BODY)
    return panel


def rule(width: int) -> Image.Image:
    """Draw a thin line across."""
    return Image.new("RGB", (width, 1), RULE)


def head(title: str, width: int) -> Image.Image:
    """Set a title, wrapped, with the warning in a frame at its right."""
    wide = lettering.text_width(WARNING, BODY) + 20
    frame = Image.new("RGB", (wide, lettering.line_height(BODY) + 10), PAPER)
    draw = ImageDraw.Draw(frame)
    draw.rectangle((0, 0, frame.width - 1, frame.height - 1), outline=INK, width=2)
    lettering.write(draw, (10, 4), WARNING, INK, BODY)
    return beside([set_texts([Text(title, LARGE)], width - wide - 24), frame], gap=24)


def beside(pictures: Sequence[Image.Image], *, gap: int) -> Image.Image:
    """Put pictures beside one another, their upper edges at one height."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    joined = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    left = 0
    for picture in pictures:
        joined.paste(picture, (left, 0))
        left += picture.width + gap
    return joined


def below(pictures: Sequence[Image.Image], *, gap: int) -> Image.Image:
    """Put pictures below one another at the left edge; those without height take no room."""
    shown = [picture for picture in pictures if picture.height]
    height = sum(picture.height for picture in shown) + gap * (len(shown) - 1)
    joined = Image.new("RGB", (max(picture.width for picture in shown), height), PAPER)
    top = 0
    for picture in shown:
        joined.paste(picture, (0, top))
        top += picture.height + gap
    return joined


def margin(picture: Image.Image, width: int) -> Image.Image:
    """Put white paper around a picture."""
    sheet = Image.new("RGB", (picture.width + 2 * width, picture.height + 2 * width), PAPER)
    sheet.paste(picture, (width, width))
    return sheet
