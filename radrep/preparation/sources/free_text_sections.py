"""Splits a report into its sections by headings as people write them; MIMIC: mimic_sections.py.

FINDINGS: Clear. IMPRESSION: Normal.      also on one line; ReXrank has "clear.Impression:Normal."
Findings: Clear.                          capitals do not matter after the end of a sentence
**Findings:** Clear.  ## Findings         bold, headings and lists of Markdown, tags of HTML
Findings                                  alone on a line, without a colon
FINDINGS Clear.                           in capitals, where the rest is not

The names of headings are those of mimic_sections.py, which is for MIMIC-CXR and published tables.
Another heading in capitals inside findings or impression ("LUNGS:") is part of their text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from radrep.preparation.sources.mimic_sections import (
    MAIN,
    NAMES,
    collect_sections,
    last_paragraph,
    section_name,
)

_MORE_NAMES = {
    "impressions": "impression", "opinion": "impression", "indications": "indication",
    "reason for study": "indication", "reason for the exam": "indication",
    "reason for the examination": "indication", "clinical details": "indication",
    "comparison study": "comparison", "procedure": "examination",
    # What ends a report and is no part of its last section.
    "electronically signed by": "signature", "signed by": "signature", "dictated by": "signature",
    "transcribed by": "signature", "radiologist": "signature", "attending radiologist": "signature",
    "notification": "notification", "technique": "technique", "indication": "indication",
    "recommendations": "recommendations", "addendum": "addendum",
}  # fmt: skip
_ALL_NAMES = {**NAMES, **_MORE_NAMES}
_SPELLED = (re.escape(name).replace(r"\ ", r"[ \t]+") for name in sorted(_ALL_NAMES)[::-1])
_KNOWN = re.compile(rf"(?<![^\W_])(?:{'|'.join(_SPELLED)})(?![^\W_])", re.IGNORECASE)
_IN_CAPITALS = re.compile(r"(?m)^[ \t]*(?P<name>[A-Z][A-Z ()/,-]*):(?=\s|\Z)")
_SIGNATURE = re.compile(r"\b(?:SIGNED|DICTATED|TRANSCRIBED|APPROVED|RADIOLOGIST|NOTIFICATION)\b")

_OPENING = r"\#{1,6}|\*{1,3}|_{1,3}|\[|<(?:b|u|strong|em|p|h\d|li)>"
_CLOSING = r"\*{1,3}|_{1,3}|\]|</(?:b|u|strong|em|p|h\d|li)>"
# What may stand before and behind a heading.
_BEFORE = re.compile(rf"(?:[ \t]*(?:{_OPENING}|[-•>]|\d{{1,2}}[.)]))*[ \t]*\Z")
_BEHIND = re.compile(
    rf"(?:[ \t]*\([^()\n]{{1,40}}\))?(?P<bold>(?:{_CLOSING})*)[ \t]*(?P<mark>[:：]|[-–—](?=\s))?"
    rf"(?:{_CLOSING})*"
)
_TAGS = re.compile(r"</?context>|<br */?>", re.IGNORECASE)
_BOLD = re.compile(rf"(?:{_OPENING})+\Z")
_SENTENCE_END = re.compile(r"(?:\A|[.!?:;)>\]]|\n[ \t]*\n?)[ \t]*\Z")


@dataclass(frozen=True)
class _Heading:
    name: str
    start: int
    end: int


def parse_report(report: str, default: str = "findings") -> dict[str, str]:
    """Split a report into its sections: raw text by name, no empty ones.

    Without any heading all of it is the section `default`.
    """
    text = report.replace("\r\n", "\n").replace("\r", "\n")
    if "\n" not in text.strip():
        text = text.replace("\\n", "\n")
    text = _TAGS.sub("\n", text)
    headings = _keep_headings(sorted(_find(text), key=lambda heading: heading.start))
    if not headings:
        return {default: report} if report.strip() else {}
    before = text[: headings[0].start].strip()
    ends = [*(heading.start for heading in headings[1:]), len(text)]
    pairs = [("preamble", before)]
    pairs += [(h.name, text[h.end : end].strip()) for h, end in zip(headings, ends, strict=True)]
    pairs = [(name, words) for name, words in pairs if words or name not in MAIN]
    found = {name for name, _ in pairs}
    if "findings" not in found and before.endswith(".") and not before.isupper():
        pairs.append(("findings", before))  # text before "Impression:"
    elif not found & {*MAIN}:
        pairs = last_paragraph(pairs)
    return collect_sections(pairs)


def _find(text: str) -> Iterator[_Heading]:
    """Everything that may be a heading."""
    for match in _IN_CAPITALS.finditer(text):
        name = "signature" if _SIGNATURE.search(match["name"]) else section_name(match["name"])
        yield _Heading(name, match.start(), match.end())
    is_shouted = text.isupper()
    for match in _KNOWN.finditer(text):
        line_start = text.rfind("\n", 0, match.start()) + 1
        before = text[line_start : match.start()]
        opening = _BEFORE.match(before) or _BOLD.search(before)
        start = line_start + opening.start() if opening else match.start()
        behind = _BEHIND.match(text, match.end())
        assert behind is not None  # it may be empty
        at_line = start == line_start
        is_bold = bool(behind["bold"]) and _BOLD.search(before.rstrip(" \t")) is not None
        ends_before = bool(_SENTENCE_END.search(text[max(0, start - 40) : start]))
        rest = text[behind.end() :].partition("\n")[0].split()
        if behind["mark"] and (at_line or behind["mark"] not in "-–—"):
            accepted = match[0][0].isupper() or ends_before
        elif is_bold or (at_line and not rest):
            accepted = is_bold or match[0][0].isupper() or ends_before
        else:
            shouted = match[0].isupper() and not is_shouted
            accepted = shouted and ends_before and bool(rest) and not rest[0].isupper()
        if accepted:
            name = _ALL_NAMES[re.sub(r"\s+", " ", match[0].casefold())]
            yield _Heading(name, start, behind.end())


def _keep_headings(candidates: list[_Heading]) -> list[_Heading]:
    """The headings among the candidates, which are sorted: none inside another, or of a part."""
    kept: list[_Heading] = []
    for heading in candidates:
        if kept and heading.start < kept[-1].end:
            continue
        inside = kept[-1].name if kept else ""
        if inside in MAIN and heading.name not in _ALL_NAMES.values():
            continue
        if heading.name == inside == "findings" and kept:
            continue  # "CHEST:" among the findings
        kept.append(heading)
    return kept
