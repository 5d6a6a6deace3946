"""Splits a raw report into its sections by their headings (MIMIC-CXR's, and other reports').

The rules are those of MIT-LCP's parser, by which the sections of MIMIC-CXR are published
(github.com/MIT-LCP/mimic-cxr, txt/section_parser.py and txt/create_section_files.py):

- A heading is the beginning of a line in capitals, up to a colon. The line after one that holds
  nothing but a heading has none. One that names the views ("PORTABLE AP CHEST") means findings.
- Of several findings, impressions or comparisons, the last that is not empty counts. Without the
  first two, the text after the first empty line of the last section is the "last_paragraph".

Deliberate differences: "NDICATION" is an indication (there an impression); empty comparisons do not
hide earlier ones; a report whose lines have lost MIMIC-CXR's leading space is read too.
"""

import re

# A line of MIMIC-CXR begins with a space, and so does its heading.
_HEADING = re.compile(r"\n ([A-Z ()/,-]+):\s")
_HEADING_AT_MARGIN = re.compile(r"(?:\A|\n) *([A-Z][A-Z ()/,-]*):(?:\s|\Z)")
_EMPTY_LINE = re.compile(r"\n *\n")

_SYNONYMS = {
    "findings": (
        "chest, two views", "finding", "findins", "findindgs", "findgings", "findngs",
        "findnings", "finidngs", "reference findings",
    ),
    "impression": (
        "conclusion", "findings and impression", "findings/impression", "findings/ impression",
        "impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion",
        "imperssion", "mpression", "impession",
    ),
    "indication": (
        "reason for examination", "reason for exam", "clinical indication", "idication",
        "ndication",
    ),
    "history": ("clinical history", "clinical information", "patient history", "pfi"),
    "comparison": (
        "comparisons", "reference exam", "comparison exam", "comparison film", "comparision",
        "comparsion", "comparrison", "comparisions",
    ),
    "examination": ("exam", "type of examination"),
    "recommendations": ("recommendation(s)", "recommendation"),
    "wet read": ("wetread",),
}  # fmt: skip
NAMES = {synonym: name for name, synonyms in _SYNONYMS.items() for synonym in (name, *synonyms)}
# Any other heading that contains one of these is called by the first of them.
_PARTS = ("impression", "findings", "history", "comparison", "addendum")
_FILMS = re.compile(
    "chest|portable|pa and lateral|lateral and pa|ap and lateral|lateral and ap|frontal and"
    "|two views|frontal view|pa view|ap view|one view|lateral view|bone window|frontal upright"
    "|frontal semi-upright|ribs|pa and lat"
)

# The sections that are kept: the last one of a name, or all of several names.
MAIN = ("findings", "impression")
_LAST = (*MAIN, "comparison", "last_paragraph")
_ALL = {
    "indication": ("indication", "history"), "technique": ("technique",),
    "examination": ("examination",), "recommendations": ("recommendations",),
    "addendum": ("addendum",), "wet_read": ("wet read",),
}  # fmt: skip

# Studies of MIMIC-CXR whose conclusion stands under another heading.
_CONCLUSION_UNDER = {
    "s50913680": "recommendations", "s59363654": "examination", "s59279892": "technique",
    "s59768032": "recommendations", "s57936451": "indication", "s50058765": "indication",
    "s53356173": "examination", "s53202765": "technique", "s50808053": "technique",
    "s51966317": "indication", "s50743547": "examination", "s56451190": "note",
    "s59067458": "recommendations", "s59215320": "examination", "s55124749": "indication",
    "s54365831": "indication", "s59087630": "recommendations", "s58157373": "recommendations",
    "s56482935": "recommendations", "s58375018": "recommendations", "s54654948": "indication",
    "s55157853": "examination", "s51491012": "history",
}  # fmt: skip
# Studies of MIMIC-CXR whose conclusion has no heading: its first character and the one after it.
_CONCLUSION_AT = {
    "s50525523": (201, 349), "s57564132": (233, 554), "s59982525": (313, 717),
    "s53488209": (149, 475), "s54875119": (234, 988), "s50196495": (59, 399),
    "s56579911": (59, 218), "s52648681": (292, 631), "s59889364": (172, 453),
    "s53514462": (73, 377), "s59505494": (59, 450), "s53182247": (59, 412),
    "s51410602": (47, 320), "s56412866": (522, 822), "s54986978": (59, 306),
    "s59003148": (262, 505), "s57150433": (61, 394), "s56760320": (219, 457),
    "s59562049": (158, 348), "s52674888": (145, 296), "s55258338": (192, 568),
    "s59330497": (140, 655), "s52119491": (179, 454),
}  # fmt: skip
# Studies of MIMIC-CXR whose reports describe no image.
_WITHOUT_CONCLUSION = frozenset(
    ("s58235663", "s50798377", "s54168089", "s53071062")
    + ("s56724958", "s54231141", "s53607029", "s52035334")
)


def parse_sections(report: str, mimic_study: str | None = None) -> dict[str, str]:
    """Split a report into its sections (`_LAST` and `_ALL`): raw text by name, no empty ones.

    `mimic_study` is the study's name in MIMIC-CXR ("s50414267"): a few have their conclusion under
    another heading or none; it becomes the impression.
    """
    report = report.replace("\r\n", "\n").replace("\r", "\n")
    if mimic_study in _WITHOUT_CONCLUSION:
        return {}
    if mimic_study in _CONCLUSION_AT:
        first, end = _CONCLUSION_AT[mimic_study]
        return collect_sections([("impression", report[first:end].strip())])
    pairs = [(name, text.strip()) for name, text in _split(report)]
    under = _CONCLUSION_UNDER.get(mimic_study or "")
    pairs += [("impression", text) for name, text in pairs if name == under][-1:]
    return collect_sections(pairs)


def _split(report: str) -> list[tuple[str, str]]:
    """The (name, text) pairs of a report in its order."""
    headings = list(_HEADING.finditer(report)) or list(_HEADING_AT_MARGIN.finditer(report))
    names = [
        "preamble" if headings else "full report",
        *(section_name(match[1]) for match in headings),
    ]
    ends = [*(match.start() for match in headings), len(report)]
    texts = map(report.__getitem__, map(slice, [0, *(match.end() for match in headings)], ends))
    sections = zip(names, texts, strict=True)
    pairs = [(name, text) for name, text in sections if text.strip() or name not in MAIN]
    return pairs if any(name in MAIN for name, _ in pairs) else last_paragraph(pairs)


def last_paragraph(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The sections with what follows the first empty line of the last one on its own."""
    name, text = pairs[-1]
    first, *rest = _EMPTY_LINE.split(text, maxsplit=1)
    return [*pairs[:-1], (name, first), ("last_paragraph", rest[0])] if rest else pairs


def section_name(heading: str) -> str:
    """The section that a heading in capitals begins, or the heading itself."""
    heading = heading.lower().strip()
    if heading in NAMES:
        return NAMES[heading]
    other = "findings" if _FILMS.search(heading) else heading
    return next((part for part in _PARTS if part in heading), other)


def collect_sections(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The sections that are kept, of all (name, text) pairs of a report in its order."""
    sections = {name: text for name, text in pairs if name in _LAST and text}
    for name, names in _ALL.items():
        if texts := [text for found, text in pairs if found in names and text]:
            sections[name] = "\n".join(texts)
    return sections
