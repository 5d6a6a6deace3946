"""Splits a report into its sections by headings as people write them; MIMIC: mimic_sections.py.

FINDINGS: Clear. IMPRESSION: Normal.      also on one line; ReXrank has "clear.Impression:Normal."
Findings: Clear.  Findings. Clear.        capitals do not matter after the end of a sentence
Findings - Clear.  FINDINGS:- Clear.
**Findings:** Clear.  ## Findings         bold, headings and lists of Markdown, tags of HTML
Findings                                  alone on a line, without a colon
FINDINGS Clear.  Findings Clear.          without a mark, where capitals or other headings show it
Chest X-ray: Clear.  Lungs: Clear.        the examination, or an organ, in place of "Findings"

The names of headings are those of mimic_sections.py, which is for MIMIC-CXR and published tables.
Another heading in capitals inside findings or impression ("LUNGS:") is part of their text. Text
that follows an indication without a heading is separated from it by `free_text_body.py`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from radrep.preparation.sources.free_text_body import split_body, states_findings
from radrep.preparation.sources.mimic_sections import (
    MAIN,
    NAMES,
    collect_sections,
    section_name,
)

_MORE_NAMES = {
    "findings": "findings", "impressions": "impression", "opinion": "impression",
    "conclusions": "impression",
    "imp": "impression", "indications": "indication", "reason for study": "indication",
    "reason for the exam": "indication", "reason for the examination": "indication",
    "reason for referral": "indication", "reason for request": "indication",
    "clinical details": "indication", "clinical data": "indication",
    "clinical findings": "indication", "clinical notes": "indication",
    "clinical question": "indication", "clinical context": "indication",
    "clinical diagnosis": "indication", "clinical presentation": "indication",
    "chief complaint": "indication", "comparison study": "comparison", "procedure": "examination",
    # What ends a report and is no part of its last section.
    "electronically signed by": "signature", "signed by": "signature", "dictated by": "signature",
    "transcribed by": "signature", "reported by": "signature", "verified by": "signature",
    "radiologist": "signature", "attending radiologist": "signature",
    "notification": "notification", "technique": "technique", "indication": "indication",
    "recommendations": "recommendations", "addendum": "addendum",
}  # fmt: skip
# Words of sentences as well: headings only where a mark follows, or alone on a line.
_MARKED_NAMES = {
    "report": "findings", "description": "findings", "narrative": "findings",
    "observations": "findings", "result": "findings", "results": "findings",
    "interpretation": "interpretation", "diagnosis": "diagnosis", "diagnoses": "diagnosis",
    "assessment": "impression", "summary": "impression", "reason": "indication",
    "clinical": "indication", "complaint": "indication", "complaints": "indication",
    "symptoms": "indication", "views": "technique", "view": "technique",
    "observation": "findings", "comment": "comment", "comments": "comment", "dx": "diagnosis",
    "hx": "history", "medical history": "history", "past medical history": "history",
    "clinical info": "indication", "clinical hx": "indication", "clinical statement": "indication",
    "indication for exam": "indication", "indication for study": "indication",
    # In Spanish, Portuguese, German, French and Italian.
    "hallazgos": "findings", "achados": "findings", "befund": "findings", "résultats": "findings",
    "résultat": "findings", "reperto": "findings", "referto": "findings",
    "impresión": "impression", "impresion": "impression", "conclusión": "impression",
    "impresión diagnóstica": "impression", "impressão": "impression",
    "conclusão": "impression", "beurteilung": "impression", "conclusioni": "impression",
    "indicación": "indication", "indicação": "indication", "fragestellung": "indication",
    "indikation": "indication", "klinische angaben": "indication", "quesito clinico": "indication",
    "renseignements cliniques": "indication", "datos clínicos": "indication",
    "técnica": "technique", "tecnica": "technique", "technik": "technique",
    "comparación": "comparison", "voruntersuchung": "comparison",
}  # fmt: skip
# What these mean if a heading of the second name follows, and if not.
_EITHER = {
    "interpretation": ("findings", "impression", "impression"),
    "comment": ("findings", "impression", "impression"),
    "diagnosis": ("indication", "findings", "impression"),
}
_ALL_NAMES = {**NAMES, **_MORE_NAMES, **_MARKED_NAMES}
_AHEAD = ("indication", "history", "comparison", "technique", "examination")
_BEHIND_FINDINGS = ("impression", "recommendations", "addendum", "signature", "notification")
_SPELLED = (re.escape(name).replace(r"\ ", r"[ \t]+") for name in sorted(_ALL_NAMES)[::-1])
_QUALIFIED = (
    r"(?:(?:radiolog(?:ic|ical|ist'?s)|radiographic|imaging|x-?ray|chest|relevant|pertinent|brief"
    r"|final|overall|main|principal|preliminary)[ \t]+){1,3}"
)
_FIRST_WORDS = frozenset(re.split(r"\W", name)[0] for name in _ALL_NAMES)
_WORD = re.compile(r"[^\W\d_]+")
_QUALIFIERS = re.compile(rf"(?<![^\W_]){_QUALIFIED}\Z", re.IGNORECASE)
_KNOWN = re.compile(
    rf"(?<![^\W_])(?P<name>{'|'.join(_SPELLED)})"
    r"(?:[ \t]*(?:/|&|and)[ \t]*(?:plan|recommendations?|advice))?(?![^\W_])",
    re.IGNORECASE,
)
_IN_CAPITALS = re.compile(r"(?m)^[ \t]*(?P<name>[A-Z][A-Z ()/,-]*):(?=\s|\Z)")
_SIGNATURE = re.compile(r"\b(?:SIGNED|DICTATED|TRANSCRIBED|APPROVED|RADIOLOGIST|NOTIFICATION)\b")
_VIEW = (
    r"(?:x-?rays?|xr|cr|dx|radiographs?|films?|exam|examination|study|images?|pa|ap|lat(?:eral)?"
    r"|frontal|and|views?|portable|digital|plain|one|two|single|[12]|erect|upright|supine|of|the)"
)
_FILM = re.compile(
    rf"(?:{_VIEW}[ \t,/&-]+){{0,5}}(?:chest|cxr|thorax)(?:[ \t,/&()-]+{_VIEW}){{0,6}}[ \t)]*:(?=\s)"
    r"|x-?ray:(?=\s)",
    re.IGNORECASE,
)
_ORGAN = re.compile(
    r"(?:lungs?|lung fields|heart|cardi\w+|mediastinum|pleura\w*|hila|bones?|osseous|bony|airways?"
    r"|trachea|diaphragm\w*|soft tissues?|lines|devices|support devices|tubes|vasculature)"
    r"(?:[ \t,/&]+[a-z]+){0,3}[ \t]*:(?=\s)",
    re.IGNORECASE,
)

_OPENING = r"\#{1,6}|\*{1,3}|_{1,3}|\[|<(?:b|u|strong|em|p|h\d|li)>"
_CLOSING = r"\*{1,3}|_{1,3}|\]|</(?:b|u|strong|em|p|h\d|li)>"
# What may stand before and behind a heading; "++", since a row of a thousand asterisks can be taken
# apart in more ways than can be tried.
_BEFORE = re.compile(rf"(?:[ \t]*+(?:{_OPENING}|[-•>]|\d{{1,2}}[.)]))*+[ \t]*\Z")
_BEHIND = re.compile(
    rf"(?:[ \t]*\([^()\n]{{1,40}}\))?(?P<bold>(?:{_CLOSING})*)"
    r"[ \t]*(?P<mark>[:：](?:[-–—]+(?=\s))?|[-–—](?=\s)|[.=|](?=\s+\S))?"
    rf"(?:{_CLOSING})*(?:[ \t]*\n[ \t]*[=~_*-]{{3,}}[ \t]*(?=\n))?"
)
_STOP = re.compile(r"[\n.!?:;]")
_FAR = 200  # characters around a heading that are read
_TAGS = re.compile(
    r"</?(?:context|p|div|li|ul|ol)\b[^<>\n]*>|<br */?>|</(?:findings|impression|indication)>",
    re.IGNORECASE,
)
_TAG_HEADINGS = re.compile(r"<(findings|impression|indication)>", re.IGNORECASE)
_BOLD = re.compile(rf"(?:{_OPENING})++\Z")
_SENTENCE_END = re.compile(r"(?:\A|[.!?:;)>|\]]|\n[ \t]*\n?)[ \t]*\Z")
# "Findings The lungs", "Impression 1. Normal"; "FINDINGS ARE CONSISTENT WITH EDEMA" is a sentence.
_OPENS = re.compile(r"[A-Z](?:[^A-Z]+)?|AP|PA|\d{1,2}[.)]")
_GOES_ON = re.compile(
    r"(?:is|are|was|were|be|of|in|on|to|with|from|for|that|which|and|or|may|suggest\w*|consistent"
    r"|compatible|shows?|demonstrates?|remains?|include)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Heading:
    name: str
    start: int
    end: int
    faint: bool = False  # counts only beside another heading
    is_word: bool = False  # one of _MARKED_NAMES


@dataclass(frozen=True)
class ParsedReport:
    """A report's sections: raw text by name, no empty ones.

    `is_unclear` where nothing separates the findings from what is written before them: the section
    "findings" then holds both, with the heading of what stands before.
    """

    sections: dict[str, str]
    is_unclear: bool = False


def parse_context(context: str) -> dict[str, str]:
    """Split what stands before a report, as ReXrank has it: indication, comparison, ..."""
    found = parse_report(context, "indication").sections
    return {name: text for name, text in found.items() if name not in ("findings", "impression")}


def parse_report(report: str, default: str = "findings") -> ParsedReport:
    """Split a report into its sections; without any heading all of it is the section `default`."""
    text = report.replace("\r\n", "\n").replace("\r", "\n")
    if "\n" not in text.strip():
        text = text.replace("\\n", "\n")
    text = _TAG_HEADINGS.sub(r"\n\1: ", _TAGS.sub("\n", text))
    headings = _keep_headings(sorted(_find(text), key=lambda heading: heading.start), text)
    if not headings:
        return ParsedReport({default: report} if report.strip() else {})
    before = text[: headings[0].start].strip()
    ends = [*(heading.start for heading in headings[1:]), len(text)]
    pairs = [(h.name, text[h.end : end].strip()) for h, end in zip(headings, ends, strict=True)]
    pairs = [(_name_film(name, words), words) for name, words in pairs]
    if not any(name == "findings" and words for name, words in pairs):
        pairs = _name_unknown(pairs)
    found = {name for name, words in pairs if words}
    is_unclear = False
    if "findings" not in found and default == "findings":
        # Where findings may hide: in the last section before the impression.
        names = [name for name, _ in pairs]
        stop = names.index("impression") if "impression" in found else len(names)
        last = max((k for k in range(stop) if names[k] not in _BEHIND_FINDINGS), default=None)
        is_body = before.endswith(".") and not before.isupper() and names[0] not in _AHEAD
        if is_body or states_findings(before):  # text before "Impression:"
            pairs.append(("findings", before))
        elif last is not None and (names[last] in _AHEAD or "impression" not in found):
            own, body = split_body(
                pairs[last][1],
                is_last="impression" not in found,
                may_state=names[last] in ("examination", "technique", "comparison"),
            )
            is_unclear = bool(body) and not own
            if is_unclear:
                body = text[headings[last].start : ends[last]].strip()
            pairs[last : last + 1] = [(names[last], own), ("findings", body)]
    pairs = [(name, words) for name, words in pairs if words or name not in MAIN]
    return ParsedReport(collect_sections([("preamble", before), *pairs]), is_unclear)


def _name_unknown(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Unknown headings as findings, together, where their text describes the image."""
    stated = [
        k for k, (n, w) in enumerate(pairs) if n not in _ALL_NAMES.values() and states_findings(w)
    ]
    if not stated:
        return pairs
    texts = [
        f"{pairs[k][0].upper()}: {pairs[k][1]}" if len(stated) > 1 else pairs[k][1] for k in stated
    ]
    pairs[stated[0]] = ("findings", "\n".join(texts))
    return [pair for k, pair in enumerate(pairs) if k not in stated[1:]]


