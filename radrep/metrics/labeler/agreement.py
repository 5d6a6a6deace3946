"""Agreement of the labeler with labels that others gave the same reports."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radrep.errors import DataError
from radrep.metrics.labeler.labeler import Findings
from radrep.metrics.labeler.vocabulary import OBSERVATIONS


@dataclass(frozen=True)
class Agreement:
    """Counts of one observation over the reports whose given label is known.

    The given label is taken as right. A figure without a denominator is None.
    """

    observation: str
    num_known: int
    given: int  # positive
    labeler: int  # positive
    both: int
    uncertain: int  # of the labeler, which count as not positive

    @property
    def precision(self) -> float | None:
        """Share of the labeler's positives that were given."""
        return self.both / self.labeler if self.labeler else None

    @property
    def recall(self) -> float | None:
        """Share of the given positives that the labeler reads."""
        return self.both / self.given if self.given else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        named = self.given + self.labeler
        return 2 * self.both / named if named else None

    @property
    def kappa(self) -> float | None:
        """Agreement beyond chance (Cohen, 1960); None where both are constant and alike."""
        n, given, labeler = self.num_known, self.given, self.labeler
        by_chance = given * labeler + (n - given) * (n - labeler)  # times n^2
        if by_chance == n * n:
            return None
        return (n * (n - given - labeler + 2 * self.both) - by_chance) / (n * n - by_chance)


def count_agreement(reports: Sequence[Findings], given: np.ndarray) -> tuple[Agreement, ...]:
    """One row per observation; `given` is 1 present, 0 absent, NaN unknown, (reports, 14)."""
    if given.shape != (len(reports), len(OBSERVATIONS)):
        raise DataError(
            f"labels {given.shape} and {len(reports)} reports do not fit: expected one row per "
            f"report and {len(OBSERVATIONS)} columns"
        )
    rows = []
    for i, name in enumerate(OBSERVATIONS):
        known = ~np.isnan(given[:, i])
        states = np.array([report.states[name] for report in reports], str)[known]
        present, positive = given[known, i] == 1, states == "positive"
        counted = (present, positive, present & positive, states == "uncertain")
        rows.append(Agreement(name, len(states), *(int(part.sum()) for part in counted)))
    return tuple(rows)
