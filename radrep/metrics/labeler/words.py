"""A report as sentences, and a sentence as words with their positions."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from radrep.metrics.labeler.abbreviations import AMBIGUOUS, WRITTEN_OUT, in_context
from radrep.metrics.labeler.cues import AFFIRMING
from radrep.metrics.labeler.forms import SIZES, has_forms, marked_tokens
from radrep.metrics.labeler.vocabulary import BASE, MENTIONS
from radrep.sections import MARKER

T = TypeVar("T")

# A full stop ends a sentence before white space or a capital, not in "vs." nor in "1.5 cm", nor
# after an abbreviation unless a capitalised word follows. A line break ends one where the next line
# opens a list item, a heading, a row or a capitalised word; otherwise the line was only wrapped.
_STOP = (
    r"[.](?=\s|$|[A-Za-z])(?<!\b(?i:vs|dr|mr|ca)[.])(?<!\b(?i:vs) [.])(?<!\b(?i:mrs)[.])"
    r"(?<!\b(?i:poss|prob|susp|prof)[.])(?<!\b(?i:approx)[.])(?<![.]{4})"
    r"(?:(?<!\b(?i:rt|lt|pl)[.])(?<!\b(?i:pulm)[.])(?<!\b(?i:bilat)[.])|(?=\s+[A-Z][a-z]))"
    r"(?:(?<!\b(?i:no)[.])|(?!\s*\d+(?![\d.)])))"
    r"(?:(?<!\b(?i:cm|mm)[.])|(?!\s+(?:at|in|on|of|from|above|below)\b))"
    r"|!|;(?!\s*(?i:yes|no|none)\s*(?:$|\n))"
    r"|[?](?=\s|$)(?!\s*(?i:yes|no|none|nil|not seen|absent)\s*(?:[.,;]|$|\n))"
    rf"(?!\s*(?i:(?:a\s+)?(?:{SIZES})\s+(?:one|ones|amount)\b))"
    r"(?:(?<=[\w)\"'][?])|(?=\s*(?:$|\n|(?i:no|there|the)\b)))"
)
_LINE = (
    r"\n(?=[^\S\n]*(?:\n|\d{1,2}[.)]|[-*\u2022|\[(\u2610-\u2612\u2795\u2796]|[A-Z][a-z ]|[A-Z]+:"
)
# "no infiltrate\nmild cardiomegaly", "No edema - small effusion": what may open a new statement.
_ANEW = rf"(?:\n|\s[-\u2012-\u2015]+)\s*(?=(?i:{'|'.join(sorted(AFFIRMING - {'a', 'an'}))})\b)"
_FINDINGS = frozenset(phrase[-1] for phrase, (kind, _) in MENTIONS.items() if kind == "finding")
_DENIED = re.compile(r"\W*(?:no|without|negative)\b", re.IGNORECASE)
_END = re.compile(_STOP + "|" + _LINE + "))|(?P<anew>" + _ANEW + ")")
# As written in forms: "1) ... 2) ...", "Effusion: No Edema: Yes", rows of a table.
_FORM_MARK = re.compile(r"[:=|)\t]")
_END_OF_FORM = re.compile(
    _STOP
    + r"|(?:(?<=[:=] (?i:no))|(?<=[:=] (?i:yes))|(?<=[:=] (?i:none)))\s+(?=[A-Z][\w /-]{2,40}[:=])"
    r"|[(]?(?<!\w)\d{1,2}[)](?=\s*(?:[A-Z]|no\b))|" + _LINE + r"|[A-Za-z][\w /-]{2,40}[:=|\t]))"
    rf"|(?P<anew>{_ANEW})"
)
_WORD = re.compile(r"[a-z]+|[0-9]+(?:[.][0-9]+)*|[^\sa-z0-9]")
# A hyphen or an apostrophe within a word only joins its parts.
_SILENT = frozenset("-'*\"_\u2010\u2011\u2012\u2013\u2014\u2212\u2018\u2019\u201c\u201d")

_HEADING = re.compile(r"\s*([A-Za-z][A-Za-z /]{2,30}?)\s*:")
_ASIDE = re.compile(
    r"(?:clinical|indication|history|reason|comparison|technique|procedure|exam|examination|"
    r"patient|signs|views?|question|request|referral|complaint)\b",
    re.IGNORECASE,
)
_BODY = re.compile(r"(?:findings?|impressions?|conclusions?|opinion|interpretation)\b", re.I)
_FORMS: dict[str, tuple[str, ...]] = {
    **{form: (word,) for form, word in BASE.items()},
    **WRITTEN_OUT,
    **dict.fromkeys(AMBIGUOUS, ()),
}


@dataclass(frozen=True)
class Words:
    """Base words of a sentence in lower case, punctuation marks too, and their positions in it."""

    words: list[str]
    spans: list[tuple[int, int]]


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Positions of the sentences that report on this examination, in order.

    Under a heading such as history or technique, all is left out up to the next heading, or one
    sentence if no heading follows. The marker between two sections is a sentence of its own.
    """
    found: list[tuple[int, int]] = []
    start = 0
    for number, part in enumerate(text.split(MARKER)):
        if number:
            found.append((start, start + len(MARKER)))
            start += len(MARKER)
        found += [(a + start, b + start) for a, b in _split_section(part)]
        start += len(part)
    return found


def _split_section(text: str) -> list[tuple[int, int]]:
    spans = []
    start = 0
    ends = _END_OF_FORM if _FORM_MARK.search(text) else _END
    for end in ends.finditer(text):
        if end["anew"] and not _is_denied(text[start : end.start()]):
            continue
        spans.append((start, end.start() + (end.group() == "?")))
        start = end.end()
    spans.append((start, len(text)))
    spans = [span for span in (_strip(text, *span) for span in spans) if span[0] < span[1]]
    return spans if ":" not in text else _without_asides(text, spans)


def _is_denied(part: str) -> bool:
    """Whether a statement that denies a finding ends with its name."""
    last = part.lower().split()[-1:]
    return bool(last) and BASE.get(last[0], last[0]) in _FINDINGS and bool(_DENIED.match(part))


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
    if has_forms(lower):
        return _in_context(sentence, list(marked_tokens(lower)))
    words: list[str] = []
    spans: list[tuple[int, int]] = []
    for match in _WORD.finditer(lower):
        word = match.group()
        if word in _SILENT:
            continue
        written_out = _FORMS.get(word)
        if written_out is None:
            words.append(word)
            spans.append(match.span())
        elif written_out:
            words += written_out
            spans += [match.span()] * len(written_out)
        else:
            return _in_context(sentence, [(m.group(), m.span()) for m in _WORD.finditer(lower)])
    return Words(words, spans)


def _in_context(sentence: str, tokens: list[tuple[str, tuple[int, int]]]) -> Words:
    """Words whose abbreviations may be ambiguous."""
    tokens = [token for token in tokens if token[0] not in _SILENT]
    read = [word for word, _ in tokens]
    words: list[str] = []
    spans: list[tuple[int, int]] = []
    for i, (word, span) in enumerate(tokens):
        written_out = _FORMS.get(word)
        if word in AMBIGUOUS:
            written_out = in_context(read, i, sentence[slice(*span)])
            if not written_out and word == "#":
                continue
        words += written_out or (word,)
        spans += [span] * len(written_out or (word,))
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
