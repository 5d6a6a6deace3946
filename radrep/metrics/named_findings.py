"""Which findings a phantom report names, with their side, and how well two reports agree on it.

Reads the language of the phantoms only (radrep/data/sources/phantom_report.py); real reports
need a real labeller.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

_FINDINGS = ("consolidation", "nodule", "atelectasis", "effusion", "pneumothorax")
_SIDES = ("left", "right")
_NEGATIONS = ("no", "not", "without")


def named_findings(report: str) -> set[tuple[str, str]]:
    """The (finding, side) pairs that a phantom report names as present.

    Works on generated text too: case, punctuation set apart by spaces and repeated sentences do
    not matter. A negation holds from its word to the end of the sentence; of several sides in a
    sentence a finding takes the nearest, the earlier of two as near. A finding without a side
    is not named.
    """
    named = set()
    for sentence in re.split(r"[.;]", report.lower()):
        words = re.findall(r"[a-z]+", sentence)
        negated = next((i for i, word in enumerate(words) if word in _NEGATIONS), len(words))
        sides = [i for i, word in enumerate(words) if word in _SIDES]
        for i, word in enumerate(words[:negated]):
            if word in _FINDINGS and sides:
                named.add((word, words[min(sides, key=lambda side: abs(side - i))]))
    return named


@dataclass(frozen=True)
class PairCounts:
    """How often one (finding, side) pair was named rightly, wrongly, and left unnamed."""

    right: int
    wrong: int
    missed: int


@dataclass(frozen=True)
class NamedFindingsScore:
    """Agreement on named findings over all reports and pairs (micro average).

    Attributes:
        f1: Harmonic mean of precision and recall; 0 when nothing is named rightly.
        precision: Share of the pairs named by the hypotheses that the references name too.
        recall: Share of the pairs named by the references that the hypotheses name too.
        pairs: Counts by (finding, side), every pair that either side names, sorted.
    """

    f1: float
    precision: float
    recall: float
    pairs: dict[tuple[str, str], PairCounts]


def named_findings_f1(references: Sequence[str], hypotheses: Sequence[str]) -> NamedFindingsScore:
    """Score what hypotheses name against what references name, study by study.

    Raises:
        ValueError: If there are not as many hypotheses as references.
    """
    return _score([named_findings(r) for r in references], [named_findings(h) for h in hypotheses])


def chance_f1(
    references: Sequence[str], hypotheses: Sequence[str], permutations: int = 100, seed: int = 0
) -> float:
    """The F1 of the same hypotheses dealt to studies at random: what not looking would give.

    Args:
        references: One report a study.
        hypotheses: One report a study, in the same order.
        permutations: How many random deals are averaged.
        seed: Of the deals.

    Raises:
        ValueError: If there are not as many hypotheses as references.
    """
    truth = [named_findings(report) for report in references]
    guesses = [named_findings(report) for report in hypotheses]
    rng = np.random.default_rng(seed)
    deals = (rng.permutation(len(guesses)) for _ in range(permutations))
    return mean(_score(truth, [guesses[i] for i in deal]).f1 for deal in deals)


def _score(
    truth: Sequence[set[tuple[str, str]]], guesses: Sequence[set[tuple[str, str]]]
) -> NamedFindingsScore:
    right: Counter[tuple[str, str]] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    missed: Counter[tuple[str, str]] = Counter()
    for true, guess in zip(truth, guesses, strict=True):
        right.update(true & guess)
        wrong.update(guess - true)
        missed.update(true - guess)
    hits, guessed, present = right.total(), (right + wrong).total(), (right + missed).total()
    return NamedFindingsScore(
        f1=2 * hits / max(guessed + present, 1),
        precision=hits / max(guessed, 1),
        recall=hits / max(present, 1),
        pairs={
            pair: PairCounts(right[pair], wrong[pair], missed[pair])
            for pair in sorted(right | wrong | missed)
        },
    )
