"""Systems under every protocol, with parts, comparisons and findings."""

import numpy as np
import pytest

from radrep.errors import DataError
from radrep.metrics.labeler import label_reports
from radrep.metrics.labeler.scores import SIDE_ACCURACY, WITH_SIDE, score_findings
from radrep.metrics.scorecard import Corpus, score_card

pytestmark = pytest.mark.usefixtures("without_java")

TRAIN = ["the heart is large .", "no pleural effusion .", "the lungs are clear ."]
REFERENCES = [
    "the lungs are clear .",
    "small left pleural effusion .",
    "no pleural effusion .",
    "right lower lobe pneumonia , left rib fracture .",
]
MODEL = [
    "the lungs are clear .",
    "large right pleural effusion .",
    "left pneumothorax .",
    "right lower lobe pneumonia .",
]


def plain(text: str) -> str:
    return text


def corpus(**changes: object) -> Corpus:
    words = {word for text in TRAIN + REFERENCES for word in text.split()} - {"rib"}
    settings: dict[str, object] = {"train": TRAIN, "vocabulary": words, "max_tokens": 6}
    return Corpus(references=REFERENCES, clean=plain, **{**settings, **changes})


def card(**changes: object):
    systems = {"model": MODEL, "constant": [TRAIN[2]] * 4}
    return score_card(corpus(**changes), systems, [("model", "constant")])


def test_protocols_are_those_that_the_corpus_allows():
    assert [p.protocol for p in card().protocols] == ["published", "full"]
    assert [p.protocol for p in card(vocabulary=None, train=()).protocols] == ["full"]
    told = card(shorten=lambda text: " ".join(text.split()[:3]), tokenizer="some-model")
    assert [p.protocol for p in told.protocols] == ["published", "published_llm", "full"]
    by_words, by_subwords, whole = told.protocols
    assert (by_words.num_cut, by_subwords.num_cut, whole.num_cut) == (1, 4, 0)
    assert (by_words.tokenizer, by_subwords.tokenizer) == ("", "some-model")


def test_seen_and_unseen_references_make_up_the_whole():
    found = card()
    assert found.num_seen == 2
    full = found.protocols[-1]
    for system in full.systems:
        for metric in ("rouge_l", "cider"):  # means over reports
            parts = (full.on_seen, full.on_unseen)
            halves = [part[system.name][metric] for part in parts]
            assert np.mean(halves) == pytest.approx(system.scores[metric])
    assert full.on_seen["constant"]["rouge_l"] > full.on_unseen["constant"]["rouge_l"]


def test_without_training_reports_nothing_is_called_seen():
    found = card(train=(), vocabulary=None)
    assert found.num_seen is None
    assert found.protocols[0].on_seen == {}
    assert found.protocols[0].on_unseen == {}


def test_a_comparison_is_first_minus_second():
    full = card().protocols[-1]
    scores = {system.name: system.scores for system in full.systems}
    (pair,) = full.comparisons
    for metric, difference in pair.differences.items():
        expected = scores["model"][metric] - scores["constant"][metric]
        assert difference.value == pytest.approx(expected)


def test_findings_are_counted_by_hand():
    found = card().findings
    rows = {row.observation: row for row in found.tables["model"]}
    effusion = rows["Pleural Effusion"]
    assert (effusion.in_references, effusion.in_generated, effusion.right) == (1, 1, 1)
    assert rows["Fracture"].recall == 0
    assert rows["Fracture"].precision is None
    assert rows["Pneumothorax"].precision == 0
    assert rows["Edema"].f1 is None
    # Named in the references: clear lungs twice, effusion, pneumonia, fracture; of these the model
    # has one of the clear ones, effusion and pneumonia, and it invents a pneumothorax.
    scores = found.systems[0].scores
    assert scores["14 micro precision"] == pytest.approx(3 / 4)
    assert scores["14 micro recall"] == pytest.approx(3 / 5)
    assert scores["13 micro f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    occurring = [2 / 3, 1, 1, 0]  # No Finding, effusion, pneumonia, fracture
    assert scores["14 macro of those that occur f1"] == pytest.approx(np.mean(occurring))
    assert scores["14 macro f1"] == pytest.approx(sum(occurring) / 14)
    assert scores["14 by report f1"] == pytest.approx(np.mean([1, 1, 0, 2 / 3]))
    assert scores["5 micro f1"] == 1
    # The effusion is on the wrong side, the pneumonia on the right one.
    assert scores[SIDE_ACCURACY] == 0.5
    assert found.num_sides["model"] == 2
    assert found.systems[1].scores[SIDE_ACCURACY] is None
    # Right with its side: the pneumonia alone; three were written and three are there.
    assert scores[WITH_SIDE] == pytest.approx(1 / 3)


def test_uncertain_findings_count_as_asked():
    references = label_reports(["possible pneumonia .", "pneumonia .", "the lungs are clear ."])
    generated = label_reports(["pneumonia .", "possible pneumonia .", "pneumonia ."])
    strict = score_findings(references, generated).table()
    lenient = score_findings(references, generated, uncertain_is_positive=True).table()
    of = {row.observation: row for row in strict}["Pneumonia"]
    assert (of.in_references, of.in_generated, of.right, of.uncertain) == (1, 2, 0, 1)
    of = {row.observation: row for row in lenient}["Pneumonia"]
    assert (of.in_references, of.in_generated, of.right) == (2, 3, 2)


def test_a_report_that_rightly_names_nothing_counts_in_full():
    nothing = label_reports(["comparison with the prior film ."])
    named = label_reports(["left pleural effusion ."])
    by_report = "13 by report f1"
    assert score_findings(nothing, nothing).corpus[by_report] == 1
    assert score_findings(nothing, named).corpus[by_report] == 0
    assert score_findings(nothing, nothing).corpus["13 micro f1"] == 0


def test_findings_of_other_numbers_are_refused():
    with pytest.raises(DataError, match="findings of 4 references and 3 generated reports"):
        score_findings(label_reports(REFERENCES), label_reports(MODEL[:3]))
