"""The plots of an evaluation's page as plain values: where dots, lines, bars and labels stand."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from radrep.evaluation.conclusion import (
    Measure,
    difference_text,
    interval,
    number,
)
from radrep.metrics.names import CONTROLS, FINDINGS_F1, TEXT, metric_names
from radrep.metrics.names import METRICS as METRICS_TABLE

METRICS = {name: METRICS_TABLE[name].title for name in metric_names(TEXT)}
LABEL_SETS = {
    "14": "all 14 observations",
    "13": "without No Finding",
    "5": "cardiomegaly, edema, consolidation, atelectasis, pleural effusion",
}
_PLOTTED_FINDINGS = {
    "14 micro f1": "14 observations",
    "13 micro f1": "without No Finding",
    "5 micro f1": "five",
}
_MAX_INTERVALS = 5  # of an axis


def plot_scores(scores: Mapping[str, Any], protocols: Sequence[str]) -> dict[str, Any]:
    """The plots to choose from, and the switches that choose.

    A plot is shown while every radio button that it needs is chosen; the switches are
    (title, name of the radio buttons, (id, label) of each).

    Args:
        scores: The content of a scores file, see `radrep.viz.html.page.Page`.
        protocols: Those to show, in order.
    """
    main = scores["model"]
    plots, words, findings = [], [], []
    for key, name in METRICS.items():
        measures = {each: Measure(name, key, scores["protocols"][each]) for each in protocols}
        measures = {each: m for each, m in measures.items() if m.value(main) is not None}
        for protocol, measure in measures.items():
            needs = [f"m-{key}", f"p-{protocol}"]
            plots.append(_plot(measure, main, f"{readable(protocol)} protocol", needs))
        if measures:
            words.append((f"m-{key}", name))
    for key, name in _PLOTTED_FINDINGS.items():
        ident, labels = f"f-{key.split()[0]}", LABEL_SETS[key.split()[0]]
        measure = Measure(FINDINGS_F1, key, scores["findings"])
        findings.append((ident, name))
        plots.append(_plot(measure, main, f"micro average, {labels}", [ident]))
    switches = [
        ("Words", "metric", words),
        ("Findings F1 (rules)", "metric", findings),
        ("Protocol", "protocol", [(f"p-{name}", readable(name)) for name in protocols]),
    ]
    return {"switches": switches, "chosen": ("m-cider", f"p-{protocols[0]}"), "plots": plots}


def plot_lengths(diversity: Mapping[str, Mapping[str, Any]], main: str) -> dict[str, Any]:
    """The plot of the lengths.

    Args:
        diversity: Of each system, see "diversity" in a scores file.
        main: The system that the page is of.
    """
    reference = next(iter(diversity.values()))["mean_reference_length"]
    top, ticks = _axis(max(reference, *(row["max_length"] for row in diversity.values())))
    rows = [
        {
            "name": name,
            "kind": _kind(name, main),
            "value": f"{row['mean_length']:.1f}",
            "interval": f"{row['min_length']} to {row['max_length']}",
            "x": _place(row["mean_length"], top),
            "low": _place(row["min_length"], top),
            "high": _place(row["max_length"], top),
            "difference": f"{row['length_ratio']:.2f} of the references’ length",
            "relation": None,
        }
        for name, row in diversity.items()
    ]
    return {
        "rows": rows,
        "guide": _place(reference, top),
        "ticks": ticks,
        "reference": f"{reference:.1f}",
    }


def plot_observations(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each observation how wide its bars are, against the most frequent.

    Args:
        rows: A system's table in a scores file.
    """
    most = max(1, *(max(row["in_references"], row["in_generated"]) for row in rows))
    return [
        {
            **row,
            "right_width": _place(row["right"], most),
            "missed_width": _place(row["in_references"] - row["right"], most),
            "invented_width": _place(row["in_generated"] - row["right"], most),
            "f1_text": number(row["f1"]),
        }
        for row in rows
    ]


def readable(protocol: str) -> str:
    """A protocol's name as a reader has it."""
    return protocol.replace("_", " ")


def _plot(measure: Measure, main: str, how: str, needs: Sequence[str]) -> dict[str, Any]:
    systems = [
        (row["name"], value, measure.interval(row["name"]))
        for row in measure.block["systems"]
        if (value := measure.value(row["name"])) is not None
    ]
    top, ticks = _axis(max(max(value, ends[1] if ends else 0.0) for _, value, ends in systems))
    rows = []
    for name, value, ends in systems:
        difference = None if name == main else measure.difference(main, name)
        rows.append(
            {
                "name": name,
                "kind": _kind(name, main),
                "value": number(value),
                "interval": interval(ends),
                "x": _place(value, top),
                "low": _place(ends[0], top) if ends else None,
                "high": _place(ends[1], top) if ends else None,
                "difference": difference_text(difference) if difference else "",
                "relation": None if difference is None else measure.relation(main, name),
            }
        )
    own = measure.value(main)
    return {
        "id": "-".join(["plot", *needs]),
        "needs": needs,
        "title": measure.name,
        "how": how,
        "rows": rows,
        "guide": None if own is None else _place(own, top),
        "ticks": ticks,
    }


def _kind(system: str, main: str) -> str:
    if system == main:
        return "main"
    if control := CONTROLS.get(system):
        return "same" if control.of_model else "other"
    return "rival"


def _axis(highest: float) -> tuple[float, list[tuple[str, str]]]:
    """An axis from 0 to just above a value: its end, and where its labels stand."""
    highest = max(highest, 1e-3)
    scale = 10.0 ** math.floor(math.log10(highest))
    steps = (scale * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 2.5))
    step = next(step for step in steps if math.ceil(highest / step - 1e-9) <= _MAX_INTERVALS)
    count = math.ceil(highest / step - 1e-9)
    top = count * step
    return top, [(_place(i * step, top), f"{i * step:.4g}") for i in range(count + 1)]


def _place(value: float, top: float) -> str:
    return f"{100 * value / top:.2f}%"
