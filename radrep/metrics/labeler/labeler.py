"""Label a report by rules: fourteen observations with state, side and reason.

After the CheXpert labeler (Irvin et al., 2019, arXiv 1901.07031): find the phrases that mention an
observation, see which cues deny or doubt them, take the strongest mention of each. The rules are
our own; scores based on them are called "findings F1 (rules)".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from radrep.metrics.labeler.cues import SIDES
from radrep.metrics.labeler.organs import organ_sizes, size_after
from radrep.metrics.labeler.scope import Scopes, Span
from radrep.metrics.labeler.sides import find_sides, join_sides
from radrep.metrics.labeler.signs import AS_WRITTEN, mark_signs
from radrep.metrics.labeler.vocabulary import (
    CARDIOMEGALY,
    DEVICES,
    ENLARGED,
    MENTIONS,
    NO_FINDING,
    OBSERVATIONS,
)
from radrep.metrics.labeler.words import PhraseTable, Words, read_words, split_sentences

STATES = ("positive", "negative", "uncertain", "absent")

_STRENGTH = {"absent": 0, "negative": 1, "uncertain": 2, "positive": 3}
_WITHOUT_SIDE = frozenset((NO_FINDING, ENLARGED, CARDIOMEGALY))
_STATE_OF = {"open": "uncertain", "answer": "negative"}
_OTHER_KINDS = ("other", "abnormal")
_CACHED_SENTENCES = 2**16
_LONGEST_CACHED = 1000  # characters

_CORRECTION = re.compile(
    r"\W*(?:(?:report\s+)?(?:correct(?:ion|ed)|addend(?:um|a)|amend(?:ed|ment)|errat(?:um|a)|revis"
    r"(?:ed|ion)))\b",
    re.IGNORECASE,
)
_MEANT = re.compile(r"\b(?:I mean|I meant|should (?:read|say|have (?:read|said)))\b", re.IGNORECASE)
_CORRECTING = ("correct", "addend", "amend", "errat", "revis", "i mean", "should ")
# "On the right there is a small one": the finding that was named before.
_ONE = re.compile(
    r"\b(?:a|another|the|an?other|second|(?:small|tiny|trace|moderate|large)(?:er|r)?"
    r"|there\s+(?:is|are|was|were|may\s+be)|also)(?:\s+(?!of\b|than\b)[a-z]+){0,3}?"
    r"(?<!prior)(?<!previous)(?<!earlier)(?<!last)\s+(?P<one>ones?)"
    r"(?=\s*(?:$|[.,;)])|\s+(?:on|in|at|is|are|was|has|have|seen|noted|present|along|near|also"
    r"|persists|remains|possible|likely|probable|suspected|cannot)\b)",
    re.IGNORECASE,
)
_BODY = re.compile(r"\W*(?:findings?|impressions?|conclusions?)\s*:", re.IGNORECASE)

_TABLE: PhraseTable[tuple[str, tuple[str, ...]]] = PhraseTable(MENTIONS)


@dataclass(frozen=True)
class Mention:
    """A phrase, `text[start:end]`, that names an observation.

    A mention of "No Finding" is an abnormality that belongs to none of the others, such as
    emphysema; its state is negative.
    """

    observation: str
    state: str  # "positive", "negative" or "uncertain"
    start: int
    end: int
    sentence: tuple[int, int]  # its start and end
    cue: str | None  # the words that made it negative or uncertain, in lower case
    side: str | None  # "left", "right" or "bilateral"


@dataclass(frozen=True)
class Findings:
    """The labels of a report."""

    states: Mapping[str, str]  # every one of OBSERVATIONS -> one of STATES
    sides: Mapping[str, str | None]  # of positive and uncertain ones; left and right: bilateral
    mentions: tuple[Mention, ...]  # in order of their start

    def explain(self, text: str) -> list[str]:
        """One line per mention of the labelled `text`: observation, side, state, phrase, cue."""
        lines = []
        for mention in self.mentions:
            side = f" ({mention.side})" if mention.side else ""
            cue = f", for '{mention.cue}'" if mention.cue else ""
            phrase = " ".join(text[mention.start : mention.end].split())
            sentence = " ".join(text[slice(*mention.sentence)].split())
            if mention.observation == NO_FINDING:
                cue = ", an abnormality that is none of the other thirteen"
            lines.append(
                f"{mention.observation}{side}: {mention.state} by '{phrase}'{cue}, in '{sentence}'"
            )
        if self.states[NO_FINDING] == "positive":
            lines.append(f"{NO_FINDING}: positive, nothing abnormal is stated but support devices")
        return lines


class _Found(NamedTuple):
    """A mention with positions counted from the start of its sentence."""

    observation: str
    state: str
    start: int
    end: int
    cue: str | None
    side: str | None


def label_report(text: str) -> Findings:
    """Label one report, raw or cleaned, without sections such as the indication."""
    mentions = []
    text = mark_signs(text)
    sentences = split_sentences(text)
    named = ""  # the last finding of the sentence before, as it is written
    for start, end in sentences:
        sentence = text[start:end]
        remembered = len(sentence) <= _LONGEST_CACHED
        read = read_sentence(sentence) if remembered else _read_anew(sentence)
        if one := _ONE.search(sentence):
            read = _read_with_finding(sentence, one.span("one"), read, named)
        named = _last_named(sentence, read, end - start)
        for found in read:
            observation, state, first, last, cue, side = found
            place = (start + first, start + last, (start, end))
            mentions.append(Mention(observation, state, *place, cue, side))
    lower = text.lower()
    if any(word in lower for word in _CORRECTING):
        mentions = _corrected(text, sentences, mentions)
    return _aggregate(tuple(mentions))


def _last_named(sentence: str, read: Sequence[_Found], end: int) -> str:
    """The last finding before `end`, in the words of the sentence; "" for none."""
    places = [
        (found.start, found.end)
        for found in read
        if found.end <= end and found.observation not in _WITHOUT_SIDE
    ]
    return sentence[slice(*places[-1])] if places else ""


def _read_with_finding(
    sentence: str, one: tuple[int, int], read: tuple[_Found, ...], before: str
) -> tuple[_Found, ...]:
    """A sentence read with a finding in place of "one": its own, or that of the sentence before."""
    start, end = one
    finding = _last_named(sentence, read, start) or before
    if not finding:
        return read
    shift = len(finding) - (end - start)

    def place(at: int, inside: int) -> int:  # in the sentence as it is written
        return at if at <= start else at - shift if at >= end + shift else inside

    anew = _read_anew(sentence[:start] + finding + sentence[end:])
    return tuple(
        found._replace(start=place(found.start, start), end=place(found.end, end)) for found in anew
    )


def _corrected(
    text: str, sentences: list[tuple[int, int]], mentions: list[Mention]
) -> list[Mention]:
    """The mentions without those that a correction or an addendum overrules."""
    by_sentence: dict[tuple[int, int], list[Mention]] = {place: [] for place in sentences}
    for mention in mentions:
        by_sentence[mention.sentence].append(mention)
    added: dict[str, set[str | None]] = {}  # observation -> its sides in an addendum
    meant: dict[str, int] = {}  # observation -> where it is named again
    in_addendum: set[tuple[int, int]] = set()
    last: tuple[int, int] | None = None  # sentence with mentions
    under_heading = False
    for place in sentences:
        sentence = text[slice(*place)]
        under_heading = under_heading or bool(_CORRECTION.match(sentence))
        under_heading = under_heading and not _BODY.match(sentence)
        means = bool(_MEANT.search(sentence))
        if means and last and not by_sentence[place]:
            by_sentence[last] = _moved(by_sentence[last], sentence)
        for mention in by_sentence[place]:
            if means:
                meant[mention.observation] = place[0]
            elif under_heading:
                added.setdefault(mention.observation, set()).add(mention.side)
        if under_heading:
            in_addendum.add(place)
        last = place if by_sentence[place] else last
    return [
        mention
        for place in sentences
        for mention in by_sentence[place]
        if place[0] >= meant.get(mention.observation, 0)
        and (place in in_addendum or not _overruled(mention, added.get(mention.observation)))
    ]


def _overruled(mention: Mention, sides: set[str | None] | None) -> bool:
    """Whether an addendum on these sides speaks of the mention: one of the other side stays."""
    if sides is None:
        return False
    return None in sides or mention.side is None or mention.side in sides


def _moved(mentions: list[Mention], sentence: str) -> list[Mention]:
    """Mentions moved to the side that the next sentence means: "I meant on the right"."""
    sides = {SIDES[word] for word in read_words(sentence).words if word in SIDES}
    return [replace(m, side=next(iter(sides))) for m in mentions] if len(sides) == 1 else mentions


def label_reports(texts: Sequence[str]) -> list[Findings]:
    """Label many reports; a sentence that occurs again is read only once."""
    return [label_report(text) for text in texts]


def _aggregate(mentions: tuple[Mention, ...]) -> Findings:
    """The strongest mention of each observation: positive over uncertain over negative."""
    states = dict.fromkeys(OBSERVATIONS, "absent")
    abnormal = False
    for mention in mentions:
        if mention.observation == NO_FINDING:
            abnormal = True
        elif _STRENGTH[mention.state] > _STRENGTH[states[mention.observation]]:
            states[mention.observation] = mention.state
    named = {m.observation for m in mentions if m.state != "negative"}
    if not abnormal and not named - {DEVICES}:
        states[NO_FINDING] = "positive"
    sides: dict[str, set[str]] = {}
    for mention in mentions:
        state = states[mention.observation]
        if mention.side and mention.state == state != "negative":
            sides.setdefault(mention.observation, set()).add(mention.side)
    return Findings(states, {name: join_sides(found) for name, found in sides.items()}, mentions)


@lru_cache(maxsize=_CACHED_SENTENCES)
def read_sentence(sentence: str) -> tuple[_Found, ...]:
    """The mentions of a sentence, remembered: reports repeat their sentences."""
    return _read_anew(sentence)


def _read_anew(sentence: str) -> tuple[_Found, ...]:
    read = read_words(sentence)
    if not _TABLE.begins_in(read.words):
        return ()
    named = [(Span(a, b), *what) for a, b, what in _TABLE.find(read.words) if what[0] != "nothing"]
    if not named:
        return ()
    reader = _SentenceReader(sentence, read, named)
    return tuple(sorted(reader.read(), key=lambda found: found.start))


class _SentenceReader:
    def __init__(
        self, sentence: str, read: Words, named: list[tuple[Span, str, tuple[str, ...]]]
    ) -> None:
        self._sentence = sentence
        self._words = read.words
        self._spans = read.spans
        self._organs = [(span, names) for span, kind, names in named if kind == "organ"]
        self._others = [mention for mention in named if mention[1] != "organ"]
        self._scopes = Scopes(read.words, [span for span, _, _ in named])

    def read(self) -> list[_Found]:
        found: list[_Found] = []
        self._read_findings(found)
        if self._organs:
            self._read_organs(found)
        return found

    def _read_findings(self, found: list[_Found]) -> None:
        places = [span for span, _, _ in self._others]
        decided = [self._decide(span, kind) for span, kind, _ in self._others]
        if not self._scopes.denied_change:
            for k in range(1, len(places)):
                joint = self._scopes.joined_by_or(places[k - 1], places[k])
                if joint:
                    for i in (k - 1, k):
                        if decided[i][0] == "positive":
                            decided[i] = ("uncertain", joint)
        sided = [mention for mention in self._others if not _WITHOUT_SIDE.issuperset(mention[2])]
        spans = [span for span, _, _ in sided]
        sides = dict(zip(spans, find_sides(self._words, spans), strict=True))
        for k, ((place, kind, names), (state, cue)) in enumerate(
            zip(self._others, decided, strict=True)
        ):
            if self._is_label(k):
                continue
            if state == "aside" or (kind in _OTHER_KINDS and state == "negative"):
                continue
            for name in names:
                labelled = "negative" if kind in _OTHER_KINDS else state
                found.append(self._found(name, labelled, place, cue, sides.get(place)))
            if kind == "failure" and state != "negative":
                found.append(self._found(CARDIOMEGALY, "uncertain", place, place, None))

    def _is_label(self, k: int) -> bool:
        """Whether a phrase only opens what names it again, "Pneumothorax: no pneumothorax"."""
        place, _, names = self._others[k]
        if self._words[place.end : place.end + 1] != [":"]:
            return False
        again = [(one, found) for one, _, found in self._others[k + 1 : k + 9]] + self._organs[:8]
        return any(one.start > place.end and set(names) & set(found) for one, found in again)

    def _decide(self, place: Span, kind: str) -> tuple[str, Span | None]:
        reach = self._scopes.strongest(place.start)
        if kind == "doubtful":
            size = size_after(self._words, place, ())
            if size and size.state == "negative":
                return "negative", size.cue
            if reach is None or reach.effect == "uncertain":
                return "uncertain", reach.cue if reach else place
        if reach is None:
            return "positive", None
        return _STATE_OF.get(reach.effect, reach.effect), reach.cue

    def _read_organs(self, found: list[_Found]) -> None:
        findings = [span for span, kind, _ in self._others if kind not in ("doubtful", "abnormal")]
        taken = {i for span in findings for i in range(span.start, span.end)}
        organs = [span for span, _ in self._organs]
        sizes = organ_sizes(self._words, organs, taken)
        for (place, names), size in zip(self._organs, sizes, strict=True):
            if size is None:
                continue
            state, cue, phrase = size.state, size.cue, place
            if state == "positive":
                phrase = Span(min(place.start, size.cue.start), max(place.end, size.cue.end))
                reach = self._scopes.strongest(size.cue.start)
                if reach and reach.effect == "aside":
                    continue
                if reach:
                    state = _STATE_OF.get(reach.effect, reach.effect)
                    cue = reach.cue
            for name in names:
                reason = None if state == "positive" else cue
                found.append(self._found(name, state, phrase, reason, None))

    def _found(
        self, name: str, state: str, place: Span, cue: Span | None, side: str | None
    ) -> _Found:
        start, end = self._spans[place.start][0], self._spans[place.end - 1][1]
        words = None
        if cue is not None:
            cue_text = self._sentence[self._spans[cue.start][0] : self._spans[cue.end - 1][1]]
            words = " ".join(cue_text.translate(AS_WRITTEN).lower().split())
        return _Found(name, state, start, end, words, side)
