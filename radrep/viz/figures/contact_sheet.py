"""Contact sheets: studies with their images, reports and labels in one picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from radrep.viz.figures import layout
from radrep.viz.figures.layout import Text
from radrep.viz.figures.text import PALE, SIZE, line_height

_COLUMNS, _VIEWS = 2, 2
_IMAGE, _TEXT, _GAP, _MARGIN = 224, 320, 8, 16  # pixels
_WIDTH = _VIEWS * (_IMAGE + _GAP) + _TEXT
_FIRST = ("findings", "impression")
_LABELS = {1: "present", -1: "uncertain", 0: "absent"}


@dataclass(frozen=True)
class SheetStudy:
    """One study: views, uint8 (h, w), text by section, labels 1 present, 0 absent, -1 uncertain."""

    id: str
    images: Sequence[np.ndarray]
    projections: Sequence[str]
    sections: Mapping[str, str]
    labels: Mapping[str, int] = field(default_factory=dict)


def draw_sheet(studies: Sequence[SheetStudy], title: str) -> Image.Image:
    """Draw at least one study, two in a row: two views of each, report and labels beside them."""
    cells = [_draw_study(study) for study in studies]
    rows = [
        layout.beside(cells[start : start + _COLUMNS], gap=_MARGIN)
        for start in range(0, len(cells), _COLUMNS)
    ]
    head = layout.set_texts([Text(title, SIZE)], rows[0].width)
    return layout.margin(layout.below([head, *rows], gap=_MARGIN), _MARGIN)


def _draw_study(study: SheetStudy) -> Image.Image:
    hidden = len(study.images) - _VIEWS
    more = f"and {hidden} more {'views' if hidden > 1 else 'view'}" if hidden > 0 else ""
    note = layout.set_line(more, SIZE, PALE)
    name = layout.set_texts([Text(study.id, SIZE)], _WIDTH - note.width - _GAP, max_lines=1)
    views = zip(study.images[:_VIEWS], study.projections, strict=False)
    panels = [_draw_view(pixels, projection) for pixels, projection in views]
    room = _WIDTH - len(panels) * (_IMAGE + _GAP)
    max_lines = _IMAGE // line_height(SIZE) + 1
    panels.append(layout.set_texts(_texts(study), room, max_lines=max_lines))
    head = layout.beside([name, note], gap=_GAP)
    return layout.below([layout.rule(_WIDTH), head, layout.beside(panels, gap=_GAP)], gap=_GAP)


def _draw_view(pixels: np.ndarray, projection: str) -> Image.Image:
    image = Image.fromarray(layout.fit(pixels, _IMAGE))
    panel = Image.new("RGB", (_IMAGE, image.height), layout.PAPER)
    panel.paste(image, ((_IMAGE - image.width) // 2, 0))
    caption = layout.set_texts([Text(projection, SIZE, PALE, centred=True)], _IMAGE)
    return layout.below([panel, caption], gap=2)


def _texts(study: SheetStudy) -> list[Text]:
    names = sorted(study.sections, key=lambda name: (name not in _FIRST, name))
    parts = [(name, study.sections[name]) for name in names if study.sections[name].strip()]
    if not any(name in _FIRST for name in study.sections):
        parts.insert(0, ("no findings, no impression", ""))
    for value, label in _LABELS.items():
        found = [name for name, labelled in study.labels.items() if labelled == value]
        if found:
            parts.append((f"labels, {label}", ", ".join(found)))
    return [
        text for heading, words in parts for text in (Text(heading, SIZE, PALE), Text(words, SIZE))
    ]
