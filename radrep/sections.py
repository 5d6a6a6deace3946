"""Findings and impression in one text: the findings, a marker, the impression.

The marker is one word of a model's vocabulary, or text that a language model writes. A text without
it is of one section. No score counts it.
"""

from collections.abc import Callable, Iterable, Mapping

MARKER = "<impression>"
SECTIONS = ("findings", "impression")
TWO_SECTIONS = "findings_impression"  # the target of a model that writes both


def join_sections(findings: str, impression: str) -> str:
    """One text, with the marker where there is an impression."""
    return f"{findings} {MARKER} {impression}".strip() if impression else findings


def split_sections(text: str) -> dict[str, str]:
    """Each section of a text by its name; without the marker all of it is findings."""
    if MARKER not in text:
        return dict(zip(SECTIONS, (text, ""), strict=True))
    findings, _, impression = text.partition(MARKER)
    parts = findings.strip(), impression.replace(MARKER, "").strip()
    return dict(zip(SECTIONS, parts, strict=True))


def change_sections(change: Callable[[str], str], text: str) -> str:
    """Change each section of a text by itself, or a text of one section."""
    if MARKER not in text:
        return change(text)
    return join_sections(*(change(part) if part else "" for part in split_sections(text).values()))


def without_marker(text: str) -> str:
    """The sections one after the other."""
    return text if MARKER not in text else " ".join(filter(None, split_sections(text).values()))


def without_markers(texts: Iterable[str]) -> list[str]:
    """See `without_marker`."""
    return [without_marker(text) for text in texts]


def sections_of(text: str, target: str) -> dict[str, str]:
    """The text of each section that a model with this target writes; none where it is not known."""
    if target == TWO_SECTIONS:
        return split_sections(text)
    return {target: text} if target in SECTIONS else {}


def titled_sections(sections: Mapping[str, str]) -> list[str]:
    """Each section behind its title, where there are several."""
    if len(sections) < 2:
        return [*sections.values()]
    return [f"{name.upper()}: {text}" for name, text in sections.items()]


def target_name(target: str) -> str:
    """A target in words."""
    return target.replace("_", " and ")
