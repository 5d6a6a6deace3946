"""Consensus: of some candidate reports the one that agrees best with the others and the images.

Minimum Bayes risk (Kumar and Byrne, 2004) over beams, samples and selections, as in CCS
(arXiv 2605.30131): the candidate with the highest mean utility against the others as references,
plus a weighted agreement of its labels with the probabilities that the images predict. Most
candidates of most studies name nothing, so their consensus leans to silence; the agreement counts
present and absent findings by half each, which silence cannot earn.

Letters: m candidates of a study, l observations.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from radrep.guidance.selection import UtilityWeights
from radrep.guidance.utility import f1_of_positives, positive_labels
from radrep.metrics.ngrams import MAX_N, length_penalties
from radrep.metrics.rouge import CommonSubsequences, count_words, rouge_l


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
    labels: float = 0.0  # weight of the agreement with predicted probabilities

    def choose(self, candidates: Sequence[str], probabilities: np.ndarray) -> int:
        """The index of the best of m candidates, of equals the first; probabilities (l,)."""
        positive = np.array([_positive(text) for text in candidates])
        scores = self.labels * label_agreement(positive, probabilities)
        if len(candidates) > 1:
            utilities = self.weights.combine(self.utility_parts(candidates, positive))
            own = np.diagonal(utilities)
            scores += (utilities.sum(axis=0) - own) / (len(candidates) - 1)
        return int(np.argmax(scores))

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
        columns: list[dict[str, int]] = [{} for _ in range(MAX_N)]
        cells: list[list[tuple[int, int, float]]] = [[] for _ in range(MAX_N)]
        for row, text in enumerate(candidates):
            for (ngram, order), count in Counter(_ngrams(text)).items():
                column = columns[order].setdefault(ngram, len(columns[order]))
                cells[order].append((row, column, count * self._weight(ngram)))
        found = []
        for known, entries in zip(columns, cells, strict=True):
            table = np.zeros((len(candidates), len(known)))
            for row, column, weight in entries:
                table[row, column] = weight
            found.append(table)
        return found

    def _weight(self, ngram: str) -> float:
        known = self._known
        if (weight := known.get(ngram)) is None:
            weight = known[ngram] = self.frequencies.weight(ngram)
        return weight

    @cached_property
    def _known(self) -> dict[str, float]:
        return {}


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


def _ngrams(text: str) -> Iterable[tuple[str, int]]:
    """The 1-grams to 4-grams of a report, with their length less one."""
    words = text.split()
    for order in range(MAX_N):
        for start in range(len(words) - order):
            yield " ".join(words[start : start + order + 1]), order
