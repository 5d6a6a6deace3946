"""The scope of a cue, and its effect on the mentions within."""

from bisect import bisect_left
from itertools import pairwise
from typing import NamedTuple

from radrep.metrics.labeler.cues import (
    AFFIRMING,
    CUES,
    EXCEPTING,
    JOINED_WITH,
    NEW_STATEMENT,
    SEEN,
    STOPS_AFTER,
    STOPS_BEFORE,
    STOPS_BEFORE_VERSUS,
    VERBS,
    Cue,
    denied_change,
    denied_side,
    ended_in_part,
    of_another_view,
    of_one_side,
)
from radrep.metrics.labeler.vocabulary import word_set
from radrep.metrics.labeler.words import PhraseTable

# No list is as long, and a text without full stops takes no longer for it.
LONGEST_REACH = 80
LONGEST_CUE = max(map(len, CUES))
_RANK = {"aside": 5, "answer": 4, "open": 3, "negative": 2, "uncertain": 1}
_STOPS_OF_TWO = frozenset(
    (("or", "there"), ("or", "the"), ("nor", "there"), ("nor", "the"), ("other", "than"))
    + (("to", "explain"), ("to", "account"))
)
_COMMAS = frozenset((",", "(", ")"))
_LISTING = _COMMAS | {"and", "or", "nor"}
_AUXILIARIES = word_set("has have had is are was were now since completely fully currently again")
_NOT_NOW = word_set("previously before prior previous earlier last initially then ct lateral")
# "No effusion except a trace on the left": some of what is denied is there.
_SOME = word_set(
    "a an trace tiny small minimal mild minor one some few amount component residual left right "
    "apical basal basilar old known chronic"
)

_TABLE: PhraseTable[Cue] = PhraseTable(CUES)


class Span(NamedTuple):
    """Words from `start` to before `end`."""

    start: int
    end: int


class Reach(NamedTuple):
    """The effect of a cue, its position, and the words it reaches."""

    effect: str
    cue: Span
    over: Span


