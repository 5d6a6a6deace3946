"""Which tokens of a report a label is owed to: those of the sentences that name the finding.

A reward for a whole report does not show where it was earned; as in DiTPO, its label part is
given to the tokens of the sentences that changed it.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from radrep.guidance.reward import ABNORMAL
from radrep.metrics.labeler import Findings, label_report
from radrep.metrics.labeler.words import split_sentences

Span = tuple[int, int]


def token_ends(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> np.ndarray:
    """Where the text of each token ends in the text of them all, (l,)."""
    return np.array([len(decode(ids[: i + 1])) for i in range(len(ids))], dtype=np.int64)


def in_sentences(ends: np.ndarray, starts: Sequence[int], chosen: Iterable[Span]) -> np.ndarray:
    """Which tokens belong to chosen sentences, bool (l,); `starts` are those of all sentences.

    What is between two sentences, such as a full stop, belongs to the first of them.
    """
    sentence = np.searchsorted(np.array(starts), ends - 1, side="right") - 1
    numbers = [starts.index(start) for start, _ in chosen]
    return np.isin(sentence, numbers)


def sentences_that_name(findings: Findings) -> dict[Span, frozenset[str]]:
    """The sentences that call abnormal observations present, with these."""
    found: dict[Span, frozenset[str]] = {}
    for mention in findings.mentions:
        if mention.state == "positive" and mention.observation in ABNORMAL:
            known = found.get(mention.sentence, frozenset())
            found[mention.sentence] = known | {mention.observation}
    return found


def credit_tokens(
    decode: Callable[[Sequence[int]], str],
    ids: Sequence[int],
    findings: Findings,
    value: Callable[[frozenset[str]], float],
    *,
    better: bool,
) -> np.ndarray:
    """Which tokens of a report get its advantage in labels, bool (l,).

    A report that is `better` than others owes it to the sentences without which the value of its
    findings would be less, a worse one to those without which it would be greater. Where there is
    none, as where something is missing, all tokens get it but those of sentences to the contrary.
    """
    named = sentences_that_name(findings)
    if not named:
        return np.ones(len(ids), bool)
    whole = value(frozenset().union(*named.values()))
    effects = {
        sentence: whole
        - value(frozenset().union(*(own for s, own in named.items() if s != sentence)))
        for sentence in named
    }
    sign = 1 if better else -1
    owed = [sentence for sentence, effect in effects.items() if effect * sign > 0]
    contrary = [sentence for sentence, effect in effects.items() if effect * sign < 0]
    within = partial(_tokens_in, decode, ids)
    return within(owed) if owed else ~within(contrary)


def weigh_tokens(
    decode: Callable[[Sequence[int]], str], weight: float, ids: Sequence[int]
) -> np.ndarray:
    """`weight` for the tokens of sentences that call something abnormal present, else 1: (l,)."""
    named = sentences_that_name(label_report(decode(ids)))
    return np.where(_tokens_in(decode, ids, named), weight, 1.0).astype(np.float32)


def _tokens_in(
    decode: Callable[[Sequence[int]], str], ids: Sequence[int], sentences: Iterable[Span]
) -> np.ndarray:
    starts = [start for start, _ in split_sentences(decode(ids))]
    return in_sentences(token_ends(decode, ids), starts, sentences)
