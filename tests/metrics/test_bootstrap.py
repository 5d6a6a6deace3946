import random
from dataclasses import astuple, replace

import numpy as np
import pytest

from radrep.errors import DataError
from radrep.metrics.bootstrap import bootstrap_intervals, paired_bootstrap, resample
from radrep.metrics.nlg import METRICS, NlgScores, corpus_meteor, score_nlg

WORDS = ["the", "lungs", "are", "clear", ".", "no", "effusion", "heart", "mild", "xxxx"]


def make_scores(num_reports, kept, seed=0):
    """References of random words; hypotheses that keep each word with the given probability.

    A tenth of the words is left out, so that BLEU's brevity penalty applies.
    """
    draw = random.Random(seed)
    references = [draw.choices(WORDS, k=draw.randint(5, 25)) for _ in range(num_reports)]
    copy = random.Random(seed + 1)
    hypotheses = [
        [word if copy.random() < kept else copy.choice(WORDS) for word in words]
        for words in references
    ]
    hypotheses = [[word for word in words if copy.random() < 0.9] for words in hypotheses]
    return score_nlg(
        [" ".join(words) for words in references],
        [" ".join(words) for words in hypotheses],
        meteor="skip",
    )


def add_meteor(scores: NlgScores, seed=0) -> NlgScores:
    """Counts as METEOR writes them: exact matches of content words in some chunks."""
    lengths = scores.bleu_counts.lengths
    matches = np.random.default_rng(seed).integers(1, lengths + 1)
    counts = np.zeros((len(lengths), 23))
    counts[:, 0], counts[:, 1] = lengths, scores.bleu_counts.reference_lengths
    counts[:, 4] = counts[:, 5] = counts[:, 21] = counts[:, 22] = matches
    counts[:, 20] = np.maximum(1, matches // 3)
    corpus = {**scores.corpus, "meteor": float(corpus_meteor(counts.sum(axis=0)))}
    return replace(scores, corpus=corpus, meteor_counts=counts)


def intervals_of(scores, *, level=0.95, **options):
    return bootstrap_intervals(resample({"a": scores}, **options)["a"], level=level)


def differences_of(scores_a, scores_b):
    found = resample({"a": scores_a, "b": scores_b})
    return paired_bootstrap(found["a"], found["b"])


def test_interval_contains_the_score_for_every_metric():
    scores = add_meteor(make_scores(150, kept=0.6))
    intervals = intervals_of(scores)
    assert tuple(intervals) == METRICS
    for metric, interval in intervals.items():
        assert interval.low < scores.corpus[metric] < interval.high, metric


def test_interval_of_a_mean_matches_the_normal_approximation():
    scores = make_scores(600, kept=0.6)
    interval = intervals_of(scores, num_samples=4000)["rouge_l"]
    values = scores.per_report["rouge_l"]
    half_width = 1.96 * values.std() / len(values) ** 0.5
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_bleu_interval_comes_from_resampled_counts():
    scores = make_scores(40, kept=0.6)
    generator = np.random.default_rng(5)
    counts = scores.bleu_counts
    naive = []
    for _ in range(3000):
        drawn = generator.integers(40, size=40)
        precision = counts.matches[drawn, 0].sum() / counts.totals[drawn, 0].sum()
        ratio = counts.lengths[drawn].sum() / counts.reference_lengths[drawn].sum()
        naive.append(precision * np.exp(1 - 1 / ratio))
    low, high = np.quantile(naive, [0.025, 0.975])
    interval = intervals_of(scores, num_samples=3000)["bleu1"]
    assert interval.low == pytest.approx(low, abs=0.1 * (high - low))
    assert interval.high == pytest.approx(high, abs=0.1 * (high - low))


def test_interval_narrows_with_more_studies_and_a_lower_level():
    def width(scores, **options):
        interval = intervals_of(scores, **options)["bleu4"]
        return interval.high - interval.low

    few, many = make_scores(50, kept=0.7), make_scores(800, kept=0.7)
    assert width(many) < 0.5 * width(few)
    assert width(few, level=0.5) < 0.6 * width(few)


def test_equal_seeds_give_equal_intervals_whatever_is_held_at_once(monkeypatch):
    scores = make_scores(30, kept=0.6)
    whole = intervals_of(scores, seed=3)
    assert intervals_of(scores, seed=4) != whole
    monkeypatch.setattr("radrep.metrics.bootstrap._BLOCK_CELLS", 7 * 30)
    in_blocks = intervals_of(scores, seed=3)
    assert in_blocks.keys() == whole.keys()
    for metric, interval in whole.items():  # sums of another order
        assert astuple(in_blocks[metric]) == pytest.approx(astuple(interval))


def test_meteor_left_out_has_no_interval():
    assert "meteor" not in intervals_of(make_scores(10, kept=0.6))


@pytest.mark.parametrize("metric", METRICS)
def test_a_clearly_better_system_is_significantly_better(metric):
    better = add_meteor(make_scores(100, kept=0.8), seed=1)
    worse = add_meteor(make_scores(100, kept=0.4), seed=2)
    if metric == "meteor":  # half the matches
        counts = worse.meteor_counts.copy()
        counts[:, [4, 5]] *= 0.5
        corpus = {**worse.corpus, "meteor": float(corpus_meteor(counts.sum(axis=0)))}
        worse = replace(worse, corpus=corpus, meteor_counts=counts)
    difference = differences_of(better, worse)[metric]
    assert difference.value == better.corpus[metric] - worse.corpus[metric]
    assert 0 < difference.low < difference.value < difference.high
    assert difference.p_value == pytest.approx(2 / 1001)
    opposite = differences_of(worse, better)[metric]
    assert opposite.p_value == difference.p_value
    assert opposite.low == pytest.approx(-difference.high)


def test_a_system_does_not_differ_from_itself():
    scores = make_scores(50, kept=0.6)
    difference = differences_of(scores, scores)["bleu4"]
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert difference.p_value == 1


def test_equally_good_systems_are_seldom_called_different():
    p_values = []
    for seed in range(20):
        one = make_scores(60, kept=0.6, seed=seed)
        # The same references and rate of errors, other errors.
        values = one.per_report["rouge_l"]
        swapped = np.random.default_rng(seed).permutation(values)
        corpus = {**one.corpus, "rouge_l": float(swapped.mean())}
        other = replace(one, corpus=corpus, per_report={**one.per_report, "rouge_l": swapped})
        p_values.append(differences_of(one, other)["rouge_l"].p_value)
    assert sum(p < 0.05 for p in p_values) <= 3


def test_pairing_finds_what_separate_intervals_hide():
    worse = make_scores(200, kept=0.6)
    values = worse.per_report["rouge_l"] + 0.01
    corpus = {**worse.corpus, "rouge_l": float(values.mean())}
    better = replace(worse, corpus=corpus, per_report={**worse.per_report, "rouge_l": values})
    low = intervals_of(better)["rouge_l"].low
    assert low < intervals_of(worse)["rouge_l"].high
    assert differences_of(better, worse)["rouge_l"].p_value < 0.01


def test_different_references_are_refused_and_missing_metrics_left_out():
    scores = make_scores(20, kept=0.6)
    with pytest.raises(DataError, match="scored on 20, 21 studies cannot be resampled together"):
        differences_of(scores, make_scores(21, kept=0.6))
    one, another = (resample({"a": make_scores(n, kept=0.6)})["a"] for n in (20, 21))
    with pytest.raises(DataError, match=r"different references \(20 and 21 studies\)"):
        paired_bootstrap(one, another)
    with pytest.raises(DataError, match="different references"):
        differences_of(scores, make_scores(20, kept=0.6, seed=9))
    assert "meteor" not in differences_of(scores, add_meteor(scores))


def test_systems_resampled_together_get_the_intervals_they_get_alone():
    one, other = add_meteor(make_scores(40, kept=0.6)), make_scores(40, kept=0.8)
    together = resample({"one": one, "other": other}, num_samples=200)
    for name, scores in (("one", one), ("other", other)):
        alone = intervals_of(scores, num_samples=200)
        for metric, interval in bootstrap_intervals(together[name]).items():
            assert interval.low == pytest.approx(alone[metric].low), metric
            assert interval.high == pytest.approx(alone[metric].high), metric
        assert together[name].figures.keys() == alone.keys()


def test_a_part_of_the_reports_is_scored_from_its_own_statistics():
    scores = make_scores(40, kept=0.6)
    kept = np.arange(40) % 3 == 0
    part = scores.part(kept)
    assert part["rouge_l"] == pytest.approx(scores.per_report["rouge_l"][kept].mean())
    assert part["cider"] == pytest.approx(scores.per_report["cider"][kept].mean())
    alone = make_scores(40, kept=0.6).bleu_counts
    precision = alone.matches[kept, 0].sum() / alone.totals[kept, 0].sum()
    ratio = alone.lengths[kept].sum() / alone.reference_lengths[kept].sum()
    assert part["bleu1"] == pytest.approx(precision * min(1, np.exp(1 - 1 / ratio)))
    assert scores.part(np.ones(40, bool)) == pytest.approx(
        {name: value for name, value in scores.corpus.items() if value is not None}
    )
