"""Uncertainty of the scores by resampling the studies (Koehn, 2004).

Each sample draws as many studies as there are, with replacement. Its scores come from the sums of
per-report statistics: BLEU and METEOR from counts, ROUGE-L and CIDEr as means (CIDEr with the
document frequencies of the full set), F1 from right and wrong findings.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from radrep.errors import DataError

_BLOCK_CELLS = 2**22  # samples x studies held at once: 32 MiB


class Resampled(Protocol):
    """Scores of n reports that can be computed for any sample of the studies."""

    @property
    def corpus(self) -> Mapping[str, float | None]:
        """Score by metric, None where it was not computed."""

    def reference_facts(self) -> np.ndarray:
        """Equal arrays, (n, ...), where the references are equal."""

    def statistics(self) -> np.ndarray:
        """Statistics whose sum over a sample gives its scores, one row per study, (n, k)."""

    def figures(self, sums: np.ndarray, num_studies: int) -> Mapping[str, np.ndarray]:
        """Scores of s samples of num_studies each from their summed statistics, (s,) each."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval, and the standard deviation of the samples."""

    low: float
    high: float
    standard_error: float


@dataclass(frozen=True)
class Difference:
    """First minus second on the same studies, with its interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float  # twice the share of samples that reverse it, at least 2 / (samples + 1)
    standard_error: float


@dataclass(frozen=True)
class Resamples:
    """Scores of one system on the studies, and on each sample, (number of samples,) each."""

    scores: Resampled
    figures: Mapping[str, np.ndarray]
    seed: int


def resample(
    systems: Mapping[str, Resampled], *, num_samples: int = 1000, seed: int = 0
) -> dict[str, Resamples]:
    """Score every system on the same samples of the studies, drawn from a seed."""
    statistics = {name: scores.statistics() for name, scores in systems.items()}
    sizes = {len(rows) for rows in statistics.values()}
    if len(sizes) != 1:
        raise DataError(
            f"systems scored on {', '.join(map(str, sorted(sizes)))} studies cannot be resampled "
            "together: score all on the same studies"
        )
    (num_studies,) = sizes
    ends = np.cumsum([rows.shape[1] for rows in statistics.values()])
    together = np.concatenate(list(statistics.values()), axis=1)
    sums = np.concatenate(
        [weights @ together for weights in draw_studies(num_studies, num_samples, seed)]
    )
    found = {}
    for (name, scores), own in zip(systems.items(), np.split(sums, ends[:-1], axis=1), strict=True):
        corpus, figures = scores.corpus, scores.figures(own, num_studies)
        computed = {metric: v for metric, v in figures.items() if corpus[metric] is not None}
        found[name] = Resamples(scores, computed, seed)
    return found


def bootstrap_intervals(resamples: Resamples, *, level: float = 0.95) -> dict[str, Interval]:
    """The percentile interval of each score that holds `level` of the samples."""
    return {metric: _interval(values, level) for metric, values in resamples.figures.items()}


def paired_bootstrap(a: Resamples, b: Resamples, *, level: float = 0.95) -> dict[str, Difference]:
    """First minus second in each metric that was computed for both, on the same samples."""
    facts_a, facts_b = a.scores.reference_facts(), b.scores.reference_facts()
    if not np.array_equal(facts_a, facts_b):
        raise DataError(
            f"the systems were scored on different references ({len(facts_a)} and "
            f"{len(facts_b)} studies): score both on the same studies, in one order"
        )
    assert a.seed == b.seed, f"samples of seeds {a.seed} and {b.seed} are not pairs"
    corpus_a, corpus_b = a.scores.corpus, b.scores.corpus
    found = {}
    for metric, values in a.figures.items():
        value_a, value_b = corpus_a[metric], corpus_b[metric]
        if metric not in b.figures or value_a is None or value_b is None:
            continue
        differences = values - b.figures[metric]
        interval = _interval(differences, level)
        turned = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
        p_value = min(1.0, 2 * (turned + 1) / (len(differences) + 1))
        found[metric] = Difference(
            value_a - value_b, interval.low, interval.high, p_value, interval.standard_error
        )
    return found


def draw_studies(num_studies: int, num_samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each study occurs in each sample, blocks of (samples, studies)."""
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
    return Interval(float(low), float(high), float(samples.std(ddof=1)))
