"""The side of a mention."""

from collections.abc import Sequence

from radrep.metrics.labeler.cues import EXCEPTING, SIDES, STOPS_AFTER, VERBS, denied_side
from radrep.metrics.labeler.forms import ASK, NO
from radrep.metrics.labeler.scope import Span
from radrep.metrics.labeler.vocabulary import word_set

_MORE = word_set("worse greater more larger")
_MEANT = word_set("mean meant sorry correction")
_UNITS = word_set("mm cm")
_MEASURED = (["mm"], ["cm"])
_BREAKS = frozenset((",", ";", "(", ")"))
# Joints of mentions that share a side: "small left effusion and atelectasis".
_JOINTS = word_set(f"and or with , / adjacent associated versus vs {ASK}")
_BE = word_set("is are was were")
_ARTICLES = word_set("a an")
# An opacity of the right base which may be pneumonia makes it right.
_STOPS_BEFORE = STOPS_AFTER - {"which"}
_LONGEST_WALK = 14


def join_sides(sides: set[str]) -> str | None:
    """One side, or both from left and right."""
    if not sides:
        return None
    return next(iter(sides)) if len(sides) == 1 else "bilateral"


def find_sides(words: list[str], mentions: Sequence[Span]) -> list[str | None]:
    """The side of each mention of a sentence: from the words before, else after it, else shared."""
    marks = _marks(words)
    if not any(marks):
        return [None] * len(mentions)
    taken = {i for mention in mentions for i in range(mention.start, mention.end)}
    sides: list[str | None] = []
    for mention in mentions:
        own = {mark for mark in marks[mention.start : mention.end] if mark}
        found = own or _before(words, marks, taken, mention.start)
        sides.append(join_sides(found | _after(words, marks, taken, mention.end, bool(found))))
    _share(words, mentions, sides)
    return sides


def _marks(words: list[str]) -> list[str | None]:
    marks = [
        SIDES.get(word) if words[i + 1 : i + 2] != [NO] else None for i, word in enumerate(words)
    ]
    for i, word in enumerate(words):
        if word == "middle" and words[i + 1 : i + 2] == ["lobe"]:
            marks[i] = "right"
        elif word == "than" and any(marks[max(0, i - 4) : i]) and any(marks[i : i + 4]):
            for k in range(max(0, i - 4), min(len(words), i + 4)):  # left greater than right
                marks[k] = "bilateral" if marks[k] else None
        elif word == "not" and (denied := denied_side(words, i + 1)):
            marks[denied] = None  # right, not left
        elif word in _MEANT:
            for k in range(max(0, i - 5), i):  # left, I mean right
                marks[k] = None
        elif marks[i] and words[i - 2 : i] == ["on", "the"] and words[i - 3] in _MORE:
            marks[i] = None  # edema, worse on the right
    return marks


def _before(words: list[str], marks: list[str | None], taken: set[int], start: int) -> set[str]:
    found: set[str] = set()
    for i in range(start - 1, max(-1, start - 1 - _LONGEST_WALK), -1):
        if i in taken or words[i] in _STOPS_BEFORE or words[i] == "another":
            break
        if words[i] in _BE and words[i - 1 : i] != ["there"]:  # on the right there is an effusion
            break
        if words[i] == "and" and words[i + 1] in _ARTICLES:
            break
        if words[i] in _BREAKS and not _corrects(words, i):
            break
        if words[i] == "and" and found and _has_mention_before(words, taken, i):
            break  # atelectasis in the left base and right effusion
        mark = marks[i]
        if mark:
            found.add(mark)
    return found


def _corrects(words: list[str], comma: int) -> bool:
    """Whether a comma belongs to a corrected side: "right, not left, effusion"."""
    if words[comma + 1 : comma + 2] == ["not"]:
        return denied_side(words, comma + 2) > 0
    behind = words[max(0, comma - 4) : comma]
    corrected = "not" in behind or not _MEANT.isdisjoint(behind)
    return bool(behind) and behind[-1] in SIDES and corrected


def _has_mention_before(words: list[str], taken: set[int], start: int) -> bool:
    for i in range(start - 1, max(-1, start - 1 - _LONGEST_WALK), -1):
        if i in taken:
            return True
        if words[i] in _BREAKS:
            return False
    return False


def _after(
    words: list[str], marks: list[str | None], taken: set[int], end: int, has_side: bool
) -> set[str]:
    found: set[str] = set()
    last = min(len(words), end + _LONGEST_WALK)
    for i in range(end, last):
        if i in taken or words[i] == ";":
            break
        if words[i] in STOPS_AFTER and (
            words[i] not in EXCEPTING or not taken.isdisjoint(range(i, last))
        ):
            break
        if words[i] in _BREAKS or words[i] == "and":
            if words[i - 1] in _UNITS or words[i + 2 : i + 3] in _MEASURED:
                continue  # nodules, 4 mm and 7 mm, in the right lung
            segment = range(i + 1, min(len(words), i + 1 + _LONGEST_WALK))
            if not _is_place(words, marks, taken, segment):
                break
        mark = marks[i]
        if mark and (not has_side or mark == "bilateral"):
            found.add(mark)
    return found


def _is_place(words: list[str], marks: list[str | None], taken: set[int], segment: range) -> bool:
    """Whether only a further place follows, not the next mention with a side of its own."""
    sided = False
    for i in segment:
        if i in taken:
            return False
        if words[i] in _BREAKS or words[i] in STOPS_AFTER:
            break
        sided = sided or marks[i] is not None
    return sided


def _share(words: list[str], mentions: Sequence[Span], sides: list[str | None]) -> None:
    for k in range(1, len(mentions)):
        if sides[k] is None and _are_joined(words, mentions[k - 1], mentions[k]):
            sides[k] = sides[k - 1]
    for k in range(len(mentions) - 2, -1, -1):
        if sides[k] is None and _are_joined(words, mentions[k], mentions[k + 1]):
            behind = mentions[k + 1].end
            if any(SIDES.get(word) for word in words[behind : behind + _LONGEST_WALK]):
                sides[k] = sides[k + 1]


def _are_joined(words: list[str], first: Span, second: Span) -> bool:
    between = words[first.end : second.start]
    return len(between) <= 4 and not _JOINTS.isdisjoint(between) and VERBS.isdisjoint(between)
