"""Agreement of the findings of generated reports with those of their references.

The findings come from our own rules: these figures are "findings F1 (rules)", never CheXbert F1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from radrep.errors import DataError
from radrep.metrics.labeler.labeler import OBSERVATIONS, Findings

# Figures are named "<labels> <average> <figure>", such as "14 micro f1".
LABEL_SETS: Mapping[str, tuple[int, ...]] = {
    "14": tuple(range(len(OBSERVATIONS))),
    "13": tuple(i for i, name in enumerate(OBSERVATIONS) if name != "No Finding"),
    "5": tuple(
        OBSERVATIONS.index(name)
        for name in ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
    ),
}
AVERAGES = ("micro", "macro", "macro of those that occur", "by report")
FIGURES = ("precision", "recall", "f1")
SIDE_ACCURACY, WITH_SIDE = "side accuracy", "13 with side micro f1"
_SIDES = (None, "left", "right", "bilateral")
_NUM = len(OBSERVATIONS)


@dataclass(frozen=True)
class LabelCounts:
    """Counts of positives of one observation; a figure without a denominator is None."""

    observation: str
    in_references: int
    in_generated: int
    right: int  # in both
    uncertain: int  # in references
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class FindingsScores:
    """Agreement of n generated reports with their references; all arrays are (n, 14)."""

    references: np.ndarray  # bool, positive
    generated: np.ndarray  # bool, positive
    uncertain: np.ndarray  # bool, of the references
    sides: np.ndarray  # of the references: 0 none, 1 left, 2 right, 3 both
    generated_sides: np.ndarray

    @property
    def num_sides(self) -> int:
        """Findings in both, with a side in the reference: those of the side accuracy."""
        return int(self._placed().sum())

    @property
    def corpus(self) -> Mapping[str, float | None]:
        """Every figure; side accuracy is None where no side could be compared."""
        sums = self.statistics().sum(axis=0, keepdims=True)
        found: dict[str, float | None] = {
            name: float(values[0]) for name, values in self.figures(sums, len(self)).items()
        }
        if not self.num_sides:
            found[SIDE_ACCURACY] = None
        return found

    def __len__(self) -> int:
        return len(self.references)

    def reference_facts(self) -> np.ndarray:
        """Positive observations of the references, (n, 14)."""
        return self.references

    def statistics(self) -> np.ndarray:
        """Rows to sum over any sample of the reports, see `figures`, (n, 56).

        Right, wrongly named and missed for each observation (3 x 14), precision, recall and F1 of
        the single report for each set of labels (3 x 3), the same three counts of findings with
        their sides, sides right, sides compared.
        """
        right = self.references & self.generated
        columns = [right, self.generated & ~right, self.references & ~right]
        by_report = [
            _figures_of_counts(*(part[:, list(labels)].sum(axis=1) for part in columns), empty=1.0)
            for labels in LABEL_SETS.values()
        ]
        alike, findings = self.sides == self.generated_sides, list(LABEL_SETS["13"])
        right_with_side = (right & alike)[:, findings].sum(axis=1)
        named, written = (
            part[:, findings].sum(axis=1) for part in (self.references, self.generated)
        )
        placed = self._placed()
        sides = [
            right_with_side,
            written - right_with_side,
            named - right_with_side,
            (placed & alike).sum(axis=1),
            placed.sum(axis=1),
        ]
        columns += [*by_report, np.stack(sides, axis=1)]
        return np.concatenate(columns, axis=1).astype(np.float64)

    def _placed(self) -> np.ndarray:
        return self.references & self.generated & (self.sides > 0)

    def figures(self, sums: np.ndarray, num_studies: int) -> dict[str, np.ndarray]:
        """Figures of s samples of reports from their summed statistics, (s, 56), each (s,).

        Micro averages count all labels together; macro averages are means over the labels, 0 for
        a label in neither; those that occur are the labels of the sample's references. By report:
        the mean over reports of the report's own figure, 1 where both are empty. With side: a
        finding is right only if its side, if it has one, is right too. Side accuracy is 0 in a
        sample without sides.
        """
        right, wrong, missed = (sums[:, _NUM * i : _NUM * (i + 1)] for i in range(3))
        found: dict[str, np.ndarray] = {}
        for number, (name, labels) in enumerate(LABEL_SETS.items()):
            counts = [part[:, list(labels)] for part in (right, wrong, missed)]
            each = _figures_of_counts(*counts, empty=0.0)  # (s, labels, 3)
            occurs = (counts[0] + counts[2]) > 0
            num_occurring = np.maximum(occurs.sum(axis=1, keepdims=True), 1)
            start = 3 * _NUM + 3 * number
            averages = {
                "micro": _figures_of_counts(*(part.sum(axis=1) for part in counts), empty=0.0),
                "macro": each.mean(axis=1),
                "macro of those that occur": (each * occurs[..., None]).sum(axis=1) / num_occurring,
                "by report": sums[:, start : start + 3] / num_studies,
            }
            for average, (i, figure) in product(AVERAGES, enumerate(FIGURES)):
                found[f"{name} {average} {figure}"] = averages[average][:, i]
        found[WITH_SIDE] = _figures_of_counts(*sums[:, -5:-2].T, empty=0.0)[:, 2]
        found[SIDE_ACCURACY] = sums[:, -2] / np.maximum(sums[:, -1], 1)
        return found

    def table(self) -> list[LabelCounts]:
        """Counts of every observation."""
        rows = []
        for i, name in enumerate(OBSERVATIONS):
            named, written = self.references[:, i], self.generated[:, i]
            right, num, num_written = (int(x.sum()) for x in (named & written, named, written))
            precision = right / num_written if num_written else None
            recall = right / num if num else None
            f1 = 2 * right / (num + num_written) if num + num_written else None
            uncertain = int(self.uncertain[:, i].sum())
            counts = (num, num_written, right, uncertain)
            rows.append(LabelCounts(name, *counts, precision=precision, recall=recall, f1=f1))
        return rows


def score_findings(
    references: Sequence[Findings],
    generated: Sequence[Findings],
    *,
    uncertain_is_positive: bool = False,
) -> FindingsScores:
    """Compare the findings of generated reports with those of their references, in one order."""
    if len(references) != len(generated) or not references:
        raise DataError(
            f"findings of {len(references)} references and {len(generated)} generated reports "
            "cannot be compared: each study needs one of both"
        )
    positive = ("positive", "uncertain") if uncertain_is_positive else ("positive",)
    return FindingsScores(
        references=_marks(references, positive),
        generated=_marks(generated, positive),
        uncertain=_marks(references, ("uncertain",)),
        sides=_sides(references),
        generated_sides=_sides(generated),
    )


def _marks(reports: Sequence[Findings], states: Sequence[str]) -> np.ndarray:
    return np.array([[r.states[name] in states for name in OBSERVATIONS] for r in reports])


def _sides(reports: Sequence[Findings]) -> np.ndarray:
    return np.array([[_SIDES.index(r.sides.get(name)) for name in OBSERVATIONS] for r in reports])


def _figures_of_counts(
    right: np.ndarray, wrong: np.ndarray, missed: np.ndarray, *, empty: float
) -> np.ndarray:
    """Precision, recall and F1 of counts, (...) each -> (..., 3).

    A figure without a denominator is 0; where all counts are 0, all three are `empty`.
    """
    right, wrong, missed = (np.asarray(part, dtype=np.float64) for part in (right, wrong, missed))
    precision, recall = right / np.maximum(right + wrong, 1), right / np.maximum(right + missed, 1)
    f1 = 2 * right / np.maximum(2 * right + wrong + missed, 1)
    figures = np.stack([precision, recall, f1], axis=-1)
    nothing = (right + wrong + missed) == 0
    return np.where(nothing[..., None], empty, figures)
