"""Contact sheets: studies with their images, reports and labels on one picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from radrep.viz.figures import text as lettering
from radrep.viz.figures.text import INK, PALE, PAPER, RULE, Colour

_COLUMNS = 2
_FILM, _TEXT, _GAP, _MARGIN = 224, 320, 8, 16  # pixels
_LINE = lettering.line_height()
_FIRST = ("findings", "impression")
_SAID = {1: "present", -1: "uncertain", 0: "absent"}


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
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    lettering.write(draw, (_MARGIN, _MARGIN), lettering.shorten(title, size[0] - 2 * _MARGIN), INK)
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
    draw.line((x, y, x + cell[0], y), fill=RULE)
    y += _GAP
    more = len(study.images) - 2
    told = f"and {more} more {'views' if more > 1 else 'view'}" if more > 0 else ""
    room = cell[0] - lettering.text_width(told)
    lettering.write(draw, (x + room, y), told, PALE)
    lettering.write(draw, (x, y), lettering.shorten(study.id, room - _GAP), INK)
    top = y + _LINE + _GAP
    shown = study.images[:2]
    for number, (pixels, projection) in enumerate(zip(shown, study.projections, strict=False)):
        film = ImageOps.contain(Image.fromarray(pixels), (_FILM, _FILM))
        left = x + number * (_FILM + _GAP)
        sheet.paste(film, (left + (_FILM - film.width) // 2, top))
        middle = left + (_FILM - lettering.text_width(projection)) // 2
        lettering.write(draw, (middle, top + film.height + 2), projection, PALE)
    start = x + len(shown) * (_FILM + _GAP)
    lines = _lines(study, x + cell[0] - start)
    fitting = (_FILM + _LINE) // _LINE
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], ("...", PALE)]
    for number, (line, colour) in enumerate(lines):
        lettering.write(draw, (start, top + number * _LINE), line, colour)


def _lines(study: SheetStudy, width: int) -> list[tuple[str, Colour]]:
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
        lines.append((lettering.shorten(heading, width), PALE))
        lines += [(line, INK) for line in lettering.wrap(text, width)]
    return lines
