"""Uncertainty of the scores by resampling the studies (Koehn, 2004).

Each sample draws as many studies as there are, with replacement. Scores come anew from what their
reports add up to in the sample: BLEU and METEOR from counts, ROUGE-L and CIDEr as means over its
reports, CIDEr with the document frequencies of the full set, F1 from right and wrong findings.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from radrep.errors import DataError

_BLOCK_CELLS = 2**22  # samples x studies held at once: 32 MiB


class Resampled(Protocol):
    """Scores of n reports that can be had again for any sample of the studies."""

    @property
    def corpus(self) -> Mapping[str, float | None]:
        """One figure a metric, None where it was not computed."""

    def reference_facts(self) -> np.ndarray:
        """Equal arrays, (n, ...), where the references are equal."""

    def statistics(self) -> np.ndarray:
        """Everything whose sum over a sample gives the figures: a row a study, (n, k)."""

    def figures(self, sums: np.ndarray, num_studies: int) -> Mapping[str, np.ndarray]:
        """Figures of s samples of num_studies each from their summed statistics: (s,) each."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much one system differs from another on the same studies.

    Attributes:
        value: Score of the first minus score of the second.
        low: Lower end of the interval of the difference.
        high: Upper end.
        p_value: Two-sided: how often resampling turns the difference round, twice; never below
            2 / (number of samples + 1).
    """

    value: float
    low: float
    high: float
    p_value: float


def bootstrap_intervals(
    scores: Resampled, *, num_samples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Find how far each score moves when the studies are drawn anew.

    Args:
        scores: Scores of one system.
        num_samples: How often the studies are drawn.
        level: Share of the samples that the interval holds.
        seed: Of the draws; equal seeds draw equal studies.

    Returns:
        An interval for each metric that was computed.
    """
    samples, corpus = _resample(scores, num_samples, seed), scores.corpus
    return {
        metric: _interval(values, level)
        for metric, values in samples.items()
        if corpus[metric] is not None
    }


def paired_bootstrap(
    scores_a: Resampled,
    scores_b: Resampled,
    *,
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two systems, or one system with itself under another input, on the same studies.

    Args:
        scores_a: Scores of the first system.
        scores_b: Scores of the second, for the same references in the same order.
        num_samples: How often the studies are drawn.
        level: Share of the samples that the interval of the difference holds.
        seed: Of the draws.

    Returns:
        The difference in each metric that was computed for both.

    Raises:
        DataError: If the two were not scored on the same studies.
    """
    facts_a, facts_b = scores_a.reference_facts(), scores_b.reference_facts()
    if not np.array_equal(facts_a, facts_b):
        raise DataError(
            f"the systems were scored on different references ({len(facts_a)} and "
            f"{len(facts_b)} studies): score both on the same studies, in one order"
        )
    samples_a = _resample(scores_a, num_samples, seed)
    samples_b = _resample(scores_b, num_samples, seed)
    corpus_a, corpus_b = scores_a.corpus, scores_b.corpus
    found = {}
    for metric in samples_a.keys() & samples_b.keys():
        value_a, value_b = corpus_a[metric], corpus_b[metric]
        if value_a is None or value_b is None:
            continue
        differences = samples_a[metric] - samples_b[metric]
        interval = _interval(differences, level)
        turned = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
        p_value = min(1.0, 2 * (turned + 1) / (num_samples + 1))
        found[metric] = Difference(value_a - value_b, interval.low, interval.high, p_value)
    return {metric: found[metric] for metric in samples_a if metric in found}


def _resample(scores: Resampled, num_samples: int, seed: int) -> dict[str, np.ndarray]:
    """Every figure of every sample: (num_samples,) a metric."""
    statistics = scores.statistics()
    num_studies = len(statistics)
    blocks = [
        scores.figures(weights @ statistics, num_studies)
        for weights in _draw_studies(num_studies, num_samples, seed)
    ]
    return {metric: np.concatenate([block[metric] for block in blocks]) for metric in blocks[0]}


def _draw_studies(num_studies: int, num_samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each study is in each sample, blocks of (samples, studies)."""
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // num_studies)
    for start in range(0, num_samples, block):
        rows = min(block, num_samples - start)
        drawn = generator.integers(num_studies, size=(rows, num_studies))
        drawn += np.arange(rows)[:, np.newaxis] * num_studies
        counts = np.bincount(drawn.ravel(), minlength=rows * num_studies)
        yield counts.reshape(rows, num_studies).astype(np.float64)


def _interval(samples: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
