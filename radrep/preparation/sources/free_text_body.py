"""Tells findings from what is written before them, where no heading does."""

import re

_EMPTY_LINE = re.compile(r"\n[ \t]*\n")
_NARROW = 40  # no line of fewer characters was wrapped
_VERB = re.compile(r"\b(?:is|are|clear|normal|seen|noted)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
# What a chest radiograph shows, and how it is described.
_STATED = re.compile(
    r"\b(?:lungs?|heart|cardi\w*|mediastin\w*|cardiomediastin\w*|pleura\w*|hil(?:a|ar|um)|pulmonary"
    r"|(?:hemi)?diaphragm\w*|costophrenic|effusions?|pneumothora\w*|consolidat\w*|opaci\w*"
    r"|infiltrat\w*|atelecta\w*|trachea\w*|bon(?:y|es)|osseous|thora\w*|vasculat\w*|clear|normal"
    r"|abnormal\w*|unremarkable|stable|unchanged|silhouette|aort\w*|catheters?|tubes?|pacemaker"
    r"|wires|(?:in|ex)panded|inflat\w*|spine|lobes?|bases?|apex|apices|edema|scoliosis"
    r"|granuloma\w*|evidence)\b",
    re.IGNORECASE,
)
# How an indication goes on: with a question, a past or a complaint.
_ASKED = re.compile(
    r"\W*(?:evaluat|assess|rule|r/o|follow|f/u|histor|hx|h/o|s/p|status|please|concern|pre-?op"
    r"|post-?op|check|eval|known|query|quest|suspe|need|prior|patient|pt\b|with\b|and\b|for\b|to\b"
    r"|he\b|she\b|\d+[ -]?(?:y|m|f)|chest pain|dyspn|cough|fever|shortness|sob\b)|[^.]*\?",
    re.IGNORECASE,
)


def states_findings(text: str) -> bool:
    """Whether a text describes a chest radiograph and asks nothing."""
    return bool(_STATED.search(text)) and not _ASKED.match(text)


def split_body(text: str, *, is_last: bool, may_state: bool) -> tuple[str, str]:
    """A section that stands before findings, and the findings that follow it without a heading.

    They begin after an empty line, or where a line does that was not merely wrapped. Where only a
    sentence may begin them, the first text is "" and the second is all of it. `is_last` is whether
    nothing follows, so that after an empty line there can be nothing but the findings; `may_state`
    whether its first sentence, too, is one of findings if it reads as such.
    """
    first, *rest = _EMPTY_LINE.split(text, maxsplit=1)
    if rest and (is_last or states_findings(rest[0])):
        return first, rest[0].strip()
    lines = text.split("\n")
    width = max(map(len, lines))
    for k in range(1, len(lines)):
        before, line = lines[k - 1].rstrip(), lines[k].strip()
        words = line.split()
        is_wrapped = bool(words) and len(before) + 1 + len(words[0]) > max(width, _NARROW)
        ends = before.endswith((".", "!", "?"))
        if line[:1].isupper() and (ends or not is_wrapped) and states_findings(line):
            return "\n".join(lines[:k]).strip(), "\n".join(lines[k:]).strip()
    first, *more = _SENTENCE.split(text)
    is_stated = may_state and states_findings(first) and _VERB.search(first)
    return ("", text) if is_stated or any(map(states_findings, more)) else (text, "")