def _name_film(name: str, words: str) -> str:
    """What stands under the name of the examination: findings, or views and dates."""
    return name if name != "film" else "findings" if states_findings(words) else "examination"


def _find(text: str) -> Iterator[_Heading]:
    """Everything that may be a heading."""
    for label in _IN_CAPITALS.finditer(text):
        name = "signature" if _SIGNATURE.search(label["name"]) else _name_capitals(label["name"])
        yield _Heading(name, label.start(), label.start() if name == "organ" else label.end())
    end = 0
    for stop in _STOP.finditer(text):
        before, end = text[end : stop.start()], stop.end()
        start = stop.start() - len(before.lstrip())
        if stop[0] != ":" or not text[end : end + 1].isspace():
            continue
        if _FILM.match(text, start):
            yield _Heading("film", start, end)
        elif _ORGAN.match(text, start):
            yield _Heading("organ", start, start)
    has_case = not text.isupper() and not text.islower()
    for word in _WORD.finditer(text):
        if word[0].casefold() not in _FIRST_WORDS:
            continue
        match = _KNOWN.match(text, word.start())
        if match is None:
            continue
        qualified = _QUALIFIERS.search(text, max(0, match.start() - 60), match.start())
        first = qualified.start() if qualified else match.start()
        line_start = text.rfind("\n", 0, first) + 1
        near = max(line_start, first - _FAR)
        opening = _BEFORE.match(text, line_start, first) or _BOLD.search(text, near, first)
        start = opening.start() if opening else first
        behind = _BEHIND.match(text, match.end())
        assert behind is not None  # it may be empty
        at_line = start == line_start
        is_bold = bool(behind["bold"]) and bool(_BOLD.search(text[near:first].rstrip(" \t")))
        ends_before = bool(_SENTENCE_END.search(text[max(0, start - 40) : start]))
        follows = text[behind.end() : behind.end() + _FAR].partition("\n")[0]
        follows = next(iter(follows.split()), "")
        plain = re.sub(r"\s+", " ", match["name"].casefold())
        is_word, mark, faint = plain in _MARKED_NAMES, behind["mark"] or "", False
        if mark and not is_word and (at_line or mark[0] in ":："):
            accepted = ends_before or (text[first].isupper() and mark not in ".=|")
        elif mark:
            accepted = ends_before and (text[first].isupper() or mark[0] in ":：" or not has_case)
        elif is_bold or (at_line and not follows):
            accepted = is_bold or text[first].isupper() or ends_before
        else:
            accepted = ends_before and bool(follows) and not is_word
            if has_case and match[0].isupper():
                accepted = accepted and not follows.isupper()
            elif has_case:
                faint = True
                accepted = accepted and text[first].isupper() and bool(_OPENS.fullmatch(follows))
            else:
                faint = True
                accepted = accepted and not _GOES_ON.match(follows)
        if accepted:
            yield _Heading(_ALL_NAMES[plain], start, behind.end(), faint, is_word)


