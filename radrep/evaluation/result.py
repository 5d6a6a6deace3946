"""The result of an evaluation, which page, conclusion, model card and JSON are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from radrep.evaluation.conclusion import Conclusion, conclude
from radrep.evaluation.eval_set import EvalSet
from radrep.guidance.editing import WrittenReport
from radrep.metrics.operating_points import FindingRates
from radrep.metrics.scorecard import Scorecard, ScoreTable
from radrep.recipe.training import Decode


@dataclass(frozen=True)
class EvalOptions:
    """How reports are scored."""

    clean: bool = False  # put generated reports through the cleaner of the references too
    clinical: Sequence[str] = ()  # metrics of `radrep.metrics.radeval`, for the main system
    meteor: bool = True


@dataclass(frozen=True)
class EvalResult:
    """Scores of systems on the same studies."""

    checkpoint: Path | None  # None for several systems or others'
    studies: EvalSet
    main: str  # the system that the evaluation is of, the first of several
    systems: Mapping[str, Sequence[str]]  # name to reports as scored, the main one first
    card: Scorecard  # of whole reports
    sections: Mapping[str, Scorecard]  # of each by itself, where a model writes two; else empty
    constants: Mapping[str, str]  # constant reports by the name of their control
    clinical: Mapping[str, float]  # of the main system
    decodes: Mapping[str, Decode]  # of each run
    notes: tuple[str, ...]  # lines for the reader
    predictions: tuple[str, ...]  # of the main system, before scoring
    written: tuple[WrittenReport, ...]  # of the main system, where it is one run; else empty
    rates: tuple[FindingRates, ...]  # of the main system, where it predicts findings; else empty
    out: Path

    @property
    def scores_file(self) -> Path:
        """scores-<split>.json."""
        return self.out / f"scores-{self.studies.split or 'all'}.json"

    @property
    def predictions_file(self) -> Path:
        """predictions-<split>.jsonl."""
        return self.out / f"predictions-{self.studies.split or 'all'}.jsonl"

    @property
    def page_file(self) -> Path:
        """report.html."""
        return self.out / "report.html"

    @cached_property
    def conclusion(self) -> Conclusion:
        """Whether the main system uses the image, and whether it beats its controls."""
        return conclude(self.card, self.main)

    @property
    def main_scores(self) -> dict[str, float]:
        """Scores of the main system, by protocol and metric."""
        tables = [*((f"{t.protocol} ", t) for t in self.card.protocols), ("", self.card.findings)]
        return {
            f"{prefix}{metric}": value
            for prefix, table in tables
            for system in table.systems
            if system.name == self.main
            for metric, value in system.scores.items()
            if value is not None
        }

    @property
    def fold_cider(self) -> tuple[float, ...]:
        """CIDEr of the main system on each fold, with the frequencies of all; () without folds."""
        ends = np.cumsum([len(fold.ids) for fold in self.studies.folds])
        parts = np.split(self.card.per_report[self.main], ends)[:-1]
        return tuple(float(part.mean()) for part in parts)

    @property
    def decode(self) -> Mapping[str, Any]:
        """Decoding of the one run, or of each by its name; empty for reports of other programs."""
        decodes = {name: decode.model_dump() for name, decode in self.decodes.items()}
        return decodes if self.checkpoint is None else decodes[self.main]

    @property
    def made(self) -> Mapping[str, str]:
        """How the reports of each run were made, in words."""
        return {name: decode.made for name, decode in self.decodes.items()}

    def to_json(self) -> dict[str, Any]:
        """The content of the scores file."""
        studies, card = self.studies, self.card
        return {
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "split": studies.split,
            "num_without_text": studies.num_without_text,
            "ids_sha256": studies.ids_sha256,
            "target": studies.target,
            "decode": self.decode,
            "made": dict(self.made),
            "model": self.main,
            **_card_to_json(card),
            "sections": {name: _card_to_json(own) for name, own in self.sections.items()},
            "operating_points": [asdict(rates) for rates in self.rates],
            "constants": dict(self.constants),
            "clinical": dict(self.clinical),
            "notes": list(self.notes),
        }


def _card_to_json(card: Scorecard) -> dict[str, Any]:
    findings = card.findings
    return {
        "num_studies": card.num_studies,
        "num_seen": card.num_seen,
        "protocols": {
            scored.protocol: {
                "tokenizer": scored.tokenizer,
                "references_cut": scored.num_cut,
                **_table_to_json(scored),
                "on_seen": dict(scored.on_seen),
                "on_unseen": dict(scored.on_unseen),
            }
            for scored in card.protocols
        },
        "findings": {
            **_table_to_json(findings),
            "uncertain_is_positive": dict(findings.uncertain_is_positive),
            "tables": {n: [asdict(row) for row in rows] for n, rows in findings.tables.items()},
            "num_sides": dict(findings.num_sides),
        },
        "diversity": {name: asdict(seen) for name, seen in card.diversity.items()},
    }


def _table_to_json(table: ScoreTable) -> dict[str, Any]:
    return {
        "systems": [
            {
                "name": system.name,
                "scores": dict(system.scores),
                "intervals": {m: [i.low, i.high] for m, i in system.intervals.items()},
                "standard_errors": {m: i.standard_error for m, i in system.intervals.items()},
            }
            for system in table.systems
        ],
        "comparisons": [
            {
                "first": pair.first,
                "second": pair.second,
                "differences": {m: asdict(found) for m, found in pair.differences.items()},
            }
            for pair in table.comparisons
        ],
    }
