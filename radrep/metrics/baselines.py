"""Constant baselines: the one training report that scores best when it answers every study.

A model that ignores its images can do no better than a constant, so a score means something
only beside these. The search tries every distinct training report and gives the same values as
pycocoevalcap, whose scorers would need hours: whatever depends on the references alone is
computed once, and each candidate then meets all references in a few operations.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from radrep.errors import DataError
from radrep.metrics.nlg import MAX_N, corpus_bleu

SEARCHED_METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider")

_ROUGE_BETA = 1.2  # weight of recall in COCO's ROUGE-L
_CIDER_SIGMA = 6.0  # width of CIDEr-D's length penalty

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class Constant:
    """The best constant report for one metric.

    Attributes:
        report: Its text.
        value: What it scores on the references.
        num_candidates: How many distinct training reports were tried.
    """

    report: str
    value: float
    num_candidates: int


def best_constants(
    train_reports: Sequence[str],
    val_references: Sequence[str],
    metrics: Sequence[str] = ("bleu4", "cider", "rouge_l"),
    *,
    max_candidates: int = 5000,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Constant]:
    """Find the training report that scores best on validation when repeated for every study.

    Args:
        train_reports: Cleaned training reports, one a study; they are the candidates.
        val_references: Validation references as a protocol scores them.
        metrics: Some of SEARCHED_METRICS. METEOR is not among them, since it would have to run
            its Java program for hours; score the constants found with `nlg.score_nlg`.
        max_candidates: Try this many distinct reports, the most frequent ones first (equally
            frequent ones in their order).
        progress: Called after each candidate with the numbers done and to be done.

    Returns:
        The best constant for each metric; of equal ones the most frequent.

    Raises:
        DataError: If a metric is not searched, there is no candidate, or no reference has a word.
    """
    unknown = [metric for metric in metrics if metric not in SEARCHED_METRICS]
    if unknown:
        raise DataError(
            f"no constant baseline for {', '.join(unknown)}: choose from "
            f"{', '.join(SEARCHED_METRICS)}"
        )
    counts = Counter(tuple(report.split()) for report in train_reports)
    counts.pop((), None)
    candidates = [words for words, _ in counts.most_common(max_candidates)]
    if not candidates:
        raise DataError("no training report with a word in it: there is no constant to try")
    references = [tuple(reference.split()) for reference in val_references]
    if not any(references):
        raise DataError("no validation reference has a word: there is nothing to score against")

    values: dict[str, list[float]] = {metric: [] for metric in metrics}
    scorers = _build_scorers(references, metrics)
    for done, words in enumerate(candidates, start=1):
        scored: dict[str, float] = {}
        for scorer in scorers:
            scored |= scorer.score(words)
        for metric in metrics:
            values[metric].append(scored[metric])
        if progress is not None:
            progress(done, len(candidates))
    best = {metric: int(np.argmax(values[metric])) for metric in metrics}
    return {
        metric: Constant(" ".join(candidates[i]), values[metric][i], len(candidates))
        for metric, i in best.items()
    }


def _build_scorers(
    references: Sequence[Ngram], metrics: Sequence[str]
) -> list["_ConstantBleu | _ConstantRougeL | _ConstantCider"]:
    scorers: list[_ConstantBleu | _ConstantRougeL | _ConstantCider] = []
    if any(metric.startswith("bleu") for metric in metrics):
        scorers.append(_ConstantBleu(references))
    if "rouge_l" in metrics:
        scorers.append(_ConstantRougeL(references))
    if "cider" in metrics:
        scorers.append(_ConstantCider(references))
    return scorers


def _count_ngrams(words: Ngram) -> Counter[Ngram]:
    """Count 1-grams to 4-grams."""
    return Counter(words[i : i + n] for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1))


class _ConstantBleu:
    """Corpus BLEU of one text against all references."""

    def __init__(self, references: Sequence[Ngram]) -> None:
        self.num_references = len(references)
        self.reference_length = sum(len(words) for words in references)
        # How many references hold an n-gram exactly c times, by c.
        self.histograms: dict[Ngram, Counter[int]] = defaultdict(Counter)
        for words in references:
            for ngram, count in _count_ngrams(words).items():
                self.histograms[ngram][count] += 1

    def score(self, words: Ngram) -> dict[str, float]:
        matches = np.zeros(MAX_N)
        for ngram, count in _count_ngrams(words).items():
            histogram = self.histograms.get(ngram)
            if histogram:
                clipped = sum(min(count, c) * num for c, num in histogram.items())
                matches[len(ngram) - 1] += clipped
        totals = self.num_references * np.maximum(0, len(words) - np.arange(MAX_N))
        length = np.asarray(self.num_references * len(words))
        bleu = corpus_bleu(matches, totals, length, np.asarray(self.reference_length))
        return {f"bleu{n + 1}": float(bleu[n]) for n in range(MAX_N)}


class _ConstantRougeL:
    """Mean ROUGE-L of one text against all references.

    The longest common subsequences with all references come from one bit-parallel pass over the
    words of the text (Hyyro, 2004): each reference is a run of bits in one long integer, a zero
    bit marking a matched word, and one spare bit ends each run to catch the carry of the sum.
    """

    def __init__(self, references: Sequence[Ngram]) -> None:
        self.lengths = np.array([len(words) for words in references])
        ends = np.cumsum(self.lengths + 1)
        self.starts = ends - (self.lengths + 1)
        self.num_bytes = (int(ends[-1]) + 7) // 8
        places: dict[str, list[int]] = defaultdict(list)
        for start, words in zip(self.starts, references, strict=True):
            for i, word in enumerate(words):
                places[word].append(int(start) + i)
        self.places = {word: self._set_bits(bits) for word, bits in places.items()}
        self.unmatched = self._set_bits([bit for bits in places.values() for bit in bits])

    def _set_bits(self, positions: Sequence[int]) -> int:
        bits = np.zeros(8 * self.num_bytes, dtype=np.uint8)
        bits[list(positions)] = 1
        return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")

    def _common_lengths(self, words: Ngram) -> np.ndarray:
        unmatched = self.unmatched
        for word in words:
            hits = unmatched & self.places.get(word, 0)
            unmatched = ((unmatched + hits) | (unmatched - hits)) & self.unmatched
        packed = np.frombuffer(unmatched.to_bytes(self.num_bytes, "little"), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")
        return self.lengths - np.add.reduceat(bits, self.starts, dtype=np.int64)

    def score(self, words: Ngram) -> dict[str, float]:
        common = self._common_lengths(words)
        precision = common / len(words)
        recall = common / np.maximum(self.lengths, 1)
        weighted_sum = recall + _ROUGE_BETA**2 * precision
        weighted_sum[common == 0] = 1.0  # such a reference scores 0
        f_measure = (1 + _ROUGE_BETA**2) * precision * recall / weighted_sum
        return {"rouge_l": float(f_measure.mean())}


class _ConstantCider:
    """Mean CIDEr-D of one text against all references (Vedantam et al., 2015)."""

    def __init__(self, references: Sequence[Ngram]) -> None:
        self.num_references = len(references)
        self.bigram_counts = np.array([max(0, len(words) - 1) for words in references])
        postings: dict[Ngram, list[tuple[int, int]]] = defaultdict(list)
        for i, words in enumerate(references):
            for ngram, count in _count_ngrams(words).items():
                postings[ngram].append((i, count))
        self.unseen_idf = float(np.log(self.num_references))
        self.idf = {
            ngram: self.unseen_idf - float(np.log(len(found))) for ngram, found in postings.items()
        }
        # Of each n-gram, its cells in the (4, references) table and its tf-idf in each of them.
        self.cells: dict[Ngram, np.ndarray] = {}
        self.weights: dict[Ngram, np.ndarray] = {}
        norms = np.zeros(MAX_N * self.num_references)
        for ngram, found in postings.items():
            holders, counts = np.array(found).T
            self.cells[ngram] = (len(ngram) - 1) * self.num_references + holders
            self.weights[ngram] = counts * self.idf[ngram]
            norms[self.cells[ngram]] += self.weights[ngram] ** 2
        self.norms = np.sqrt(norms).reshape(MAX_N, self.num_references)
        # What an n-gram that the text holds so often adds; candidates share most n-grams.
        self.products: dict[tuple[Ngram, int], np.ndarray] = {}

    def _product(self, ngram: Ngram, count: int) -> np.ndarray:
        key = (ngram, count)
        if key not in self.products:
            weights = self.weights[ngram]
            self.products[key] = np.minimum(count * self.idf[ngram], weights) * weights
        return self.products[key]

    def score(self, words: Ngram) -> dict[str, float]:
        counts = _count_ngrams(words)
        norms = [0.0] * MAX_N
        for ngram, count in counts.items():
            norms[len(ngram) - 1] += (count * self.idf.get(ngram, self.unseen_idf)) ** 2
        shared = [ngram for ngram in counts if ngram in self.cells]
        if not shared:
            return {"cider": 0.0}
        products = np.bincount(
            np.concatenate([self.cells[ngram] for ngram in shared]),
            weights=np.concatenate([self._product(ngram, counts[ngram]) for ngram in shared]),
            minlength=self.norms.size,
        ).reshape(self.norms.shape)
        # A vector without length shares no weight with any other, so its products are 0.
        scales = np.sqrt(norms)[:, np.newaxis] * self.norms
        cosines = products / np.where(scales == 0, 1.0, scales)
        gaps = max(0, len(words) - 1) - self.bigram_counts
        penalties = np.exp(-(gaps**2) / (2 * _CIDER_SIGMA**2))
        return {"cider": float(10 * (cosines.mean(axis=0) * penalties).mean())}
