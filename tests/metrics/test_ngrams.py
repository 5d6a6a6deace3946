"""Document frequencies that are taken from other texts than those scored."""

import numpy as np
import pytest

from radrep.metrics import ngrams
from radrep.metrics.ngrams import DocumentFrequencies, NgramTable, ReferenceNgrams

CORPUS = (
    "the heart is normal .",
    "the heart is normal .",
    "the heart is large . there is a small effusion .",
    "no effusion . the lungs are clear .",
    "clear",
)


def count_holders(words: str) -> int:
    return sum(f" {words} " in f" {text} " for text in CORPUS)


@pytest.mark.parametrize("together", [50_000, 2])
def test_frequencies_are_of_the_texts_that_have_an_ngram(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngrams, "_TEXTS_TOGETHER", together)
    frequencies = DocumentFrequencies(CORPUS)
    assert frequencies.num_texts == 5
    for words in ("the", "effusion .", "the heart is normal", "heart is large .", "is . the"):
        table = NgramTable([words])
        longest = table.orders.argmax()
        assert frequencies.of(table)[longest] == count_holders(words), words
    unknown = NgramTable(["unknown words", "effusion"])
    assert sorted(frequencies.of(unknown)) == [0, 0, 0, 2]


def test_pairs_score_as_in_one_table_with_the_whole_corpus() -> None:
    drawn = ["the heart is large .", "no small effusion .", "xxxx", ""]
    references = [CORPUS[2], CORPUS[3], CORPUS[2], CORPUS[0]]
    whole = NgramTable([*CORPUS, *drawn])
    rows = whole.rows_of(references), whole.rows_of(drawn)
    _, expected = ReferenceNgrams(whole, CORPUS).score_pairs(*rows)
    few = NgramTable([*references, *drawn])
    rows = few.rows_of(references), few.rows_of(drawn)
    _, found = ReferenceNgrams(few, references, DocumentFrequencies(CORPUS)).score_pairs(*rows)
    assert expected[:2].min() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
