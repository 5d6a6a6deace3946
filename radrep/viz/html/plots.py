"""The plots of an evaluation's page: places on their axes, as fractions of the width."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from radrep.metrics import format as text
from radrep.metrics.names import CONTROLS, FINDINGS_F1, METRICS, TEXT, metric_names
from radrep.metrics.scorecard import ProtocolScores, Scorecard, ScoreTable

LABEL_SETS = {
    "14": "all 14 observations",
    "13": "without No Finding",
    "5": "cardiomegaly, edema, consolidation, atelectasis, pleural effusion",
}
_PLOTTED_FINDINGS = {"14": "14 observations", "13": "without No Finding", "5": "five"}
_MAX_TICKS = 5  # intervals between ticks


@dataclass(frozen=True)
class PlotRow:
    """One system: a dot at x, a line from low to high, and their values as text."""

    name: str
    kind: str  # "main", "same" (the model on other images), "other" (no model), "rival"
    x: float
    low: float | None
    high: float | None
    value: str
    interval: str
    difference: str = ""
    relation: str | None = None


@dataclass(frozen=True)
class Plot:
    """A dot plot over systems."""

    id: str  # of its element
    needs: Sequence[str]  # radio buttons that must be chosen to show it
    title: str  # the metric
    how: str  # it was scored
    rows: Sequence[PlotRow]
    guide: float | None  # place of the dashed line
    ticks: Sequence[tuple[float, str]]  # place and label


@dataclass(frozen=True)
class Switch:
    """A group of radio buttons: its title, their common name, and (id, label) of each."""

    title: str
    name: str
    choices: Sequence[tuple[str, str]]


def plot_scores(
    card: Scorecard, main: str, protocols: Sequence[ProtocolScores]
) -> tuple[list[Plot], list[Switch]]:
    """The plots of all metrics, and the switches that choose one of them."""
    plots, words, findings = [], [], []
    for key in metric_names(TEXT):
        scored = [each for each in protocols if each.value(main, key) is not None]
        title = METRICS[key].title
        for each in scored:
            how, needs = f"{readable(each.protocol)} protocol", [f"m-{key}", f"p-{each.protocol}"]
            plots.append(_plot(each, main, key, title, how, needs))
        if scored:
            words.append((f"m-{key}", title))
    for labels, name in _PLOTTED_FINDINGS.items():
        how, key = f"micro average, {LABEL_SETS[labels]}", f"{labels} micro f1"
        plots.append(_plot(card.findings, main, key, FINDINGS_F1, how, [f"f-{labels}"]))
        findings.append((f"f-{labels}", name))
    names = [(f"p-{each.protocol}", readable(each.protocol)) for each in protocols]
    return plots, [
        Switch("Words", "metric", words),
        Switch("Findings F1 (rules)", "metric", findings),
        Switch("Protocol", "protocol", names),
    ]


def plot_lengths(card: Scorecard, main: str) -> Plot:
    """Lengths of the reports of each system, in words."""
    seen = card.diversity
    reference = next(iter(seen.values())).mean_reference_length
    top, ticks = _axis(max(reference, *(row.max_length for row in seen.values())))
    rows = [
        PlotRow(
            name=name,
            kind=_kind(name, main),
            x=row.mean_length / top,
            low=row.min_length / top,
            high=row.max_length / top,
            value=f"{row.mean_length:.1f}",
            interval=f"{row.min_length} to {row.max_length}",
            difference=f"{row.length_ratio:.2f} of the references’ length",
        )
        for name, row in seen.items()
    ]
    return Plot("lengths", (), "Length", f"{reference:.1f}", rows, reference / top, ticks)


def readable(protocol: str) -> str:
    """A protocol's name in words."""
    return protocol.replace("_", " ")


def _plot(
    table: ScoreTable, main: str, key: str, title: str, how: str, needs: Sequence[str]
) -> Plot:
    values = {s.name: v for s in table.systems if (v := s.scores.get(key)) is not None}
    ends = {name: table.interval(name, key) for name in values}
    top, ticks = _axis(max(*values.values(), *(found.high for found in ends.values() if found), 0))
    rows = []
    for name, value in values.items():
        found = ends[name]
        difference = None if name == main else table.difference(main, name, key)
        rows.append(
            PlotRow(
                name=name,
                kind=_kind(name, main),
                x=value / top,
                low=found.low / top if found else None,
                high=found.high / top if found else None,
                value=text.number(value),
                interval=text.interval(found),
                difference=text.difference(difference) if difference else "",
                relation=table.relation(main, name, key) if difference else None,
            )
        )
    guide = values[main] / top if main in values else None
    return Plot("-".join(["plot", *needs]), needs, title, how, rows, guide, ticks)


def _kind(system: str, main: str) -> str:
    if system == main:
        return "main"
    if control := CONTROLS.get(system):
        return "same" if control.of_model else "other"
    return "rival"


def _axis(highest: float) -> tuple[float, list[tuple[float, str]]]:
    """An axis from 0 to just above a value: its end, and its ticks."""
    highest = max(highest, 1e-3)
    scale = 10.0 ** math.floor(math.log10(highest))
    steps = (scale * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 2.5))
    step = next(step for step in steps if math.ceil(highest / step - 1e-9) <= _MAX_TICKS)
    count = math.ceil(highest / step - 1e-9)
    return count * step, [(i / count, f"{i * step:.4g}") for i in range(count + 1)]
