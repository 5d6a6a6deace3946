"""What de-identification would have removed from reports: dates, phone and record numbers, names.

The kinds are those of HIPAA's safe harbour (45 CFR 164.514) that stand in reports. Found by form
alone, so both ways there are errors: how many is in .github/docs/data.md.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from radrep.data.manifest import read_shards
from radrep.data.store import open_studies
from radrep.data.study import SPLITS

_MONTHS = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    "sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_YEAR = r"(?:19|20)\d\d"
# Bounded, as no name is longer: what is read again and again of a long word takes hours.
_NAME = r"(?!X{2,}\b)[A-Z][a-z'’-][A-Za-z'’-]{0,40}+"
_CAPITALS = r"(?!X{2,}\b)[A-Z][A-Z'’-]{1,40}+"  # where they are clearly a name
_FORMS = {
    "dates": re.compile(
        rf"\b{_YEAR}([-/.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?:T\d|\b)"
        rf"|\b(?:{_YEAR}([-/.]){_MONTH}\2{_DAY}|{_MONTH}([-/]){_DAY}\3(?:{_YEAR}|\d\d)"
        rf"|{_DAY}([-/.]){_MONTH}\4{_YEAR}|{_DAY}/{_MONTH}/\d\d"
        rf"|(?i:{_MONTHS})\.? {_DAY}(?:st|nd|rd|th)?(?:, ?| )(?:of )?{_YEAR}"
        rf"|{_DAY}(?:st|nd|rd|th)? (?:of )?(?i:{_MONTHS})\.?,? {_YEAR}"
        rf"|{_DAY}-(?i:{_MONTHS})-(?:{_YEAR}|\d\d)"
        rf"|(?!(?i:may))(?i:{_MONTHS})\.? {_DAY}(?:st|nd|rd|th)?(?! ?[cm]m| ?[-x/]))\b"
    ),
    "phone numbers": re.compile(
        r"(?<![\d.])(?:\+?1[-. ])?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-.]\d{4}\b"
        r"|\b(?i:phone|pager|beeper|extension|ext)\b[.:# ]{1,3}\d{4,}\b"
    ),
    "record numbers": re.compile(
        r"\b(?i:mrn|mr(?= ?#)|medical record(?: number)?|acc|accession(?: number)?|patient id|ssn)"
        r"\b[.:#, ]{1,3}(?:no\.? ?|is )?[A-Z]{0,3}-?\d{4,}\b|\b\d{3}-\d{2}-\d{4}\b"
    ),
    "names": re.compile(
        rf"\b(?:[Dd]r|DR|[Dd]octor|Mrs?|Ms|Miss|[Nn]urse)\b\.?,? "
        rf"(?:[A-Z]\.? |van |von |de[rn]? |la )*+{_NAME}"
        rf"|\b(?i:patient(?: name)?|name): ?{_NAME},? {_NAME}"
        rf"|\b(?i:name): ?{_CAPITALS}(?:, ?| |\^){_CAPITALS}|\bDR\. (?:[A-Z]\. )?{_CAPITALS}"
        rf"|\b(?:DICTATED|SIGNED|READ) BY: {_CAPITALS} {_CAPITALS}"
        rf"|\b{_CAPITALS}, (?:M\.?D\.?|D\.?O\.?)(?![A-Za-z])"
        rf"|\b(?i:discussed with|communicated to|reported to|telephoned to|signed by|"
        rf"dictated by|read by|relayed to) {_NAME} {_NAME}"
        rf"|\b{_NAME},? (?:[A-Z]\.?,? )?(?:M\.?D\.?|D\.?O\.?|R\.?N\.?)(?![A-Za-z])"
    ),
}


@dataclass
class FoundIdentifiers:
    """Studies with texts in the form of identifiers, never the texts: by kind, and the first."""

    num_studies: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[str, str]] = field(default_factory=dict)  # split and study


def find_kinds(text: str) -> Iterator[str]:
    """The kinds of identifiers that a text seems to have."""
    return (kind for kind, form in _FORMS.items() if form.search(text))


def find_identifiers(prepared: Path, advance: Callable[[int], object]) -> FoundIdentifiers:
    """Go through the texts of a prepared folder; `advance` counts studies."""
    found, columns = FoundIdentifiers(), ["id", "sections", "report"]
    for split in SPLITS:
        shards = read_shards(prepared, split)
        if not shards:
            continue
        for rows in open_studies(prepared, shards).select_columns(columns).iter(1000):
            studies = zip(*(rows[name] for name in columns), strict=True)
            for study, sections, report in studies:
                text = "\n".join([report, *(pair["text"] for pair in sections)])
                for kind in find_kinds(text):
                    found.num_studies[kind] += 1
                    found.first.setdefault(kind, (split, study))
            advance(len(rows["id"]))
    return found
