"""The report of a phantom: findings with side and size, and the absence of the others."""

from collections.abc import Sequence

import numpy as np

from radrep.preparation.sources.phantom.drawing import KINDS, Finding

_PRESENT = {
    "consolidation": (
        "There is a {size} consolidation in the {side} lung.",
        "{Size} consolidation in the {side} lung.",
    ),
    "nodule": ("There is a {size} nodule in the {side} lung.", "{Size} nodule in the {side} lung."),
    "atelectasis": (
        "There is a {size} band of atelectasis in the {side} lung.",
        "{Size} linear atelectasis in the {side} lung.",
    ),
    "effusion": ("There is a {size} {side} pleural effusion.", "{Size} {side} pleural effusion."),
    "pneumothorax": ("There is a {size} {side} pneumothorax.", "{Size} {side} pneumothorax."),
}
# As in a structured report every kind is named: a model need not guess which absences are.
_ABSENT = {
    "consolidation": ("No focal consolidation.", "There is no consolidation."),
    "nodule": ("No lung nodule.", "There is no nodule."),
    "atelectasis": ("No atelectasis.", "There is no atelectasis."),
    "effusion": ("No pleural effusion.", "There is no pleural effusion."),
    "pneumothorax": ("No pneumothorax.", "There is no pneumothorax."),
}
_HEART = ("The heart is normal in size.", "Heart size is normal.")


def write_report(findings: Sequence[Finding], rng: np.random.Generator) -> str:
    """Write the findings section: the heart, then every kind, each in one of two ways."""
    found = {finding.kind: finding for finding in findings}
    sentences = [_one(_HEART, rng)]
    for kind in KINDS:
        words = _one((_PRESENT if kind in found else _ABSENT)[kind], rng)
        if kind in found:
            size, side = found[kind].size, found[kind].side
            words = words.format(size=size, Size=size.capitalize(), side=side)
        sentences.append(words)
    return " ".join(sentences)


def _one(ways: Sequence[str], rng: np.random.Generator) -> str:
    return ways[int(rng.integers(len(ways)))]
