"""Forms: ticked boxes, answers after a name, question marks, contractions, as words of their own.

NO, YES, MAYBE and BLANK answer what stands before them; OFF and ON tick what stands behind, ASK
doubts it.
"""

import re
from collections.abc import Iterator

from radrep.metrics.labeler.signs import SIGNS

NO, YES, MAYBE, OFF, ON, ASK = "<no>", "<yes>", "<maybe>", "<off>", "<on>", "<ask>"
BLANK = "<blank>"
SIZES = "small|tiny|trace|mild|minimal|moderate|large|severe"

_MARK = re.compile(
    rf"[{SIGNS}:;=>|?/\[\]()#+'\u2019\t\u2610-\u2612\u00b1\uff1a\uff1f\u2012-\u2015\u2212]"
)
_HYPHEN = re.compile(r"-(?:ve\b|\s*no)")
_GAP = r"""[\s*_"\u201c\u201d]{0,6}"""
_BOX = r"(?:\[\s*[x\u2713\u2714]?\s*\]|\(\s*[x\u2713\u2714]?\s*\)|[\u2610-\u2612])"
_TICKED = frozenset("x\u2713\u2714\u2611\u2612")
_FOLLOWS = re.compile(r"\s{0,4}[a-z0-9#]")
_DASHES = re.compile(r"^[-\u2012-\u2015\u2212]\s*(?=\w)")
_ANSWERS = {"off": OFF, "on": ON, "no": NO, "yes": YES, "maybe": MAYBE, "blank": BLANK}
_OPTION = r"(?:yes|no|present|absent|positive|negative|none)"
_DENIED = frozenset(("no", "absent", "negative", "none"))
_COLON = r"[:=>|\t\uff1a]"
_DASH = r"[-\u2012-\u2015\u2212]"
_ENDS = (
    rf"(?={_GAP}(?:[.](?!\d)|[,;|()\]}}?\n]|\s{_DASH}\s|$"
    rf"|[\w /-]{{3,40}}{_COLON}{_GAP}(?:yes|no|none)\b))"
)
_DOUBT = "indeterminate|maybe|uncertain|unclear|possibly|probably|perhaps"
_UNKNOWN = "n/a|na|not applicable|not assessed|not reported|not mentioned|unknown|unassessed"
_SOME = rf"(?:a\s+)?(?:{SIZES})\s+(?:one|ones|amount)\b"
_NO_WORDS = (
    r"no(?:ne)?(?:\s+(?:evidence(?:\s+(?:of|for))?|new|definite|acute|significant|obvious|visible|"
    r"seen|identified|present|detected|convincing))?"
)
_TOKEN = re.compile(
    rf"(?P<pair>{_BOX}{_GAP}{_OPTION}\b[\s,/]*{_BOX}{_GAP}{_OPTION}\b"
    rf"|\b{_OPTION}{_GAP}{_BOX}[\s,/]*{_OPTION}{_GAP}{_BOX})"
    rf"|(?P<box>{_BOX})"
    rf"|(?P<maybe>\+{_GAP}/{_GAP}{_DASH}|\u00b1"
    rf"|{_COLON}{_GAP}(?:\?|-1|{_DOUBT}){_ENDS})"
    rf"|(?P<blank>{_COLON}{_GAP}(?:{_UNKNOWN}){_ENDS})"
    rf"|(?P<off>(?:^|(?<=[,;] ))\s*[(]\s*{_DASH}\s*[)](?=\s*[a-z])|{SIGNS[1]})"
    rf"|(?P<on>(?:^|(?<=[,;] ))\s*[(]\s*\+\s*[)](?=\s*[a-z])|{SIGNS[0]})"
    rf"|(?P<no>(?:{_COLON}|[;?\uff1f(]|(?<![.])[.]{{4,}}|{_DASH}){_GAP}{_NO_WORDS}{_ENDS}"
    rf"|{_COLON}{_GAP}(?:n|0|f|false|{_DASH}){_ENDS}|[?\uff1f(]{_GAP}(?:n|{_DASH}){_ENDS}"
    rf"|{_DASH}ve\b|\bno\s*$|{SIGNS[3]})"
    rf"|(?P<yes>(?:{_COLON}|[;?\uff1f(]){_GAP}(?:yes|y|true|\+){_ENDS}"
    rf"|[?\uff1f]{_GAP}(?:yes\b|(?={_SOME}))|\+ve\b|{SIGNS[2]})"
    r"|(?P<ask>\(?\?+\)?)"
    r"|(?P<short>\b(?:r/o['\u2019]?d\b|w/(?:out|o)?|c/w|a/w|d/t|s/p|h/o|r/o|f/u|b/l)(?![a-z/])|[a-z]+n['\u2019]t\b)"
    r"|(?P<number>\((?:y/n|yes/no|y|n)\)(?=\s*[:=])|\bno[.]\s{0,4}(?=\d)|#\s{0,4}(?=\d+(?!\d|\s{0,4}(?:st|nd|rd|th)\b))|##+)"
    r"|(?P<word>[a-z]+|[0-9]+(?:[.][0-9]+)*|[^\sa-z0-9])"
)


def has_forms(lower: str) -> bool:
    """Whether a sentence in lower case may hold any; most hold none."""
    if _MARK.search(lower) or lower.endswith("no") or "no." in lower or "...." in lower:
        return True
    return "-" in lower and _HYPHEN.search(lower) is not None


def marked_tokens(lower: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Words and marks of a sentence in lower case, with their positions."""
    leading = re.match(rf"\s*(?:[^:=|]*[:=|])?\s*{_BOX}", lower) is not None
    for match in _TOKEN.finditer(lower):
        kind, text = match.lastgroup, match.group()
        if kind == "word":
            word = text
        elif kind == "short":
            word = text.replace("'", "").replace("\u2019", "")
        elif kind == "ask":
            word = ASK if _asks_ahead(lower, match) else "?"
        elif kind == "box":
            ticked = not _TICKED.isdisjoint(text)
            word = (ON if ticked else OFF) if leading else (YES if ticked else NO)
        elif kind == "pair":
            word = _option_of(text)
        elif kind == "number":
            continue
        else:
            word = _ANSWERS[str(kind)]
            answer = text.lstrip(':;=|?(. \t\n*_"\u201c\u201d\uff1a\uff1f') or text
            if len(answer) > 1:
                answer = _DASHES.sub("", answer)
            yield word, (match.end() - len(answer), match.end())
            continue
        yield word, match.span()


def _asks_ahead(lower: str, match: re.Match[str]) -> bool:
    """Whether a question mark doubts what follows, as in "? pneumonia"."""
    if not _FOLLOWS.match(lower, match.end()):
        return False
    return not match.group().startswith("(") or match.start() == 0


def _option_of(pair: str) -> str:
    """The ticked one of two options: "[ ] yes [x] no"."""
    boxes, options = re.findall(_BOX, pair), re.findall(_OPTION, pair)
    ticked = [
        option for box, option in zip(boxes, options, strict=True) if not _TICKED.isdisjoint(box)
    ]
    if len(ticked) != 1:
        return MAYBE
    return NO if ticked[0] in _DENIED else YES
