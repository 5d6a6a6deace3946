import json
import shutil
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radrep.data.text import get_cleaner
from radrep.errors import DataError
from radrep.metrics.baselines import SEARCHED_METRICS, best_constants
from radrep.metrics.nlg import score_nlg, score_systems
from radrep.metrics.protocol import full_references, published_references

reports = st.lists(st.sampled_from("abcd."), min_size=1, max_size=12).map(" ".join)


def score_constant(references, report):
    return score_nlg(references, [report] * len(references), meteor="skip").corpus


@settings(max_examples=60, deadline=None)
@given(st.lists(reports, min_size=1, max_size=5), st.lists(reports, min_size=1, max_size=6))
def test_search_gives_the_best_candidate_and_the_scorers_value(candidates, references):
    found = best_constants(candidates, references, SEARCHED_METRICS)
    scored = {report: score_constant(references, report) for report in candidates}
    for metric, constant in found.items():
        assert constant.value == pytest.approx(scored[constant.report][metric], abs=1e-9)
        best = max(values[metric] for values in scored.values())
        assert constant.value == pytest.approx(best, abs=1e-9)


def test_long_repetitive_and_empty_references_score_exactly():
    # Runs of over 64 words, carries through whole references, a reference without a word.
    references = ["a " * 130, "a b " * 40 + "c", "", "b " * 64, "c"]
    candidates = ["a " * 100, "b a " * 33, "c", "a b c " * 30]
    for candidate in candidates:
        expected = score_constant(references, candidate)
        for metric, constant in best_constants([candidate], references, SEARCHED_METRICS).items():
            assert constant.value == pytest.approx(expected[metric], abs=1e-9), metric


def test_only_the_most_frequent_reports_are_tried_where_there_are_too_many():
    train = ["rare but right ."] + ["common ."] * 2
    best = best_constants(train, ["rare but right .", "x"], ["rouge_l"], max_candidates=1)
    assert best["rouge_l"].report == "common ."
    best = best_constants(train, ["rare but right .", "x"], ["rouge_l"])
    assert best["rouge_l"].report == "rare but right ."


def test_of_equally_good_reports_the_more_frequent_is_taken():
    best = best_constants(["a x", "a y", "a y"], ["a", "b"], ["rouge_l"])
    assert best["rouge_l"].report == "a y"


@pytest.mark.parametrize(
    ("train", "references", "metrics", "message"),
    [
        (["a"], ["a"], ["meteor"], "no constant baseline for meteor: choose from bleu1"),
        ([], ["a"], ["cider"], "no training report"),
        (["", " "], ["a"], ["cider"], "no training report"),
        (["a"], [], ["cider"], "no validation reference"),
        (["a"], [""], ["cider"], "no validation reference"),
    ],
)
def test_unusable_input_is_a_clear_error(train, references, metrics, message):
    with pytest.raises(DataError, match=message):
        best_constants(train, references, metrics)


@pytest.fixture(scope="module")
def iu(data_dir):
    """Cleaned training reports, and the validation references of both protocols."""
    annotation = json.loads((data_dir / "iu_xray" / "annotation.json").read_text())
    clean = get_cleaner("r2gen_iu")
    train = [clean(row["report"]) for row in annotation["train"]]
    counts = Counter(word for report in train for word in report.split())
    vocabulary = [word for word, count in counts.items() if count >= 3]
    val = [row["report"] for row in annotation["val"]]
    published = published_references(val, clean=clean, vocabulary=vocabulary, max_tokens=60)
    return {
        "train": train,
        "published": published.texts,
        "full": full_references(val, clean=clean).texts,
    }


@pytest.fixture(scope="module")
def iu_expected(vectors_dir):
    return json.loads((vectors_dir / "iu_val_constant.json").read_text())


VECTOR_NAMES = {
    "B1": "bleu1",
    "B2": "bleu2",
    "B3": "bleu3",
    "B4": "bleu4",
    "ROUGE": "rouge_l",
    "CIDEr": "cider",
}


def test_best_iu_constants_are_the_expected_ones(iu, iu_expected):
    found = best_constants(iu["train"], iu["published"])
    for metric, name in (("bleu4", "B4"), ("cider", "CIDEr"), ("rouge_l", "ROUGE")):
        expected = iu_expected["best_constant_per_metric"][metric]
        assert found[metric].report == expected["constant"]
        assert found[metric].value == pytest.approx(expected["val"][name], abs=1e-4)


def test_iu_constant_scores_as_expected_under_both_protocols(iu, iu_expected):
    for protocol, expected in (
        ("published", iu_expected["published_protocol"]),
        ("full", iu_expected["full_references_cleaned"]),
    ):
        corpus = score_constant(iu[protocol], iu_expected["constant"])
        for name, metric in VECTOR_NAMES.items():
            assert corpus[metric] == pytest.approx(expected[name], abs=1e-4), (protocol, metric)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs a Java runtime")
def test_iu_constants_have_the_expected_meteor(iu, iu_expected):
    constants = iu_expected["best_constant_per_metric"]
    systems = {
        metric: (iu["published"], [row["constant"]] * 295) for metric, row in constants.items()
    }
    systems["full"] = (iu["full"], [iu_expected["constant"]] * 295)
    expected = {metric: row["val"]["METEOR"] for metric, row in constants.items()}
    expected["full"] = iu_expected["full_references_cleaned"]["METEOR"]
    # Far below the 1e-4 asked for: counting perfect matches wrongly costs only 6e-5 here.
    for name, scores in score_systems(systems).items():
        assert scores.corpus["meteor"] == pytest.approx(expected[name], abs=1e-8), name
