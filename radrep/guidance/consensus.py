"""Consensus: of some candidate reports the one with the highest expected utility.

Candidates are beams, samples and selections. Minimum Bayes risk (Kumar and Byrne, 2004; for chest
reports CCS, arXiv 2605.30131) takes the other candidates as references. Selection's ridge
regression weighs training reports as references by the images, which separates candidates better.
Here both count, and an agreement of the labels with the probabilities that the images predict. Most
candidates of most studies name nothing, so their consensus leans to silence; the agreement counts
present and absent findings by half each, which silence cannot earn.

Letters: m candidates of a study, p reports of the pool of selection, l observations.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from radrep.guidance.selection import UtilityWeights
from radrep.guidance.utility import f1_of_positives, positive_labels
from radrep.metrics.ngrams import MAX_N, length_penalties
from radrep.metrics.rouge import CommonSubsequences, count_words, rouge_l

_PENALTY = 1.0  # of the weights of references; the smallest of 1 to 1000, best on folds of IU X-Ray
_MOST_ROWS = 4096  # kept of reports that come back: 10 MB with a pool of 300


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many training reports n-grams occur; those of one report weigh like unknown ones."""

    num_reports: int
    counts: Mapping[str, int]

    @classmethod
    def of(cls, reports: Iterable[str]) -> "DocumentFrequencies":
        """Count them in cleaned reports."""
        texts = list(reports)
        found = Counter(ngram for text in texts for ngram in {n for n, _ in _ngrams(text)})
        return cls(len(texts), {ngram: count for ngram, count in found.items() if count > 1})

    def weight(self, ngram: str) -> float:
        """Its inverse document frequency, as CIDEr-D weighs it."""
        return float(np.log(max(self.num_reports, 1)) - np.log(self.counts.get(ngram, 1)))


