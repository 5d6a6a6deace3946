"""A report as sentences, and a sentence as words with their positions."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from radrep.metrics.labeler.vocabulary import BASE

T = TypeVar("T")

# A full stop ends a sentence before white space or a capital, not in "vs." nor in "1.5 cm". A
# line break ends one where the next line opens a list item, a heading or a capitalised word;
# otherwise the line was only wrapped.
_END = re.compile(
    r"(?<!\b(?i:vs|dr))(?<!\b(?i:vs) )[.](?=\s|$|[A-Za-z])"
    r"|[!;]"
    r"|[?](?=\s|$)"
    r"|\n(?=[^\S\n]*(?:\n|\d{1,2}[.)]|[-*\u2022]|[A-Z][a-z ]|[A-Z]+:))"
)
_WORD = re.compile(r"[a-z]+|[0-9]+(?:[.][0-9]+)*|[^\sa-z0-9]")
# A hyphen or an apostrophe within a word only joins its parts.
_SILENT = frozenset("-'*\"_\u2013\u2014\u2019#")

_HEADING = re.compile(r"\s*([A-Za-z][A-Za-z /]{2,30}?)\s*:")
_ASIDE = re.compile(
    r"(?:clinical|indication|history|reason|comparison|technique|procedure|exam|examination|"
    r"patient|signs|views?)\b",
    re.IGNORECASE,
)
_BODY = re.compile(r"(?:findings?|impressions?|conclusions?|opinion|interpretation)\b", re.I)


@dataclass(frozen=True)
class Words:
    """Base words of a sentence in lower case, punctuation marks too, and their positions in it."""

    words: list[str]
    spans: list[tuple[int, int]]


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Positions of the sentences that report on this examination, in order.

    Under a heading such as history or technique, all is left out up to the next heading, or one
    sentence if no heading follows.
    """
    spans = []
    start = 0
    for end in _END.finditer(text):
        spans.append((start, end.start() + (end.group() == "?")))
        start = end.end()
    spans.append((start, len(text)))
    spans = [span for span in (_strip(text, *span) for span in spans) if span[0] < span[1]]
    return spans if ":" not in text else _without_asides(text, spans)


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())


def _without_asides(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    headings = [_HEADING.match(text, start, end) for start, end in spans]
    bodies = [i for i, found in enumerate(headings) if found and _BODY.match(found.group(1))]
    last_body = bodies[-1] if bodies else -1
    kept = []
    aside = False
    for i, (span, heading) in enumerate(zip(spans, headings, strict=True)):
        if heading:
            aside = bool(_ASIDE.match(heading.group(1)))
        if not aside:
            kept.append(span)
        aside = aside and i < last_body
    return kept


def read_words(sentence: str) -> Words:
    """The words of a sentence, without the marks that only join."""
    lower = sentence.lower()
    if len(lower) != len(sentence):  # a few characters grow in lower case, and places would shift
        lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in sentence)
    words, spans = [], []
    for match in _WORD.finditer(lower):
        word = match.group()
        if word not in _SILENT:
            words.append(BASE.get(word, word))
            spans.append(match.span())
    return Words(words, spans)


class PhraseTable(Generic[T]):
    """Finds the longest of many phrases, tuples of words, at every position of a sentence."""

    def __init__(self, phrases: Mapping[tuple[str, ...], T]) -> None:
        self._first: dict[str, list[tuple[tuple[str, ...], T]]] = {}
        for phrase in sorted(phrases, key=len, reverse=True):
            self._first.setdefault(phrase[0], []).append((phrase, phrases[phrase]))

    def begins_in(self, words: Iterable[str]) -> bool:
        """Whether any of the words begins a phrase."""
        return not self._first.keys().isdisjoint(words)

    def find(self, words: list[str]) -> list[tuple[int, int, T]]:
        """Phrases as (first word, word after the last, meaning), none within another."""
        found = []
        free = 0
        first = self._first
        for i, word in enumerate(words):
            if i < free or word not in first:
                continue
            for phrase, meaning in first[word]:
                if len(phrase) == 1 or tuple(words[i : i + len(phrase)]) == phrase:
                    free = i + len(phrase)
                    found.append((i, free, meaning))
                    break
        return found
