"""A report with all that is known of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from radrep.guidance.editing import Sentence
from radrep.inference.findings import Finding
from radrep.metrics.labeler import OBSERVATIONS
from radrep.sections import SECTIONS
from radrep.viz.figures.heatmap import FindingAttention


@dataclass(frozen=True)
class GeneratedReport:
    """A report and, if they were asked for, its findings and maps.

    Attributes:
        probabilities: Of observations, by the discriminator or else by the run's own encoder.
        masked: The image under its SDAM mask, uint8 (h, w), if the model takes one.
        films: Views to draw maps on, uint8 (h, w), short side 512 at most; `masked` is the last.
        attention: To each patch, averaged over words, layers and heads, one map (rows, columns)
            per view; all maps together sum to 1. Empty for a language model.
    """

    images: tuple[Path, ...]
    projections: tuple[str, ...]  # "frontal", "lateral" or "unknown" of each
    text: str  # of all sections
    made: str  # "decoded" or "selected", and ", by consensus" or ", edited"
    masked: np.ndarray | None
    films: tuple[np.ndarray, ...] = ()
    attention: tuple[np.ndarray, ...] = ()
    finding_maps: tuple[FindingAttention, ...] = ()
    findings: tuple[Finding, ...] = ()
    probabilities: Mapping[str, float] = field(default_factory=dict)
    sentences: tuple[Sentence, ...] = ()  # each with its section and where it is from
    removed: tuple[str, ...] = ()  # sentences of the model that editing took out
    sections: Mapping[str, str] = field(default_factory=dict)  # text by name, where it is known
    context: tuple[str, ...] = ()  # what was read beside the images, by data.context

    def as_row(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "images": [str(image) for image in self.images],
            "projections": list(self.projections),
            "report": self.text,
            "sections": {name: self.sections.get(name) for name in SECTIONS},
            "context": list(self.context),
            "made": self.made,
            "sentences": [asdict(sentence) for sentence in self.sentences],
            "removed": list(self.removed),
            "findings": [asdict(finding) for finding in self.findings],
            "probabilities": {name: self.probabilities.get(name) for name in OBSERVATIONS},
        }
