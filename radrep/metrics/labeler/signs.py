"""Plus and minus as marks of presence and absence: "+ effusion, -PTX", "PTX -, effusion +".

They become characters of their own in place, so that what is found stands where it did. A minus may
also be a bullet, a hyphen or a dash: it is a mark where a plus beside it shows that, or where it
clings to the name of a finding as no bullet does.
"""

import re
from typing import NamedTuple

from radrep.metrics.labeler.abbreviations import AMBIGUOUS, WRITTEN_OUT
from radrep.metrics.labeler.vocabulary import BASE, MENTIONS

# Before a finding, and behind it.
LEADING_PLUS, LEADING_MINUS, PLUS, MINUS = SIGNS = "\u2795\u2796\u229e\u229f"
AS_WRITTEN = str.maketrans(SIGNS, "+-+-")

_DASH = "\\-\u2012-\u2015\u2212"
_MAYBE = re.compile(rf"[+{_DASH}](?:[ \t]?[A-Za-z]|[ \t]*(?:[,;.)\n]|$))")
_LEADING = re.compile(rf"(?<![\w+{_DASH}/])[+{_DASH}](?P<gap>[ \t]?)(?P<word>[A-Za-z]+)")
_FOLLOWS = re.compile(r"[ \t]+[A-Za-z]")
_TRAILING = re.compile(rf"(?<=[A-Za-z])(?P<gap>[ \t]?)[+{_DASH}](?=[ \t]*(?:[,;.)]|$))")
_FINDINGS = frozenset(
    word for phrase, (kind, _) in MENTIONS.items() if kind == "finding" for word in phrase
) | {"ve"}  # "-ve for"


class _Sign(NamedTuple):
    place: int  # in the line
    is_plus: bool
    opens: bool  # a line, or a part of one
    clings: bool  # to the word behind, which is no capitalised one
    is_bare: bool  # that word is the name of a finding


def mark_signs(text: str) -> str:
    """The text with its signs replaced, one character each."""
    if not _MAYBE.search(text):
        return text
    lines = text.split("\n")
    leading = [_read_leading(line) for line in lines]
    trailing = [[*_TRAILING.finditer(line)] for line in lines]
    by_line = any(found and found[0].is_plus and _at_line(found[0], line)
                  for found, line in zip(leading, lines, strict=True))  # fmt: skip
    is_alone = sum(bool(line.strip()) for line in lines) == 1
    has_plus = any("+" in match[0] for found in trailing for match in found)
    marked = []
    for line, before, behind in zip(lines, leading, trailing, strict=True):
        marks = [*line]
        for sign in _leading_marks(line, before, by_line=by_line, is_alone=is_alone):
            marks[sign.place] = LEADING_PLUS if sign.is_plus else LEADING_MINUS
        num_apart = sum(bool(match["gap"]) for match in behind)
        for match in behind if has_plus or num_apart > 1 else ():
            marks[match.end() - 1] = PLUS if "+" in match[0] else MINUS
        marked.append("".join(marks))
    return "\n".join(marked)


def _read_leading(line: str) -> list[_Sign]:
    found = []
    for match in _LEADING.finditer(line):
        before, word = line[: match.start()].rstrip(), match["word"]
        opens = not before or before[-1] in ",;:.("
        if word.lower() == "ve" and not (opens and _FOLLOWS.match(line, match.end())):
            continue  # "effusion +ve", which forms.py reads
        clings = not match["gap"] and (word.islower() or word.isupper())
        written_out = WRITTEN_OUT.get(word.lower(), (BASE.get(word.lower(), word.lower()),))
        is_bare = word.lower() in AMBIGUOUS or not _FINDINGS.isdisjoint(written_out)
        found.append(_Sign(match.start(), match[0][0] == "+", opens, clings, is_bare))
    return found


def _at_line(sign: _Sign, line: str) -> bool:
    return not line[: sign.place].strip()


def _leading_marks(line: str, signs: list[_Sign], *, by_line: bool, is_alone: bool) -> list[_Sign]:
    """Those of a line's signs that are marks."""
    if not signs:
        return []
    is_list = signs[0].opens and len({sign.is_plus for sign in signs}) == 2
    clinging = [sign for sign in signs if sign.clings and sign.is_bare and not sign.is_plus]
    has_plus = any(sign.is_plus and (sign.opens or sign.clings) for sign in signs)
    several = len(clinging) > 1 and clinging[0].opens
    marks = []
    for sign in signs:
        if has_plus or is_list:
            is_mark = is_list or sign.opens or sign.clings
        elif _at_line(sign, line):
            is_mark = by_line or (sign in clinging and (is_alone or several))
        else:
            is_mark = sign in clinging and (sign.opens or several)
        if is_mark:
            marks.append(sign)
    return marks
