"""Layout: images and texts become pictures, and pictures are put beside and below one another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from radrep.viz.figures import text as lettering
from radrep.viz.figures.text import INK, PALE, PAPER, RULE, Colour

SMALL, BODY, LARGE = 14, 16, 21  # text sizes in pixels
_EMPTY = (246, 246, 248)
_SIDE_MARK = 17
_STRIP = lettering.line_height(_SIDE_MARK) + 2  # above an image, for its marks
SIDES = (
    "R and L: the patient's right and left, marked above frontal images only, by the convention "
    "that the patient's right is at the left edge. They are not read from the image: a marker in "
    "the image itself takes precedence."
)
WARNING = "Not for clinical use"
_VIEWS = {"lateral": "lateral: no side marked", "unknown": "projection unknown: no side marked"}


@dataclass(frozen=True)
class Text:
    """One paragraph, its letters `size` pixels high; an empty one takes no room."""

    words: str
    size: int = BODY
    colour: Colour = INK
    centred: bool = False


def set_texts(
    texts: Sequence[Text], width: int, *, max_lines: int | None = None, paper: Colour = PAPER
) -> Image.Image:
    """Set paragraphs below one another, wrapped to `width` pixels and cut after `max_lines`."""
    lines = [
        (line, text) for text in texts for line in lettering.wrap(text.words, width, text.size)
    ]
    if max_lines is not None and len(lines) > max_lines:
        line, text = lines[max_lines - 1]
        lines[max_lines - 1 :] = [(lettering.shorten(line + "...", width, text.size), text)]
    height = sum(lettering.line_height(text.size) for _, text in lines)
    picture = Image.new("RGB", (width, height), paper)
    draw, top = ImageDraw.Draw(picture), 0
    for line, text in lines:
        spare = width - lettering.text_width(line, text.size) if text.centred else 0
        lettering.write(draw, (spare // 2, top), line, text.colour, text.size)
        top += lettering.line_height(text.size)
    return picture


def set_line(words: str, size: int = BODY, colour: Colour = INK) -> Image.Image:
    """Set one line, exactly as wide as its words."""
    return set_texts([Text(words, size, colour)], lettering.text_width(words, size), max_lines=1)


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """Scale an image, uint8 (h, w) or (h, w, 3), so that its longer side has `side` pixels."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def name_view(projection: str) -> str:
    """The caption of a projection, with a note where its sides are not marked."""
    return _VIEWS.get(projection, projection)


def image_panel(
    pixels: np.ndarray, *, width: int, frontal: bool = False, caption: str = ""
) -> Image.Image:
    """Show an image with its caption below and, if it is frontal, its sides marked above.

    The marks stand on the paper: they cover nothing and are not mistaken for marks in the image,
    uint8 (h, w) or (h, w, 3), no wider than the panel.
    """
    image = Image.fromarray(pixels).convert("RGB")
    strip = Image.new("RGB", (width, _STRIP), PAPER)
    if frontal:
        draw = ImageDraw.Draw(strip)
        # On an image narrower than the two letters, L stands beside R.
        right = image.width - lettering.text_width("L", _SIDE_MARK)
        beside_it = lettering.text_width("R ", _SIDE_MARK)
        lettering.write(draw, (0, 0), "R", INK, _SIDE_MARK)
        lettering.write(draw, (max(right, beside_it), 0), "L", INK, _SIDE_MARK)
    words = set_texts([Text(caption, SMALL, PALE)], width)
    return below([below([strip, image], gap=0), words], gap=4)


def empty_panel(reason: str, width: int, height: int) -> Image.Image:
    """Take the place of images `height` pixels high that are missing, and show the reason."""
    text = Text(reason, BODY, PALE, centred=True)
    words = set_texts([text], width - 32, paper=_EMPTY)
    height = max(height, words.height + 2 * lettering.line_height(BODY))
    panel = Image.new("RGB", (width, _STRIP + height), PAPER)
    box = (0, _STRIP, width - 1, panel.height - 1)
    ImageDraw.Draw(panel).rectangle(box, fill=_EMPTY, outline=RULE)
    panel.paste(words, (16, _STRIP + (height - words.height) // 2))
    return panel


def rule(width: int) -> Image.Image:
    """Draw a thin line across."""
    return Image.new("RGB", (width, 1), RULE)


def head(title: str, width: int) -> Image.Image:
    """Set a title, wrapped, with the warning in a frame at its right."""
    frame = ImageOps.expand(ImageOps.expand(set_line(WARNING), 6, PAPER), 2, INK)
    return beside([set_texts([Text(title, LARGE)], width - frame.width - 24), frame], gap=24)


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
    return ImageOps.expand(picture, width, PAPER)
