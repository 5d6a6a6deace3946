"""Contact sheets: studies with their images and reports on one picture."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

_COLUMNS = 2
_FILM, _TEXT, _GAP, _MARGIN = 224, 320, 8, 16  # pixels
_LINE, _SIZE, _CHARACTER = 16, 13, 7
_SECTIONS = ("findings", "impression")
_INK, _PAPER, _RULE, _PALE = (20, 20, 24), (255, 255, 255), (205, 205, 210), (110, 110, 118)


@dataclass(frozen=True)
class SheetStudy:
    """One study to show.

    Attributes:
        id: Its id.
        images: Its views, uint8 (h, w) each.
        projections: Their projections.
        sections: Its text by section.
    """

    id: str
    images: Sequence[np.ndarray]
    projections: Sequence[str]
    sections: Mapping[str, str]


def draw_sheet(studies: Sequence[SheetStudy]) -> Image.Image:
    """Draw studies two in a row: two views each, with what their reports say beside them.

    Args:
        studies: The studies, at least one.
    """
    cell = (2 * _FILM + _TEXT + 3 * _GAP, _FILM + 2 * _LINE + 2 * _GAP)
    rows = -(-len(studies) // _COLUMNS)
    columns = min(_COLUMNS, len(studies))
    size = (columns * cell[0] + (columns + 1) * _MARGIN, rows * (cell[1] + _MARGIN) + _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    for number, study in enumerate(studies):
        row, column = divmod(number, _COLUMNS)
        corner = (_MARGIN + column * (cell[0] + _MARGIN), _MARGIN + row * (cell[1] + _MARGIN))
        _draw_study(sheet, study, corner, cell)
    return sheet


def _draw_study(
    sheet: Image.Image, study: SheetStudy, corner: tuple[int, int], cell: tuple[int, int]
) -> None:
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_SIZE)
    x, y = corner
    draw.line((x, y, x + cell[0], y), fill=_RULE)
    y += _GAP
    draw.text((x, y), textwrap.shorten(study.id, 90), fill=_INK, font=font)
    more = len(study.images) - 2
    if more > 0:
        draw.text((x + 2 * _FILM + 2 * _GAP, y), f"and {more} more views", fill=_PALE, font=font)
    top = y + _LINE + _GAP
    shown = study.images[:2]
    for number, (pixels, projection) in enumerate(zip(shown, study.projections, strict=False)):
        film = ImageOps.contain(Image.fromarray(pixels), (_FILM, _FILM))
        left = x + number * (_FILM + _GAP)
        sheet.paste(film, (left + (_FILM - film.width) // 2, top))
        draw.text((left, top + film.height + 2), projection, fill=_PALE, font=font)
    start = x + len(shown) * (_FILM + _GAP)
    lines = _wrap(study.sections, (x + cell[0] - start) // _CHARACTER)
    fitting = (_FILM + _LINE) // _LINE
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], ("...", _PALE)]
    for number, (line, colour) in enumerate(lines):
        draw.text((start, top + number * _LINE), line, fill=colour, font=font)


def _wrap(sections: Mapping[str, str], characters: int) -> list[tuple[str, tuple[int, int, int]]]:
    """The lines of the text with their colours."""
    lines = []
    for name in _SECTIONS:
        if text := sections.get(name):
            lines.append((name, _PALE))
            lines += [(line, _INK) for line in textwrap.wrap(text, characters)]
    return lines or [("no findings, no impression", _PALE)]
