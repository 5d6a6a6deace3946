"""Words the findings of a phantom as a report does: who is there with side and size, who is not."""

from collections.abc import Sequence

import numpy as np

from radrep.data.sources.phantom_drawing import Finding

_PRESENT = {
    "consolidation": (
        "There is a {size} consolidation in the {side} lung.",
        "A {size} {side} lung consolidation is seen.",
        "{Size} airspace opacity in the {side} lung.",
    ),
    "nodule": (
        "There is a {size} nodule in the {side} lung.",
        "A {size} {side} lung nodule is seen.",
        "{Size} rounded nodule in the {side} lung.",
    ),
    "atelectasis": (
        "There is a {size} band of atelectasis in the {side} lung.",
        "A {size} {side} linear atelectasis is seen.",
        "{Size} linear atelectasis in the {side} lung.",
    ),
    "effusion": (
        "There is a {size} {side} pleural effusion.",
        "A {size} {side} pleural effusion is seen.",
        "{Size} pleural effusion on the {side}.",
    ),
    "pneumothorax": (
        "There is a {size} {side} pneumothorax.",
        "A {size} {side} pneumothorax is seen.",
        "{Size} pneumothorax on the {side}.",
    ),
}
# As in real reports, what is absent often goes unsaid: an empty string.
_ABSENT = {
    "consolidation": ("No focal consolidation.", "There is no consolidation.", ""),
    "nodule": ("No lung nodule.", ""),
    "atelectasis": ("No atelectasis.", ""),
    "effusion": ("No pleural effusion.", "There is no pleural effusion.", ""),
    "pneumothorax": ("No pneumothorax.", "There is no pneumothorax.", ""),
}
_LUNGS = ("consolidation", "nodule", "atelectasis")
_LUNGS_CLEAR = (
    "The lungs are clear.",
    "Both lungs are clear.",
    "No consolidation, nodule or atelectasis.",
)
_PLEURA = ("effusion", "pneumothorax")
_PLEURA_CLEAR = (
    "No pleural effusion or pneumothorax.",
    "There is no pleural effusion or pneumothorax.",
    "There is no pneumothorax or pleural effusion.",
)
_HEART = (
    "The heart is normal in size.",
    "Heart size is normal.",
    "The heart and mediastinum are normal.",
)
_BONES = ("The bones are intact.", "No bony abnormality.", "")


def write_report(findings: Sequence[Finding], rng: np.random.Generator) -> str:
    """Write the findings section: heart, lungs, pleura and bones, each in one of several ways."""
    sentences = [_one(_HEART, rng)]
    for kinds, clear in ((_LUNGS, _LUNGS_CLEAR), (_PLEURA, _PLEURA_CLEAR)):
        found = {finding.kind: finding for finding in findings if finding.kind in kinds}
        if not found:
            sentences.append(_one(clear, rng))
            continue
        for kind in kinds:
            words = _one((_PRESENT if kind in found else _ABSENT)[kind], rng)
            if kind in found:
                size, side = found[kind].size, found[kind].side
                words = words.format(size=size, Size=size.capitalize(), side=side)
            sentences.append(words)
    sentences.append(_one(_BONES, rng))
    return " ".join(sentence for sentence in sentences if sentence)


def _one(ways: Sequence[str], rng: np.random.Generator) -> str:
    return ways[int(rng.integers(len(ways)))]
