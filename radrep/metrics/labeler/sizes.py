"""The size or degree of a finding in the words of its sentence: "small to moderate", "8 mm"."""

import re

_GRADE = (
    r"(?:tiny|minute|trace|minimal(?:ly)?|minor|small|slight(?:ly)?|mild(?:ly)?|moderate(?:ly)?|"
    r"medium|large|big|huge|massive(?:ly)?|marked(?:ly)?|severe(?:ly)?|gross(?:ly)?|extensive)"
)
_NUMBER = r"\d+(?:[.,]\d+)?"
_UNIT = r"(?:mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)"
_MEASURE = rf"{_NUMBER}(?:\s*(?:{_UNIT}\s*)?(?:x|by|to|-|\u2013)\s*{_NUMBER})*\s*-?{_UNIT}\b"
_GRADES = rf"\b{_GRADE}(?:(?:\s+to\s+|\s*-\s*(?:to\s*-\s*)?){_GRADE})?\b"
_SIZE = re.compile(rf"(?P<size>{_MEASURE}|{_GRADES})", re.IGNORECASE)
# Behind these another thing is spoken of.
_BREAK = re.compile(
    r"[,;:()]|(?<!\d)\.|\.(?!\d)|\b(?:and|or|with|but|without|no|not|versus|is|are|was|were|has|have)\b",
    re.IGNORECASE,
)
_LINK = (
    r"(?:is|are|was|were|appears?|remains?|measures?|measuring|of|in|at|to|about|approximately|up|"
    r"size|now|still|currently|again|seen|noted|that|which)"
)
_SIDED = rf"{_SIZE.pattern.replace('?P<size>', '?:')}[ -](?:left|right)(?:[ -]sided)?"
_TWO_SIDES = re.compile(rf"{_SIDED}\s*(?:and|,)\s*{_SIDED}\W*\Z", re.IGNORECASE)
_AFTER = re.compile(rf"[\s,(]*(?:\b{_LINK}\b[\s,]*)*{_SIZE.pattern}", re.IGNORECASE)
# What may stand between a finding and its size of now: of another finding the size is not its own.
_CHANGE = (
    r"(?:is|are|was|were|has|have|had|been|remains?|appears?|it|which|that|also|and|but|again|"
    r"since|further|in|size|grown|larger|smaller|[a-z]+(?:ed|ly))"
)
_END = (
    r"(?=\s*(?:[,;:()]|\.(?!\d)|\Z|\b(?:and|or|but|with|in|at|on|of|compared|than|since|from)\b))"
)
_BETWEEN = rf"(?:[\s,(]*+\b{_CHANGE}\b)*+[\s,(]*+"
_NOW = re.compile(rf"{_BETWEEN}\bnow\b(?:\s+{_LINK}\b)*\s*{_SIZE.pattern}{_END}", re.IGNORECASE)
_STATED = re.compile(
    rf"\s*\b(?:is|are|remains?|appears?)\b\s*(?P<size>{_GRADES}){_END}", re.IGNORECASE
)


def find_size(sentence: str, start: int, end: int) -> str | None:
    """The size of the finding that `sentence[start:end]` names, in its words; None without one.

    Inside the phrase, before it in the same part of the sentence, or behind it. A size behind "now"
    is the size. Where two stand before one phrase ("large left and small right effusions"), or
    another behind it than before, there is none.
    """
    before, behind = sentence[:start], sentence[end:]
    if _TWO_SIDES.search(before):
        return None
    if now := _NOW.match(behind):
        return _words(now["size"])
    breaks = [found.end() for found in _BREAK.finditer(before)]
    before = before[breaks[-1] if breaks else 0 :]
    for part in (sentence[start:end], before):
        sizes = {_words(found["size"]) for found in _SIZE.finditer(part)}
        if sizes:
            if stated := _STATED.match(behind):
                sizes.add(_words(stated["size"]))
            return sizes.pop() if len(sizes) == 1 else None
    after = _AFTER.match(behind)
    return _words(after["size"]) if after else None


def _words(text: str) -> str:
    return " ".join(text.lower().split())
