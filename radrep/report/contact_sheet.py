"""Contact sheets: studies with their images, reports and labels on one picture.

Texts are set in the font that Pillow brings along, which has ASCII and little more. What it lacks
is set in the first well-known font of the system that has it, or else shown as what it is: an
umlaut without its dots, any other character by its number, "[U+80BA]".
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

_COLUMNS = 2
_FILM, _TEXT, _GAP, _MARGIN = 224, 320, 8, 16  # pixels
_LINE, _SIZE = 16, 13
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
_FIRST = ("findings", "impression")
_SAID = {1: "present", -1: "uncertain", 0: "absent"}
_INK, _PAPER, _RULE, _PALE = (20, 20, 24), (255, 255, 255), (205, 205, 210), (110, 110, 118)

_Font = ImageFont.FreeTypeFont
_Colour = tuple[int, int, int]


@dataclass(frozen=True)
class SheetStudy:
    """One study to show.

    Attributes:
        id: Its id.
        images: Its views, uint8 (h, w) each.
        projections: Their projections.
        sections: Its text by section.
        labels: Its findings: 1 present, 0 absent, -1 uncertain.
    """

    id: str
    images: Sequence[np.ndarray]
    projections: Sequence[str]
    sections: Mapping[str, str]
    labels: Mapping[str, int] = field(default_factory=dict)


def draw_sheet(studies: Sequence[SheetStudy], title: str) -> Image.Image:
    """Draw studies two in a row: two views each, with what their reports say beside them.

    Args:
        studies: The studies, at least one.
        title: What stands above them.
    """
    cell = (2 * _FILM + _TEXT + 3 * _GAP, _FILM + 2 * _LINE + 2 * _GAP)
    rows = -(-len(studies) // _COLUMNS)
    columns = min(_COLUMNS, len(studies))
    top = _MARGIN + _LINE + _GAP
    size = (columns * cell[0] + (columns + 1) * _MARGIN, rows * (cell[1] + _MARGIN) + top)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, _MARGIN), _shorten(title, size[0] - 2 * _MARGIN), _INK)
    for number, study in enumerate(studies):
        row, column = divmod(number, _COLUMNS)
        corner = (_MARGIN + column * (cell[0] + _MARGIN), top + row * (cell[1] + _MARGIN))
        _draw_study(sheet, draw, study, corner, cell)
    return sheet


def _draw_study(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    study: SheetStudy,
    corner: tuple[int, int],
    cell: tuple[int, int],
) -> None:
    x, y = corner
    draw.line((x, y, x + cell[0], y), fill=_RULE)
    y += _GAP
    more = len(study.images) - 2
    told = f"and {more} more {'views' if more > 1 else 'view'}" if more > 0 else ""
    _write(draw, (x + cell[0] - _width(told), y), told, _PALE)
    _write(draw, (x, y), _shorten(study.id, cell[0] - _width(told) - _GAP), _INK)
    top = y + _LINE + _GAP
    shown = study.images[:2]
    for number, (pixels, projection) in enumerate(zip(shown, study.projections, strict=False)):
        film = ImageOps.contain(Image.fromarray(pixels), (_FILM, _FILM))
        left = x + number * (_FILM + _GAP)
        sheet.paste(film, (left + (_FILM - film.width) // 2, top))
        middle = left + (_FILM - _width(projection)) // 2
        _write(draw, (middle, top + film.height + 2), projection, _PALE)
    start = x + len(shown) * (_FILM + _GAP)
    lines = _lines(study, x + cell[0] - start)
    fitting = (_FILM + _LINE) // _LINE
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], ("...", _PALE)]
    for number, (line, colour) in enumerate(lines):
        _write(draw, (start, top + number * _LINE), line, colour)


def _lines(study: SheetStudy, width: int) -> list[tuple[str, _Colour]]:
    """What is told of a study, findings and impression first, in lines no wider than `width`."""
    names = sorted(study.sections, key=lambda name: (name not in _FIRST, name))
    parts = [(name, study.sections[name]) for name in names if study.sections[name].strip()]
    if not any(name in _FIRST for name in study.sections):
        parts.insert(0, ("no findings, no impression", ""))
    for value, said in _SAID.items():
        found = [name for name, told in study.labels.items() if told == value]
        if found:
            parts.append((f"labels, {said}", ", ".join(found)))
    lines = []
    for heading, text in parts:
        lines.append((_shorten(heading, width), _PALE))
        lines += [(line, _INK) for line in _wrap(text, width)]
    return lines


def _wrap(text: str, width: int) -> list[str]:
    """Lines of whole words no wider than `width` pixels; longer words are broken."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if _width(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while _width(line) > width:
            fitting = next(
                n for n in range(len(line), 0, -1) if n == 1 or _width(line[:n]) <= width
            )
            lines.append(line[:fitting])
            line = line[fitting:]
    return [*lines, line] if line else lines


def _shorten(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits, and dots."""
    if _width(text) <= width:
        return text
    while text and _width(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: _Colour
) -> None:
    x, y = place
    for run, font in _runs(text):
        # By the baseline, on which all fonts stand.
        draw.text((x, y + _SIZE), run, fill=colour, font=font, anchor="ls")
        x += font.getlength(run)


def _width(text: str) -> int:
    """Pixels that a text takes."""
    return round(sum(font.getlength(run) for run, font in _runs(text)))


def _runs(text: str) -> list[tuple[str, _Font]]:
    """A text in parts, each with a font that has all of its characters."""
    runs: list[tuple[str, _Font]] = []
    for character in text:
        shown, font = _shown(character)
        if runs and runs[-1][1] is font:
            runs[-1] = (runs[-1][0] + shown, font)
        else:
            runs.append((shown, font))
    return runs


@cache
def _shown(character: str) -> tuple[str, _Font]:
    """A character as it can be shown, and in which font."""
    default = _fonts()[0]
    if character.isspace():
        return " ", default
    for font in _fonts():
        if _has(font, character):
            return character, font
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if c.isascii())
    return plain or f"[U+{ord(character):04X}]", default


@cache
def _fonts() -> tuple[_Font, ...]:
    default = ImageFont.load_default(_SIZE)
    assert isinstance(default, ImageFont.FreeTypeFont), "Pillow is built with FreeType"
    found = [default]
    for name in _SYSTEM_FONTS:
        try:
            found.append(ImageFont.truetype(name, _SIZE))
        except OSError:
            continue
    return tuple(found)


def _has(font: _Font, character: str) -> bool:
    """Whether a font draws a character otherwise than what stands for one that it lacks."""
    drawn, lacking = font.getmask(character), font.getmask("\uffff")
    return drawn.size != lacking.size or bytes(drawn) != bytes(lacking)
