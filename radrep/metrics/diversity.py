"""Diversity and length of generated reports.

Word overlap alone does not distinguish a model from a constant: a released model with BLEU-4 .175
on IU X-Ray writes 4 distinct reports for 590 studies.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Diversity:
    """Diversity and length of the reports of one split, lengths in whitespace tokens."""

    num_reports: int
    num_distinct: int  # white space aside
    most_frequent: str  # the first of several
    most_frequent_share: float  # of the studies, 0 to 1
    length_ratio: float  # ratio of the sums, as in BLEU's brevity penalty
    mean_length: float
    min_length: int
    max_length: int
    mean_reference_length: float


def measure_diversity(references: Sequence[str], hypotheses: Sequence[str]) -> Diversity:
    """Count distinct reports and compare lengths with the references, of as many studies."""
    counts = Counter(" ".join(text.split()) for text in hypotheses)
    text, frequency = counts.most_common(1)[0]
    lengths = [len(hypothesis.split()) for hypothesis in hypotheses]
    num_reference_words = sum(len(reference.split()) for reference in references)
    return Diversity(
        num_reports=len(hypotheses),
        num_distinct=len(counts),
        most_frequent=text,
        most_frequent_share=frequency / len(hypotheses),
        length_ratio=sum(lengths) / num_reference_words,
        mean_length=sum(lengths) / len(lengths),
        min_length=min(lengths),
        max_length=max(lengths),
        mean_reference_length=num_reference_words / len(references),
    )