@dataclass(frozen=True)
class ConsensusRule:
    """How one of some candidates is chosen."""

    frequencies: DocumentFrequencies
    weights: UtilityWeights
    pool: tuple[str, ...]  # reports of selection, whose utilities are predicted
    others: float = 0.0  # weight of the mean utility against the other candidates
    labels: float = 0.0  # weight of the agreement with predicted probabilities

    def prepare(self) -> "ConsensusRule":
        """Weigh the pool: a second's work, which would else fall on the first report."""
        self.predict(self.pool[:1], np.zeros(len(self.pool)))
        return self

    def choose(
        self, candidates: Sequence[str], predicted: np.ndarray, probabilities: np.ndarray
    ) -> int:
        """The index of the best of m candidates, of equals the first.

        Args:
            candidates: Texts.
            predicted: Utilities of the pool for the study, (p,).
            probabilities: Of the observations, (l,); all 0 where none is known.
        """
        positive = np.array([_positive(text) for text in candidates])
        scores = self.predict(candidates, predicted)
        scores += self.labels * label_agreement(positive, probabilities)
        if len(candidates) > 1 and self.others > 0:
            utilities = self.weights.combine(self.utility_parts(candidates, positive))
            own = np.diagonal(utilities)
            scores += self.others * (utilities.sum(axis=0) - own) / (len(candidates) - 1)
        return int(np.argmax(scores))

    def predict(self, candidates: Sequence[str], predicted: np.ndarray) -> np.ndarray:
        """The utilities that images predict for any report, (m,), from those for the pool, (p,).

        A prediction is a weighted sum of utilities against training reports, and its weights depend
        on the images alone. So the pool's reports are weighed as references to give the pool the
        predicted utilities, and rate the other reports by the same weights.
        """
        rows = np.stack([self._against_pool(text) for text in candidates])
        found: np.ndarray = rows @ (self._to_weights @ predicted)
        return found

    @cached_property
    def _to_weights(self) -> np.ndarray:
        """From predicted utilities to the weights of the pool's reports, (p, p)."""
        table = np.stack([self._against_pool(text) for text in self.pool], axis=1)
        regular = table @ table.T + _PENALTY * np.eye(len(self.pool))
        solved: np.ndarray = np.linalg.solve(regular, table)
        return solved

    def _against_pool(self, candidate: str) -> np.ndarray:
        """Its utilities with the pool's reports as references, (p,)."""
        known = self._known_rows
        if candidate not in known:
            if len(known) >= _MOST_ROWS:
                known.clear()
            pool = self._pool
            positive = np.array([_positive(candidate)])
            parts = (
                pool.cider(_ngram_weights(candidate, self._weight), len(candidate.split())),
                rouge_l(pool.common.lengths(candidate), pool.words, count_words(candidate)),
                f1_of_positives(pool.positive, positive)[:, 0],
            )
            known[candidate] = self.weights.combine(np.stack(parts))
        return known[candidate]

    @cached_property
    def _known_rows(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def _pool(self) -> "_References":
        return _References.of(self.pool, self._weight)

    def utility_parts(self, candidates: Sequence[str], positive: np.ndarray) -> np.ndarray:
        """Utilities of each candidate (column) against each as the reference (row), (3, m, m).

        Order of the parts: `radrep.guidance.utility.PARTS`; positive labels 0 or 1, (m, l).
        """
        subsequences = CommonSubsequences(candidates)
        lengths = np.array([count_words(text) for text in candidates])
        rouge = [rouge_l(subsequences.lengths(c), lengths, count_words(c)) for c in candidates]
        parts = (
            self._cider(candidates),
            np.stack(rouge, axis=1),
            f1_of_positives(positive, positive),
        )
        return np.stack(parts)

    def _cider(self, candidates: Sequence[str]) -> np.ndarray:
        lengths = np.array([len(text.split()) for text in candidates])
        total = np.zeros((len(candidates), len(candidates)))
        for weights in self._weights(candidates):  # (m, n-grams of one length)
            norms = np.linalg.norm(weights, axis=1)
            norms[norms == 0] = 1.0
            clipped = np.minimum(weights[None], weights[:, None])  # (reference, candidate, n-gram)
            total += np.einsum("rcg,rg->rc", clipped, weights) / np.outer(norms, norms)
        return 10 / MAX_N * total * length_penalties(lengths[:, None], lengths[None])

    def _weights(self, candidates: Sequence[str]) -> list[np.ndarray]:
        found = [_ngram_weights(text, self._weight) for text in candidates]
        tables = []
        for order in range(MAX_N):
            columns = {
                ngram: i for i, ngram in enumerate({n for each in found for n in each[order]})
            }
            table = np.zeros((len(candidates), len(columns)))
            for row, each in enumerate(found):
                for ngram, weight in each[order].items():
                    table[row, columns[ngram]] = weight
            tables.append(table)
        return tables

    def _weight(self, ngram: str) -> float:
        known = self._known
        if (weight := known.get(ngram)) is None:
            weight = known[ngram] = self.frequencies.weight(ngram)
        return weight

    @cached_property
    def _known(self) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class _References:
    """Reports prepared as references."""

    holders: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]  # rows and weights, by n-gram
    norms: np.ndarray  # (4, p)
    lengths: np.ndarray  # (p,)
    common: CommonSubsequences
    words: np.ndarray  # as ROUGE-L counts them, (p,)
    positive: np.ndarray  # (p, l)

    @classmethod
    def of(cls, reports: Sequence[str], weight: Callable[[str], float]) -> "_References":
        found = [_ngram_weights(text, weight) for text in reports]
        holders: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []
        for order in range(MAX_N):
            rows: dict[str, list[int]] = {}
            for row, each in enumerate(found):
                for ngram in each[order]:
                    rows.setdefault(ngram, []).append(row)
            holders.append(
                {
                    ngram: (np.array(own), np.array([found[row][order][ngram] for row in own]))
                    for ngram, own in rows.items()
                }
            )
        norms = [[_norm(each[order]) for each in found] for order in range(MAX_N)]
        return cls(
            holders,
            np.array(norms),
            np.array([len(text.split()) for text in reports]),
            CommonSubsequences(reports),
            np.array([count_words(text) for text in reports]),
            np.array([_positive(text) for text in reports]),
        )

    def cider(self, weights: Sequence[Mapping[str, float]], length: int) -> np.ndarray:
        """CIDEr-D of a report with each as the reference, (p,)."""
        total = np.zeros(len(self.lengths))
        for order, own in enumerate(weights):
            dots = np.zeros(len(self.lengths))
            for ngram, weight in own.items():
                if (held := self.holders[order].get(ngram)) is not None:
                    rows, theirs = held
                    dots[rows] += np.minimum(weight, theirs) * theirs
            total += dots / (self.norms[order] * _norm(own))
        return 10 / MAX_N * total * length_penalties(self.lengths, np.int64(length))


@lru_cache(maxsize=2**14)  # selections come back, and so do short reports
def _positive(report: str) -> tuple[float, ...]:
    found: list[float] = positive_labels([report])[0].tolist()
    return tuple(found)


def label_agreement(positive: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """How well labels, 0 or 1, agree with probabilities: (m, l) and (l,) -> (m,), 0 to 1.

    The mean of the expected shares of what is present that is named, and of what is absent that is
    not: a report without findings gets 1/2. What is never predicted counts for nothing.
    """
    known = probabilities > 0
    present, absent = probabilities[known], 1 - probabilities[known]
    if not present.sum() or not absent.sum():
        return np.zeros(len(positive))
    named = positive[:, known]
    shares = named @ present / present.sum() + (1 - named) @ absent / absent.sum()
    agreement: np.ndarray = shares / 2
    return agreement


def _ngram_weights(text: str, weight: Callable[[str], float]) -> list[dict[str, float]]:
    """Counts of 1-grams to 4-grams times their weights, by length."""
    found: list[dict[str, float]] = [{} for _ in range(MAX_N)]
    for (ngram, order), count in Counter(_ngrams(text)).items():
        found[order][ngram] = count * weight(ngram)
    return found


def _norm(weights: Mapping[str, float]) -> float:
    """1 where it is 0, since nothing is shared then."""
    return math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0


def _ngrams(text: str) -> Iterable[tuple[str, int]]:
    """The 1-grams to 4-grams of a report, with their length less one."""
    words = text.split()
    for order in range(MAX_N):
        for start in range(len(words) - order):
            yield " ".join(words[start : start + order + 1]), order
