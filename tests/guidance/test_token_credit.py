"""Labels are owed to the tokens of the sentences that name them."""

from collections.abc import Sequence

import numpy as np
import pytest

from radrep.guidance.token_credit import credit_tokens, weigh_tokens
from radrep.metrics.labeler import label_report

REPORT = "the heart is enlarged . lungs are clear . small left pleural effusion . no rib fracture ."
WORDS = REPORT.split()
HEART, CLEAR, EFFUSION, RIBS = (slice(0, 5), slice(5, 9), slice(9, 14), slice(14, 18))


def decode(ids: Sequence[int]) -> str:
    return " ".join(WORDS[i - 1] for i in ids if i)


IDS = [*range(1, len(WORDS) + 1), 0]


def marks(*places: slice) -> np.ndarray:
    marked = np.zeros(len(IDS), bool)
    for place in places:
        marked[place] = True
    return marked


def credited(*, reference: set[str], better: bool, ids: Sequence[int] = IDS) -> np.ndarray:
    def right_less_wrong(named: frozenset[str]) -> float:
        return len(named & reference) - len(named - reference)

    found = label_report(decode(ids))
    return credit_tokens(decode, ids, found, right_less_wrong, better=better)


def test_an_advantage_is_owed_to_the_sentences_that_are_right() -> None:
    both = {"Cardiomegaly", "Pleural Effusion"}
    assert credited(reference=both, better=True).tolist() == marks(HEART, EFFUSION).tolist()
    found = credited(reference={"Cardiomegaly"}, better=True)
    assert found.tolist() == marks(HEART).tolist()
    found = credited(reference={"Cardiomegaly"}, better=False)
    assert found.tolist() == marks(EFFUSION).tolist()


def test_what_no_sentence_caused_is_owed_to_all_but_those_to_the_contrary() -> None:
    """Worse than others, and yet all that it names is right: something is missing."""
    both = {"Cardiomegaly", "Pleural Effusion"}
    assert credited(reference=both, better=False).tolist() == (~marks(HEART, EFFUSION)).tolist()
    silent = IDS[CLEAR]
    assert credited(reference=both, better=False, ids=silent).all()
    assert credited(reference=set(), better=True, ids=silent).all()
    assert credited(reference=set(), better=True, ids=[0]).tolist() == [True]


@pytest.mark.parametrize("begin", [(), (0,)])
def test_tokens_of_sentences_with_a_finding_weigh_more(begin: tuple[int, ...]) -> None:
    found = weigh_tokens(decode, 4.0, [*begin, *IDS])
    expected = np.where(marks(HEART, EFFUSION), 4, 1).tolist()
    assert found.tolist() == [1.0] * len(begin) + expected
    assert found.dtype == np.float32
    assert weigh_tokens(decode, 4.0, IDS[CLEAR]).tolist() == [1.0] * 4