class Scopes:
    """The cues of a sentence, with the positions of its mentions in order, and their reaches."""

    def __init__(self, words: list[str], mentions: list[Span]) -> None:
        self._words = words
        self._mentions = mentions
        self._starts = {mention.start for mention in mentions}
        self._ends = {mention.end for mention in mentions}
        self.denied_change = False  # "no change" of something, which is present then
        self._reaches: list[Reach] = []
        self._excepted: set[int] = set()  # first words of mentions denied with an exception
        free = 0
        for start, end, cue in _TABLE.find(words):
            if start < free or cue.effect == "none":
                continue
            if words[end - 1] == "not" and denied_side(words, end):
                continue
            if of_one_side(words, start):
                continue
            kept = denied_change(words, start) if end - start == 1 else 0
            if kept:
                self.denied_change = True
                free = kept
            elif not (ended_in_part(words, start, end) or of_another_view(words, start, end)):
                self._reaches += self._reach(cue, Span(start, end))
        self._cue_starts = [reach.cue.start for reach in self._reaches]

    def _reach(self, cue: Cue, place: Span) -> list[Reach]:
        after = Span(place.end, self._end_after(place.end))
        if cue.reach == "either":
            ahead = any(start in self._starts for start in range(after.start, after.end))
            spans = [after] if ahead else [self._span_before(place.start, place.end)]
        elif cue.reach == "next":
            spans = [Span(place.end, place.end + 1)]
        elif cue.reach == "item":
            commas = (i for i in range(after.start, after.end) if self._words[i] in _COMMAS)
            spans = [Span(after.start, next(commas, after.end))]
        elif cue.reach == "replaced":
            spans = self._replaced(place)
        elif cue.reach == "both":
            spans = [self._weighed_before(place.start), after]
        else:
            # "A fracture, incompletely evaluated" is there.
            cue_end = 0 if cue.effect == "uncertain" else place.end
            # "an effusion, if present, is small"
            apart = self._words[place.start] == "if" and self._words[place.start - 1] in _COMMAS
            before = place.start - 1 if apart and place.start else place.start
            spans = [after] if cue.reach == "after" else [self._span_before(before, cue_end)]
        if cue.effect == "negative" and after.end < len(self._words):
            self._except(after)
        return [Reach(cue.effect, place, span) for span in spans]

    def _replaced(self, place: Span) -> list[Span]:
        earlier = bisect_left(self._mentions, place)
        return self._mentions[earlier - 1 : earlier] if 0 < earlier < len(self._mentions) else []

    def _except(self, denied: Span) -> None:
        words, start = self._words, denied.end
        follows = words[start + 1 : start + 3]
        if words[start] == "but" and follows[:1] != ["for"]:
            return
        if words[start] not in EXCEPTING and follows != ["the", "exception"]:
            return
        last = self._mentions[-1].start
        if denied.start <= last < start and not _SOME.isdisjoint(words[start + 1 : start + 12]):
            self._excepted.add(last)

    def strongest(self, index: int) -> Reach | None:
        """The cue that decides about a word: of those that reach it the strongest, then nearest."""
        best: Reach | None = None
        if index in self._excepted:
            return None
        first = bisect_left(self._cue_starts, index - LONGEST_REACH - LONGEST_CUE)
        for reach in self._reaches[
            first : bisect_left(self._cue_starts, index + LONGEST_REACH + 1)
        ]:
            if reach.over.start <= index < reach.over.end and (
                best is None
                or (_RANK[reach.effect], -abs(reach.cue.start - index))
                > (_RANK[best.effect], -abs(best.cue.start - index))
            ):
                best = reach
        return best

    def joined_by_or(self, first: Span, second: Span) -> Span | None:
        """The "or" that leaves open which of two neighbouring mentions is there, if one does."""
        between = self._words[first.end : second.start]
        if "or" not in between or len(between) > 8:
            return None
        if not STOPS_AFTER.isdisjoint(between) or not VERBS.isdisjoint(between):
            return None
        place = first.end + between.index("or")
        return Span(place, place + 1)

    def _end_after(self, start: int) -> int:
        words = self._words
        end = min(len(words), start + LONGEST_REACH)
        for i in range(start, end):
            word = words[i]
            if word in STOPS_AFTER:
                if not (word == "with" and words[i - 1] in JOINED_WITH):
                    return i
            elif word in _COMMAS or word == "and":
                if not self._list_goes_on(i + 1, end):
                    return i
                if word == "," and "," not in words[start:i] and self._is_noted(i + 1):
                    return i
            elif tuple(words[i : i + 2]) in _STOPS_OF_TWO:
                return i
        return end

    def _list_goes_on(self, start: int, end: int) -> bool:
        """Whether another item of the list follows a comma or an "and", not a new statement."""
        words = self._words
        if start < end and words[start] in ("and", "or", "nor"):
            if words[start] != "and":
                return words[start + 1 : start + 2] != ["there"]
            start += 1
        if start >= end or words[start] in NEW_STATEMENT:
            return False
        last = start
        while last < end and words[last] not in _COMMAS and words[last] not in STOPS_AFTER:
            last += 1
        if self._states(start, last):
            return False
        return words[start] not in AFFIRMING or self._closes_with_or(last, end)

    def _states(self, start: int, end: int) -> bool:
        """Whether the words hold a statement of their own."""
        words = self._words
        return any(
            words[i] in VERBS and SEEN.isdisjoint(words[i + 1 : i + 4]) for i in range(start, end)
        )

    def _is_noted(self, start: int) -> bool:
        """Whether the rest is one finding and "noted", or "seen in" a place on one side."""
        rest = self._words[start : start + 13]
        if len(rest) > 12 or not _LISTING.isdisjoint(rest) or not VERBS.isdisjoint(rest):
            return False
        seen_in = any(a in SEEN and b in ("in", "at") for a, b in pairwise(rest))
        return rest[-1:] in (["noted"], ["present"]) or (
            seen_in and ("left" in rest or "right" in rest)
        )

    def _closes_with_or(self, start: int, end: int) -> bool:
        words = self._words
        for i in range(start, end):
            if words[i] in STOPS_AFTER or words[i] in VERBS:
                return False
            if words[i] in _COMMAS and words[i + 1 : i + 2] in (["or"], ["nor"]):
                return True
        return False

    def _weighed_before(self, end: int) -> Span:
        start = end - 1
        while start >= max(0, end - LONGEST_REACH):
            if self._words[start] in STOPS_BEFORE_VERSUS:
                break
            start -= 1
        return Span(max(start + 1, self._span_before(end).start), end)

    def _span_before(self, end: int, cue_end: int = 0) -> Span:
        words = self._words
        set_apart = self._set_apart(end, cue_end)
        first = max(0, end - LONGEST_REACH)
        joined = False
        passed = end
        for i in range(end - 1, first - 1, -1):
            word = words[i]
            if word == ")" and i == end - 1 and "(" in words[first:i]:  # "effusion (left): no"
                passed = i - words[i:first:-1].index("(")
            if i >= passed:
                continue
            if word in STOPS_BEFORE and not (word == "with" and words[i - 1] in JOINED_WITH):
                return Span(i + 1, end)
            if word in ("or", "nor"):
                joined = True
            elif word == "and":
                if any(words[k] in VERBS for k in range(max(first, i - 12), i)):
                    return Span(i + 1, end)
                joined = True
            elif word in _COMMAS and not (joined and i in self._ends):
                named = any(k in self._starts for k in range(i + 1, end))
                if named or not set_apart:
                    return Span(i + 1, end)
        return Span(first, end)

    def _set_apart(self, start: int, end: int) -> bool:
        """Whether only a comma parts a cue from its finding: "Effusion, right, has resolved"."""
        words = self._words
        first = start
        while first and words[first - 1] in _AUXILIARIES:
            first -= 1
        if not end or not first or words[first - 1] not in _COMMAS:
            return False
        follows = words[end : end + 5]
        if words[start:end] == ["no", "longer"]:
            return SEEN.issuperset(follows[:1])
        if SEEN.isdisjoint(words[start:end]):
            return True
        return _NOT_NOW.isdisjoint(follows) and not any(word.isdigit() for word in follows)
