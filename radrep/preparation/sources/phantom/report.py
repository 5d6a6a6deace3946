"""The report of a phantom: findings with side and size, and the absence of the others.

Beside it there may be an impression, which repeats what is present, and an indication. Behind a
study before, the report compares: new, unchanged, larger, smaller, resolved.
"""

from collections.abc import Sequence

import numpy as np

from radrep.preparation.sources.phantom.drawing import KINDS, SIZES, Finding

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
_RESOLVED = {
    "consolidation": "The {side} lung consolidation has resolved.",
    "nodule": "The {side} lung nodule has resolved.",
    "atelectasis": "The {side} lung atelectasis has resolved.",
    "effusion": "The {side} pleural effusion has resolved.",
    "pneumothorax": "The {side} pneumothorax has resolved.",
}
_SHORT = {
    "consolidation": "{side} lung consolidation",
    "nodule": "{side} lung nodule",
    "atelectasis": "{side} lung atelectasis",
    "effusion": "{side} pleural effusion",
    "pneumothorax": "{side} pneumothorax",
}
_NORMAL = ("No acute disease.", "No acute cardiopulmonary abnormality.")
_COMPLAINTS = ("Chest pain.", "Shortness of breath.", "Cough.", "Preoperative.")
_HEART = ("The heart is normal in size.", "Heart size is normal.")


def write_report(
    findings: Sequence[Finding],
    rng: np.random.Generator,
    before: Sequence[Finding] | None = None,
) -> str:
    """Write the findings section: the heart, then every kind, each in one of two ways.

    Compared with the findings `before`, where they are given.
    """
    found, earlier = ({each.kind: each for each in of} for of in (findings, before or ()))
    sentences = [_one(_HEART, rng)]
    for kind in KINDS:
        words = _one((_PRESENT if kind in found else _ABSENT)[kind], rng)
        if kind in found:
            size, side = found[kind].size, found[kind].side
            words = words.format(size=size, Size=size.capitalize(), side=side)
            if before is not None:
                words = f"{words[:-1]}, {_compare(found[kind], earlier.get(kind))}."
        elif kind in earlier:
            words = _RESOLVED[kind].format(side=earlier[kind].side)
        sentences.append(words)
    return " ".join(sentences)


def _compare(finding: Finding, before: Finding | None) -> str:
    if before is None:
        return "new"
    change = SIZES.index(finding.size) - SIZES.index(before.size)
    return (
        "unchanged"
        if change == 0
        else "larger than before"
        if change > 0
        else "smaller than before"
    )


def write_impression(findings: Sequence[Finding], rng: np.random.Generator) -> str:
    """Write the impression: what is present, or that nothing is."""
    return _sentence(findings, "") or _one(_NORMAL, rng)


def write_indication(findings: Sequence[Finding], share: float, rng: np.random.Generator) -> str:
    """Write an indication, which names this share of the findings; or a complaint."""
    complaint, named = _one(_COMPLAINTS, rng), [f for f in findings if rng.random() < share]
    return _sentence(named, "Evaluate ") or complaint


def _sentence(findings: Sequence[Finding], start: str) -> str:
    words = ", ".join(_SHORT[finding.kind].format(side=finding.side) for finding in findings)
    text = f"{start}{words}."
    return f"{text[0].upper()}{text[1:]}" if findings else ""


def _one(ways: Sequence[str], rng: np.random.Generator) -> str:
    return ways[int(rng.integers(len(ways)))]
