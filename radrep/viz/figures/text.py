"""Text on pictures.

Pillow's built-in font has little beyond ASCII. Other characters are set in the first system font
that has them; without one, an umlaut loses its dots and others become numbers, "[U+80BA]".
"""

import unicodedata
from bisect import bisect_right
from contextlib import suppress
from functools import cache
from itertools import groupby
from operator import itemgetter

from PIL import ImageDraw, ImageFont

SIZE = 13  # pixels, like all sizes here
INK, PAPER, RULE, PALE = (20, 20, 24), (255, 255, 255), (205, 205, 210), (110, 110, 118)
# File names on Linux, macOS and Windows.
_SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc"),
    *("Arial Unicode.ttf", "PingFang.ttc", "msyh.ttc", "arial.ttf"),
)

_Font = ImageFont.FreeTypeFont
Colour = tuple[int, int, int]


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    colour: Colour,
    size: int = SIZE,
) -> None:
    """Write one line; `place` is its upper left corner."""
    x, y = place
    for run, font in _runs(text, size):
        draw.text((x, y + size), run, fill=colour, font=font, anchor="ls")  # on one baseline
        x += font.getlength(run)


def text_width(text: str, size: int = SIZE) -> int:
    """Width of a line in pixels."""
    return round(sum(font.getlength(run) for run, font in _runs(text, size)))


def line_height(size: int = SIZE) -> int:
    """Pixels from one line to the next."""
    return round(1.25 * size)


def wrap(text: str, width: int, size: int = SIZE) -> list[str]:
    """Lines of whole words no wider than `width` pixels; longer words are broken."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if text_width(longer, size) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while len(line) > 1 and text_width(line, size) > width:
            fitting = max(1, _fitting(line, width, size))
            lines.append(line[:fitting])
            line = line[fitting:]
    return [*lines, line] if line else lines


def shorten(text: str, width: int, size: int = SIZE) -> str:
    """The text, or as much of its beginning as fits, and dots."""
    if text_width(text, size) <= width:
        return text
    return text[: _fitting(text, width - text_width("...", size), size)] + "..."


def _fitting(text: str, width: int, size: int) -> int:
    """Number of first characters that fit into `width` pixels."""
    counts = range(1, len(text) + 1)
    return bisect_right(counts, width, key=lambda count: text_width(text[:count], size))


def _runs(text: str, size: int = SIZE) -> list[tuple[str, _Font]]:
    """Split a text into parts, each with a font that has all of its characters."""
    shown = (_shown(character, size) for character in text)
    runs = groupby(shown, key=itemgetter(1))
    return [("".join(character for character, _ in run), font) for font, run in runs]


@cache
def _shown(character: str, size: int) -> tuple[str, _Font]:
    """A character as it can be shown, and in which font."""
    fonts = _fonts(size)
    if character.isspace():
        return " ", fonts[0]
    for font in fonts:
        if bytes(font.getmask(character)) != bytes(font.getmask("\uffff")):  # not the "tofu" box
            return character, font
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if c.isascii())
    return plain or f"[U+{ord(character):04X}]", fonts[0]


@cache
def _fonts(size: int) -> tuple[_Font, ...]:
    default = ImageFont.load_default(size)
    assert isinstance(default, ImageFont.FreeTypeFont), "Pillow is built with FreeType"
    found = [default]
    for name in _SYSTEM_FONTS:
        with suppress(OSError):
            found.append(ImageFont.truetype(name, size))
    return tuple(found)
