"""Finding by finding: what a report says, where its words looked and where a discriminator does."""

from collections.abc import Sequence

import numpy as np

from radrep.metrics.labeler import OBSERVATIONS, Findings, label_report
from radrep.metrics.labeler.vocabulary import NO_FINDING
from radrep.saliency.sdam import MaskSummary
from radrep.viz.figures.heatmap import FindingAttention


def find_looks(
    text: str, word_looks: np.ndarray, saliency: Sequence[MaskSummary]
) -> tuple[FindingAttention, ...]:
    """Lay side by side what a report and a discriminator find in a study.

    Told are the findings that the report calls present or possible, and those that fire in any
    view; "No Finding" has no place of its own and is told only where it fires.

    Args:
        text: The report.
        word_looks: Attention of each of its words, split at white space, to the patches of each
            view, (words, views, rows, columns); no words for a model without maps.
        saliency: What the discriminator finds in each view, unmasked; empty without one.
    """
    findings = label_report(text)
    shown = [
        name
        for name in OBSERVATIONS
        if any(name in look.predicted_positive for look in saliency)
        or (findings.states[name] in ("positive", "uncertain") and name != NO_FINDING)
    ]
    return tuple(_look(name, text, findings, word_looks, saliency) for name in shown)


def _look(
    name: str,
    text: str,
    findings: Findings,
    word_looks: np.ndarray,
    saliency: Sequence[MaskSummary],
) -> FindingAttention:
    state = findings.states[name]
    sentences = [
        mention.sentence
        for mention in findings.mentions
        if mention.observation == name and mention.state == state
    ]
    start, end = sentences[0] if sentences else (0, 0)
    words: tuple[np.ndarray, ...] = ()
    if sentences and len(word_looks):
        first = len(text[:start].split())
        last = first + len(text[start:end].split())
        words = tuple(word_looks[first:last].mean(axis=0))
    return FindingAttention(
        name=name,
        status="not mentioned" if state == "absent" else state,
        sentence=" ".join(text[start:end].split()),
        attention=words,
        grad_cam=tuple(look.maps[name] for look in saliency),
        probability=max((look.probabilities[name] for look in saliency), default=None),
        threshold=saliency[0].thresholds[name] if saliency else None,
    )
