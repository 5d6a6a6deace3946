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


def find_size(sentence: str, start: int, end: int) -> str | None:
    """The size of the finding that `sentence[start:end]` names, in its words; None without one.

    Inside the phrase, before it in the same part of the sentence, or said of it behind. Where two
    sizes stand before one phrase ("large left and small right effusions") there is none.
    """
    before = sentence[:start]
    if _TWO_SIDES.search(before):
        return None
    breaks = [found.end() for found in _BREAK.finditer(before)]
    before = before[breaks[-1] if breaks else 0 :]
    for part in (sentence[start:end], before):
        sizes = {_words(found["size"]) for found in _SIZE.finditer(part)}
        if sizes:
            return sizes.pop() if len(sizes) == 1 else None
    after = _AFTER.match(sentence[end:])
    return _words(after["size"]) if after else None


def _words(text: str) -> str:
    return " ".join(text.lower().split())
