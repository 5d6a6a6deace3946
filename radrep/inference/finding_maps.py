"""Attention and Grad-CAM of each finding that a report or a discriminator names."""

from collections.abc import Sequence

import numpy as np

from radrep.metrics.labeler import OBSERVATIONS, Findings, label_report
from radrep.metrics.labeler.vocabulary import NO_FINDING
from radrep.saliency.sdam import MaskSummary
from radrep.viz.figures.heatmap import FindingAttention


def map_findings(
    text: str, attention: np.ndarray, summaries: Sequence[MaskSummary]
) -> tuple[FindingAttention, ...]:
    """Collect the maps of findings that a report calls present or possible or that are predicted.

    "No Finding" has no place in an image and needs a prediction.

    Args:
        text: The report.
        attention: Of each of its words, split at white space, to the patches of each view,
            (words, views, rows, columns); no words for a model without maps.
        summaries: The discriminator's, one per view; empty without one.
    """
    findings = label_report(text)
    shown = [
        name
        for name in OBSERVATIONS
        if any(name in summary.predicted_positive for summary in summaries)
        or (findings.states[name] in ("positive", "uncertain") and name != NO_FINDING)
    ]
    return tuple(_map_finding(name, text, findings, attention, summaries) for name in shown)


def _map_finding(
    name: str,
    text: str,
    findings: Findings,
    attention: np.ndarray,
    summaries: Sequence[MaskSummary],
) -> FindingAttention:
    state = findings.states[name]
    mentions = (m for m in findings.mentions if (m.observation, m.state) == (name, state))
    start, end = next((mention.sentence for mention in mentions), (0, 0))
    of_sentence: tuple[np.ndarray, ...] = ()
    if end and len(attention):
        first = len(text[:start].split())
        last = first + len(text[start:end].split())
        of_sentence = tuple(attention[first:last].mean(axis=0))
    return FindingAttention(
        name=name,
        status="not mentioned" if state == "absent" else state,
        sentence=" ".join(text[start:end].split()),
        attention=of_sentence,
        grad_cam=tuple(summary.maps[name] for summary in summaries),
        probability=max((summary.probabilities[name] for summary in summaries), default=None),
        threshold=summaries[0].thresholds[name] if summaries else None,
    )