def _name_capitals(heading: str) -> str:
    heading = heading.replace("(S)", "S").strip()
    if name := _ALL_NAMES.get(heading.lower()):
        return name
    found = f"{heading}: "
    return (
        "film" if _FILM.match(found) else "organ" if _ORGAN.match(found) else section_name(heading)
    )


def _keep_headings(candidates: list[_Heading], text: str) -> list[_Heading]:
    """The headings among the candidates, which are sorted: none inside another, or of a part."""
    if len({heading.name for heading in candidates}) < 2:
        candidates = [heading for heading in candidates if not heading.faint]
    last = {heading.name: k for k, heading in enumerate(candidates)}
    kept: list[_Heading] = []
    for k, heading in enumerate(candidates):
        if heading.name in _EITHER:
            first, other, second = _EITHER[heading.name]
            heading = replace(heading, name=first if last.get(other, -1) > k else second)
        if kept and heading.start < kept[-1].end:
            continue
        inside = kept[-1].name if kept else ""
        if inside in (*MAIN, "organ", "film") and heading.name not in _ALL_NAMES.values():
            continue
        if heading.name == inside == "findings" and kept[-1].is_word <= heading.is_word:
            continue  # "CHEST:" among the findings, but not "Report: Chest. Findings: clear."
        if heading.name == "film" and kept and not text[kept[-1].end : heading.start].strip():
            continue  # "Examination: Chest X-ray: two views"
        kept.append(heading)
    return [replace(h, name="findings") if h.name == "organ" else h for h in kept]
