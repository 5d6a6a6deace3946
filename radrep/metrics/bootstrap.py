"""Uncertainty of the scores by resampling the studies (Koehn, 2004).

Each sample draws as many studies as there are, with replacement. BLEU and METEOR come anew from
the counts of the sample; ROUGE-L and CIDEr are means over its reports, CIDEr with the document
frequencies of the full set.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from radrep.errors import DataError
from radrep.metrics.nlg import MAX_N, METRICS, NlgScores, corpus_bleu, corpus_meteor

_BLOCK_CELLS = 2**22  # samples x studies held at once: 32 MiB


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
    scores: NlgScores, *, num_samples: int = 1000, level: float = 0.95, seed: int = 0
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
    statistics = _statistics(scores)
    num_studies = len(statistics)
    samples: dict[str, list[np.ndarray]] = {}
    for weights in _draw_studies(num_studies, num_samples, seed):
        for metric, values in _figures(weights @ statistics, num_studies).items():
            samples.setdefault(metric, []).append(values)
    return {
        metric: _interval(np.concatenate(samples[metric]), level)
        for metric in METRICS
        if metric in samples
    }


def paired_bootstrap(
    scores_a: NlgScores,
    scores_b: NlgScores,
    metric: str,
    *,
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compare two systems, or one system with itself under another input, on the same studies.

    Args:
        scores_a: Scores of the first system.
        scores_b: Scores of the second, for the same references in the same order.
        metric: One of `nlg.METRICS`.
        num_samples: How often the studies are drawn.
        level: Share of the samples that the interval of the difference holds.
        seed: Of the draws.

    Raises:
        DataError: If the metric is unknown or was not computed for both, or the two were not
            scored on the same studies.
    """
    if metric not in METRICS:
        raise DataError(f"no metric '{metric}': choose from {', '.join(METRICS)}")
    value_a, value_b = scores_a.corpus[metric], scores_b.corpus[metric]
    if value_a is None or value_b is None:
        raise DataError(f"{metric} was not computed for both systems, so they cannot be compared")
    lengths_a = scores_a.bleu_counts.reference_lengths
    lengths_b = scores_b.bleu_counts.reference_lengths
    if not np.array_equal(lengths_a, lengths_b):
        raise DataError(
            f"the systems were scored on different references ({len(lengths_a)} and "
            f"{len(lengths_b)} studies): score both on the same studies, in one order"
        )
    statistics_a, statistics_b = _statistics(scores_a), _statistics(scores_b)
    num_studies = len(statistics_a)
    differences = np.concatenate(
        [
            _figures(weights @ statistics_a, num_studies)[metric]
            - _figures(weights @ statistics_b, num_studies)[metric]
            for weights in _draw_studies(num_studies, num_samples, seed)
        ]
    )
    interval = _interval(differences, level)
    turned = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    p_value = min(1.0, 2 * (turned + 1) / (num_samples + 1))
    return Difference(value_a - value_b, interval.low, interval.high, p_value)


def _statistics(scores: NlgScores) -> np.ndarray:
    """Everything whose sum over a sample gives the scores: a row a study.

    Returns:
        Columns: BLEU matches (4) and totals (4), lengths (2), ROUGE-L, CIDEr, then METEOR's 23
        counts where they exist; (n, 12 or 35).
    """
    bleu = scores.bleu_counts
    columns = [
        bleu.matches,
        bleu.totals,
        bleu.lengths[:, np.newaxis],
        bleu.reference_lengths[:, np.newaxis],
        scores.per_report["rouge_l"][:, np.newaxis],
        scores.per_report["cider"][:, np.newaxis],
    ]
    if scores.meteor_counts is not None:
        columns.append(scores.meteor_counts)
    return np.concatenate(columns, axis=1).astype(np.float64)


def _figures(sums: np.ndarray, num_studies: int) -> dict[str, np.ndarray]:
    """Corpus scores of s samples from their summed statistics, (s, 12 or 35) -> (s,) each."""
    bleu = corpus_bleu(sums[:, 0:4], sums[:, 4:8], sums[:, 8], sums[:, 9])
    figures = {f"bleu{k + 1}": bleu[:, k] for k in range(MAX_N)}
    figures["rouge_l"] = sums[:, 10] / num_studies
    figures["cider"] = sums[:, 11] / num_studies
    if sums.shape[1] > 12:
        figures["meteor"] = corpus_meteor(sums[:, 12:])
    return figures


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
