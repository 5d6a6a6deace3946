"""Sensitivity and specificity of the findings that reports name, beside the ROC of a classifier.

A finding is scored on the studies whose reference calls it positive, or negative or not at all;
those that are uncertain are left out. Letters: n studies, l findings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radrep.metrics.bootstrap import draw_studies
from radrep.metrics.labeler import label_reports

FEWEST = 10  # studies with a finding, and without, for its rates to be shown
_MOST_POINTS = 200  # of a curve
_NUM_SAMPLES = 1000
_Z = 1.96


@dataclass(frozen=True)
class Rate:
    """A share or an area with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FindingRates:
    """One finding: how often reports name it where it is present, and not where it is absent.

    Points of curves are (1 - specificity, sensitivity).
    """

    name: str
    num_present: int
    num_absent: int
    sensitivity: Rate  # of the reports; Wilson intervals
    specificity: Rate
    auroc: Rate  # of the predicted probabilities; bootstrap interval over studies
    roc: tuple[tuple[float, float], ...]
    # Of reports edited to name this share of what is present, by the share
    edited: Mapping[float, tuple[float, float]]


def rate_findings(
    references: Sequence[str],
    reports: Sequence[str],
    names: Sequence[str],
    probabilities: np.ndarray,
    edited: Mapping[float, Sequence[str]],
) -> tuple[FindingRates, ...]:
    """Rate the findings that enough studies have and enough have not, the most frequent first.

    Args:
        references: Of n studies.
        reports: The generated ones.
        names: Of l findings.
        probabilities: That they are present, (n, l).
        edited: The reports as they are edited at other sensitivities; may be empty.
    """
    states = [found.states for found in label_reports(list(references))]
    named = _named(reports, names)
    moved = {share: _named(texts, names) for share, texts in edited.items()}
    found = []
    for i, name in enumerate(names):
        sure = np.array([each[name] != "uncertain" for each in states], dtype=bool)
        present = np.array([each[name] == "positive" for each in states], dtype=bool)[sure]
        num_present, num_absent = int(present.sum()), int((~present).sum())
        scores = probabilities[sure, i]
        if min(num_present, num_absent) < FEWEST or scores.min() == scores.max():
            continue
        own = named[sure, i]
        found.append(
            FindingRates(
                name=name,
                num_present=num_present,
                num_absent=num_absent,
                sensitivity=_share(int(own[present].sum()), num_present),
                specificity=_share(int((~own[~present]).sum()), num_absent),
                auroc=_auroc(scores, present),
                roc=_roc(scores, present),
                edited={share: _point(texts[sure, i], present) for share, texts in moved.items()},
            )
        )
    return tuple(sorted(found, key=lambda rates: -rates.num_present))


def _named(reports: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Whether each report calls each finding positive, (n, l)."""
    distinct = list(dict.fromkeys(reports))
    rows = {
        text: [found.states[name] == "positive" for name in names]
        for text, found in zip(distinct, label_reports(distinct), strict=True)
    }
    return np.array([rows[text] for text in reports], dtype=bool)


def _point(named: np.ndarray, present: np.ndarray) -> tuple[float, float]:
    return float(named[~present].mean()), float(named[present].mean())


def _share(right: int, num: int) -> Rate:
    """With the interval of Wilson (1927), which holds its level for few studies too."""
    share, spread = right / num, _Z**2 / num
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * np.sqrt(share * (1 - share) / num + spread / (4 * num))
    return Rate(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def _auroc(scores: np.ndarray, present: np.ndarray) -> Rate:
    order = np.concatenate([np.flatnonzero(present), np.flatnonzero(~present)])
    ours, theirs = scores[present], scores[~present]
    wins = (ours[:, None] > theirs) + 0.5 * (ours[:, None] == theirs)  # (present, absent)
    samples = []
    for counts in draw_studies(len(scores), _NUM_SAMPLES, seed=0):
        of_present, of_absent = np.split(counts[:, order], [len(ours)], axis=1)
        pairs = of_present.sum(axis=1) * of_absent.sum(axis=1)
        won = ((of_present @ wins) * of_absent).sum(axis=1)
        samples.append(won[pairs > 0] / pairs[pairs > 0])
    low, high = np.quantile(np.concatenate(samples), [0.025, 0.975])
    return Rate(float(wins.mean()), float(low), float(high))


def _roc(scores: np.ndarray, present: np.ndarray) -> tuple[tuple[float, float], ...]:
    """The corners of the curve, at most 200 of them."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], present[order]
    last = np.append(ranked[:-1] != ranked[1:], True)  # of those that no threshold separates
    counts = np.stack([np.cumsum(~hits)[last], np.cumsum(hits)[last]], axis=1)
    counts = np.concatenate([np.zeros((1, 2), dtype=np.int64), counts])
    turns = np.diff(counts, 2, axis=0).any(axis=1)
    corners = np.flatnonzero(np.concatenate([[True], turns, [True]]))
    if len(corners) > _MOST_POINTS:
        corners = corners[np.linspace(0, len(corners) - 1, _MOST_POINTS).round().astype(int)]
    shares = counts[corners] / counts[-1]
    return tuple((wrong, right) for wrong, right in shares.tolist())
