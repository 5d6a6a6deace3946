"""The labels of a study of several rows: boxes or views of it, or readings by several people."""

import re
from collections.abc import Mapping, Sequence

from radrep.preparation.sources.folder.table import Row

_WEIGHTS = (0, -1, 1)  # what one image shows is in the study: of several labels the last counts
_NORMAL = frozenset(("nofinding", "nofindings", "normal"))
_DEVICES = "supportdevices"


def merge_labels(rows: Sequence[Row]) -> dict[str, int]:
    """The labels of a study's rows, 1, 0 or -1 by finding.

    Of several readers of one image more than half decide: a finding that half of them mark is
    uncertain, one that fewer mark absent. "No finding" gives way to a finding of another row.
    """
    by_image: dict[tuple[str, ...], dict[str, dict[str, int]]] = {}
    for row in rows:
        _add(by_image.setdefault(row.images, {}).setdefault(row.reader, {}), row.labels)
    labels: dict[str, int] = {}
    for readings in by_image.values():
        _add(labels, _vote([reading for reading in readings.values() if reading]))
    if _is_contradictory(labels) and not any(_is_contradictory(row.labels) for row in rows):
        labels |= {finding: 0 for finding in labels if _plain(finding) in _NORMAL}
    return labels


def _is_contradictory(labels: Mapping[str, int]) -> bool:
    """Whether "No finding" stands beside a finding, which devices are not."""
    found = {_plain(finding) for finding, value in labels.items() if value}
    return bool(found & _NORMAL and found - _NORMAL - {_DEVICES})


def _plain(finding: str) -> str:
    return re.sub(r"[\W_]+", "", finding.casefold())


def _add(labels: dict[str, int], more: Mapping[str, int]) -> None:
    for finding, value in more.items():
        labels[finding] = max(value, labels.get(finding, value), key=_WEIGHTS.index)


def _vote(readings: list[dict[str, int]]) -> dict[str, int]:
    if len(readings) == 1:
        return readings[0]
    labels = {}
    for finding in dict.fromkeys(name for reading in readings for name in reading):
        marks = [reading.get(finding, 0) for reading in readings]
        present, marked = marks.count(1), sum(map(bool, marks))
        half = len(readings) / 2
        labels[finding] = 1 if present > half else -1 if marked >= half else 0
    return labels
