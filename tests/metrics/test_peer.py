"""Our BLEU, ROUGE-L and CIDEr against pycocoevalcap's, report for report, on any texts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from radrep.metrics.nlg import score_nlg, score_systems

WORDS = ["the", "a", ".", "<unk>", "|||", "\u4e2d", "x\u0301", "2.5", "\x00"]

# Few words, so that n-grams meet and repeat; a run of one word; nothing; any text at all.
repetitive = st.lists(st.sampled_from(WORDS[:4]), max_size=30).map(" ".join)
runs = st.builds(lambda word, n: " ".join([word] * n), st.sampled_from(WORDS), st.integers(0, 150))
texts = repetitive | runs | st.just("") | st.text(max_size=40)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=7).filter(
    lambda pairs: any(reference.split() for reference, _ in pairs)
)


def peer_scores(references, hypotheses):
    references, hypotheses = (
        [" ".join(text.split()) for text in side] for side in (references, hypotheses)
    )
    keyed = [{i: [text] for i, text in enumerate(side)} for side in (references, hypotheses)]
    bleu = BleuScorer(n=4)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        bleu += (hypothesis, [reference])
    values, _ = bleu.compute_score(option="closest", verbose=0)
    counts = [(row["correct"], row["guess"], row["testlen"], row["reflen"]) for row in bleu.ctest]
    return values, counts, Rouge().compute_score(*keyed)[1], Cider().compute_score(*keyed)[1]


def check(scores, references, hypotheses):
    values, counts, rouge, cider = peer_scores(references, hypotheses)
    assert [scores.corpus[f"bleu{n}"] for n in (1, 2, 3, 4)] == pytest.approx(values, abs=1e-9)
    own = scores.bleu_counts
    for i, (matches, totals, length, reference_lengths) in enumerate(counts):
        assert own.matches[i].tolist() == matches
        assert own.totals[i].tolist() == totals
        assert own.lengths[i] == length
        assert [own.reference_lengths[i]] == reference_lengths
    for metric, expected in (("rouge_l", rouge), ("cider", cider)):
        assert scores.per_report[metric] == pytest.approx(expected, abs=1e-9), metric
        assert scores.corpus[metric] == pytest.approx(np.mean(expected), abs=1e-9), metric


@settings(max_examples=150, deadline=None)
@given(pairs)
def test_any_reports_score_as_the_peer_states(pairs):
    references, hypotheses = zip(*pairs, strict=True)
    check(score_nlg(references, hypotheses, meteor="skip"), references, hypotheses)


@settings(max_examples=60, deadline=None)
@given(pairs, st.data())
def test_systems_that_share_references_and_reports_score_as_they_do_alone(pairs, data):
    references, hypotheses = map(list, zip(*pairs, strict=True))
    order = data.draw(st.permutations(range(len(pairs))))
    others = [" ".join(text.split()[:3]) for text in references]
    systems = {
        "model": (references, hypotheses),
        "shuffled": (references, [hypotheses[i] for i in order]),
        "constant": (references, [hypotheses[0]] * len(pairs)),
        "references themselves": (references, references),
        "other references": (others, hypotheses),
    }
    for name, scores in score_systems(systems, meteor="skip").items():
        check(scores, *systems[name])


def test_studies_with_equal_references_and_reports_each_count():
    references, hypotheses = ["a b c .", "a b c .", "d e", "d e"], ["a b .", "a b .", "a b .", "d"]
    check(score_nlg(references, hypotheses, meteor="skip"), references, hypotheses)
