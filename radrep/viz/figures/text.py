"""Texts on pictures.

They are set in the font that Pillow brings along, which has ASCII and little more. What it lacks
is set in the first well-known font of the system that has it, or else shown as what it is: an
umlaut without its dots, any other character by its number, "[U+80BA]".
"""

import unicodedata
from bisect import bisect_right
from functools import cache

from PIL import ImageDraw, ImageFont

SIZE = 13  # pixels, as all sizes here
INK, PAPER, RULE, PALE = (20, 20, 24), (255, 255, 255), (205, 205, 210), (110, 110, 118)
# Fonts of many scripts, as Linux, macOS and Windows name the files they bring.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "arial.ttf",
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
        # By the baseline, on which all fonts stand.
        draw.text((x, y + size), run, fill=colour, font=font, anchor="ls")
        x += font.getlength(run)


def text_width(text: str, size: int = SIZE) -> int:
    """Pixels that a text takes."""
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
        while text_width(line, size) > width:
            fitting = max(1, _fitting(line, width, size))
            if fitting == len(line):  # one character, wider than the line
                break
            lines.append(line[:fitting])
            line = line[fitting:]
    return [*lines, line] if line else lines


def shorten(text: str, width: int, size: int = SIZE) -> str:
    """The text, or as much of its beginning as fits, and dots."""
    if text_width(text, size) <= width:
        return text
    return text[: _fitting(text, width - text_width("...", size), size)] + "..."


def _fitting(text: str, width: int, size: int) -> int:
    """How many of its first characters fit into `width` pixels."""
    counts = range(1, len(text) + 1)
    return bisect_right(counts, width, key=lambda count: text_width(text[:count], size))


def _runs(text: str, size: int = SIZE) -> list[tuple[str, _Font]]:
    """A text in parts, each with a font that has all of its characters."""
    runs: list[tuple[str, _Font]] = []
    for character in text:
        shown, font = _shown(character, size)
        if runs and runs[-1][1] is font:
            runs[-1] = (runs[-1][0] + shown, font)
        else:
            runs.append((shown, font))
    return runs


@cache
def _shown(character: str, size: int) -> tuple[str, _Font]:
    """A character as it can be shown, and in which font."""
    default = _fonts(size)[0]
    if character.isspace():
        return " ", default
    for font in _fonts(size):
        if _has(font, character):
            return character, font
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if c.isascii())
    return plain or f"[U+{ord(character):04X}]", default


@cache
def _fonts(size: int) -> tuple[_Font, ...]:
    default = ImageFont.load_default(size)
    assert isinstance(default, ImageFont.FreeTypeFont), "Pillow is built with FreeType"
    found = [default]
    for name in _SYSTEM_FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)


def _has(font: _Font, character: str) -> bool:
    """Whether a font draws a character otherwise than what stands for one that it lacks."""
    drawn, lacking = font.getmask(character), font.getmask("\uffff")
    return drawn.size != lacking.size or bytes(drawn) != bytes(lacking)
