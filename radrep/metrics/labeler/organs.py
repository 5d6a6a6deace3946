"""The size of an organ in a sentence: the heart and the mediastinum."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from radrep.metrics.labeler.cues import (
    BORDERLINE,
    ENLARGED_WORDS,
    NORMAL_WORDS,
    STOPS_AFTER,
    UNCHANGED,
    VERBS,
    WITHIN_LIMITS,
)
from radrep.metrics.labeler.scope import Span
from radrep.metrics.labeler.vocabulary import word_set

_LONGEST_WALK = 30
_JOINTS = word_set("and or , / the size for")
_ADVERBS = word_set(
    "mildly moderately severely markedly slightly minimally significantly grossly overall "
    "also again within at upper near top not"
)
# An adjective such as "cardiac" names an organ only where its noun follows in a list.
_ADJECTIVES = word_set("cardiac mediastinal cardiomediastinal")
_RATIOS = word_set("ratio index")
_ABOVE = word_set("> above exceeds exceed exceeding over greater more larger")
_BELOW = word_set("< below less under smaller")
_NOT_RAISED = (["is", "not", "increased"], ["is", "not", "raised"])
_LIST_FOLLOWS = frozenset(("and", ",", "/", "or"))


class Size(NamedTuple):
    """A state, "positive", "negative" or "uncertain", and the words that give it."""

    state: str
    cue: Span


def organ_sizes(
    words: list[str], organs: Sequence[Span], findings: Collection[int]
) -> list[Size | None]:
    """The size of each organ of a sentence, if given; `findings`: words of other mentions."""
    sizes: list[Size | None] = []
    for k, organ in enumerate(organs):
        size = None
        is_adjective = organ.end - organ.start == 1 and words[organ.start] in _ADJECTIVES
        if not is_adjective or not _LIST_FOLLOWS.isdisjoint(words[organ.end : organ.end + 1]):
            ratio = words[organ.end - 1] in _RATIOS and _ratio_after(words, organ.end)
            size = ratio or _size_before(words, organ) or size_after(words, organ, findings)
        if size is None and k and _JOINTS.issuperset(words[organs[k - 1].end : organ.start]):
            size = sizes[k - 1]  # normal heart size and mediastinal contours
        sizes.append(size)
    return sizes


def _ratio_after(words: list[str], start: int) -> Size | None:
    """The size by a cardiothoracic ratio: enlarged above a half."""
    beyond = 0
    for i in range(start, min(len(words), start + 8)):
        word = words[i]
        if word in _ABOVE or word in _BELOW:
            beyond = 1 if word in _ABOVE else -1
            beyond = -beyond if "not" in words[start:i] else beyond
        if not word[0].isdecimal():
            continue
        value, end = float(".".join(word.split(".")[:2])), i
        if words[i + 1 : i + 2] in (["/"], [","]) and "".join(words[i + 2 : i + 3]).isdecimal():
            end = i + 2  # 15 / 28, or a decimal comma
            divided = words[i + 1] == "/"
            value = value / max(float(words[end]), 1) if divided else float(f"{word}.{words[end]}")
        if value > 1:
            value /= 100
        enlarged = value > 0.5 or (value == 0.5 and beyond > 0)
        if beyond < 0 and value <= 0.5:
            enlarged = False
        return Size("positive" if enlarged else "negative", Span(start, end + 1))
    return None


def _size_before(words: list[str], organ: Span) -> Size | None:
    of_seen = False
    for i in range(organ.start - 1, max(-1, organ.start - 8), -1):
        word = words[i]
        if word in STOPS_AFTER or word in VERBS or word in (",", "or"):
            return None
        if word == "and" and not of_seen:
            return None
        of_seen = of_seen or word == "of"
        size = _size_at(words, i)
        if size:
            return size
    return None


def size_after(words: list[str], organ: Span, findings: Collection[int]) -> Size | None:
    """The size in the words after an organ."""
    predicate_seen = False
    for i in range(organ.end, min(len(words), organ.end + _LONGEST_WALK)):
        word = words[i]
        if i in findings:
            return None
        if word in (",", "and", "but"):
            if predicate_seen and not _goes_on(words, i + 1):
                return None
            continue
        if word in STOPS_AFTER:
            return None
        size = _size_at(words, i)
        if size:
            if size.state == "negative" and _or_enlarged(words, size.cue.end):
                return Size("uncertain", size.cue)
            beside_finding = i + 1 in findings or i + 2 in findings
            return None if size.state == "positive" and beside_finding else size
        predicate_seen = predicate_seen or word in VERBS or word in UNCHANGED
    return None


def _or_enlarged(words: list[str], start: int) -> bool:
    return words[start : start + 1] == ["or"] and not ENLARGED_WORDS.isdisjoint(
        words[start + 1 : start + 4]
    )


def _size_at(words: list[str], i: int) -> Size | None:
    word = words[i]
    if word in ENLARGED_WORDS:
        not_raised = words[max(0, i - 2) : i + 1] in _NOT_RAISED
        if not_raised or (i and words[i - 1] == "non"):
            return Size("negative", Span(i - 1, i + 1))
        return Size("positive", Span(i, i + 1))
    if (word in NORMAL_WORDS or word == "within") and "not" in words[max(0, i - 2) : i]:
        return Size("positive", Span(i - 1, i + 1))
    if word in NORMAL_WORDS:
        return Size("negative", Span(i, i + 1))
    if word == "within" and not WITHIN_LIMITS.isdisjoint(words[i + 1 : i + 3]):
        end = i + 1
        while end < len(words) and (words[end] in WITHIN_LIMITS or words[end] == "of"):
            end += 1
        return Size("negative", Span(i, end))
    if word == BORDERLINE and ENLARGED_WORDS.isdisjoint(words[i + 1 : i + 3]):
        return Size("uncertain", Span(i, i + 1))
    return None


def _goes_on(words: list[str], start: int) -> bool:
    return any(
        _size_at(words, i) is not None or words[i] in UNCHANGED
        for i in range(start, min(len(words), start + 3))
        if all(word in _ADVERBS for word in words[start:i])
    )
