"""Utilities of candidate reports, against slow definitions that can be read."""

import math
from collections import Counter
from functools import cache

import numpy as np
import pytest

from radrep.guidance.utility import BOTH_NORMAL, PARTS, build_pool, utility_parts
from radrep.metrics.labeler import OBSERVATIONS, label_report

SENTENCES = (
    "the heart is normal in size .",
    "the heart is enlarged .",
    "there is a small left pleural effusion .",
    "no pleural effusion or pneumothorax .",
    "the lungs are clear .",
    "there is bibasilar atelectasis .",
    "no acute disease .",
    "clear",
)


def draw_reports(rng: np.random.Generator, num: int) -> list[str]:
    """Reports of one to four sentences, many of them more than once."""
    lengths = rng.integers(1, 5, num)
    return [" ".join(rng.choice(SENTENCES, size)) for size in lengths]


@cache
def ngrams(text: str) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


@cache
def weights(text: str, corpus: tuple[str, ...]) -> dict[tuple[str, ...], float]:
    """tf-idf of each n-gram."""
    return {
        ngram: count
        * (math.log(len(corpus)) - math.log(max(1, sum(ngram in ngrams(t) for t in corpus))))
        for ngram, count in ngrams(text).items()
    }


def cider_d(reference: str, candidate: str, corpus: tuple[str, ...]) -> float:
    """CIDEr-D of one pair with the document frequencies of a corpus (Vedantam et al., 2015)."""
    ours, theirs = weights(candidate, corpus), weights(reference, corpus)
    total = 0.0
    for n in range(1, 5):
        dot = sum(min(ours[g], theirs[g]) * theirs[g] for g in ours if g in theirs and len(g) == n)
        norms = [
            math.sqrt(sum(w * w for g, w in side.items() if len(g) == n)) for side in (ours, theirs)
        ]
        total += dot / math.prod(norms) if all(norms) else dot
    gap = max(0, len(reference.split()) - 1) - max(0, len(candidate.split()) - 1)
    return 10 * total / 4 * math.exp(-gap * gap / (2 * 6**2))


@cache
def rouge_l(reference: str, candidate: str) -> float:
    ours, theirs = tuple(candidate.split()), tuple(reference.split())

    @cache
    def common(i: int, j: int) -> int:
        if i == len(ours) or j == len(theirs):
            return 0
        if ours[i] == theirs[j]:
            return 1 + common(i + 1, j + 1)
        return max(common(i + 1, j), common(i, j + 1))

    precision, recall = common(0, 0) / len(ours), common(0, 0) / len(theirs)
    if not precision:
        return 0.0
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


@cache
def label_f1(reference: str, candidate: str) -> float:
    ours, theirs = (
        {o for o in OBSERVATIONS if o != "No Finding" and label_report(t).states[o] == "positive"}
        for t in (candidate, reference)
    )
    if not ours and not theirs:
        return BOTH_NORMAL
    return 2 * len(ours & theirs) / (len(ours) + len(theirs))


@pytest.mark.parametrize("seed", range(2))
def test_utilities_equal_their_slow_definitions(seed: int) -> None:
    reports = draw_reports(np.random.default_rng(seed), 24)
    pool = build_pool(reports, 8)
    expected = np.array(
        [
            [[cider_d(r, c, tuple(reports)), rouge_l(r, c), label_f1(r, c)] for c in pool.reports]
            for r in reports
        ]
    ).transpose(2, 0, 1)
    for column, holder in enumerate(pool.only_holder):
        if holder >= 0:  # its own report is worth what it is worth to the others
            others = np.delete(expected[:, :, column], holder, axis=1)
            expected[:, holder, column] = others.mean(axis=1)
    found = utility_parts(reports, pool)
    assert found.shape == (len(PARTS), 24, 8)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert len(np.unique(found[2])) > 3, "the reports that were drawn name findings"


def test_the_pool_has_the_most_frequent_reports_and_knows_who_alone_has_one() -> None:
    reports = ["b", "a", "", "a", "c", "", "", "b", "a"]
    pool = build_pool(reports, 2)
    assert pool.reports == ("a", "b")
    assert pool.only_holder.tolist() == [-1, -1]
    assert build_pool(reports, 9).reports == ("a", "b", "c")
    assert build_pool(reports, 9).only_holder.tolist() == [-1, -1, 4]
    assert build_pool(["", ""], 3).reports == ()


def test_nothing_of_a_study_shows_in_the_utility_of_its_own_unique_report() -> None:
    reports = ["the lungs are clear .", "there is a pleural effusion .", "the heart is enlarged ."]
    found = utility_parts(reports, build_pool(reports, 3))
    assert found[1].diagonal().max() < 0.9, "1 if the study's own report were compared"
