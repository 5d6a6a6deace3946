"""Protocols of scoring: raw reference and generated reports -> strings of whitespace tokens.

Scores depend more on text processing than on the model, so each names its protocol; generated
reports are scored as decoded in all of them:

- `published` (the R2Gen family): references are cleaned, words outside the training vocabulary
  become <unk>, and what exceeds the training length is cut off.
- `published_llm` (R2GenGPT and its descendants): references are cleaned and cut to the training
  length in sub-words of the language model.
- `full` (ours): references are cleaned and complete.

References of two sections keep their marker, and each section is cut by itself.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from radrep.sections import change_sections

UNKNOWN = "<unk>"

# A run of full stops at the end of a word, as in "clear." or "clear.."; not in "2.5" or alone.
_STICKING_FULL_STOPS = re.compile(r"(?<=[^\s.])\.+(?=\s|$)")


@dataclass(frozen=True)
class References:
    """References of one protocol."""

    protocol: str  # "published", "published_llm" or "full"
    texts: list[str]  # tokens joined by single spaces
    num_cut: int  # references cut by the length limit; 0 under `full`


def published_references(
    reports: Sequence[str],
    *,
    clean: Callable[[str], str],
    vocabulary: Collection[str],
    max_tokens: int,
) -> References:
    """Prepare raw reports as R2Gen and its descendants do; other words become <unk>.

    `max_tokens` ids include the opening 0: 60 leaves 59 words.
    """
    assert max_tokens >= 2, f"max_tokens ({max_tokens}) leaves no word beside the opening 0"
    known = frozenset(vocabulary)

    def cut(text: str) -> str:
        words = text.split()[: max_tokens - 1]
        return " ".join(w if w in known else UNKNOWN for w in words)

    whole = [clean(report) for report in reports]
    texts = [change_sections(cut, text) for text in whole]
    num_cut = sum(len(t.split()) < len(w.split()) for t, w in zip(texts, whole, strict=True))
    return References("published", texts, num_cut)


def published_llm_references(
    reports: Sequence[str], *, clean: Callable[[str], str], shorten: Callable[[str], str]
) -> References:
    """Prepare references as R2GenGPT does; `shorten` cuts them to the length in sub-words."""
    whole = [" ".join(clean(report).split()) for report in reports]
    texts = [" ".join(change_sections(shorten, text).split()) for text in whole]
    num_cut = sum(text != cut for text, cut in zip(whole, texts, strict=True))
    return References("published_llm", texts, num_cut)


def full_references(reports: Sequence[str], *, clean: Callable[[str], str]) -> References:
    """Clean the references and keep every word."""
    return References("full", [" ".join(clean(report).split()) for report in reports], 0)


def scored_predictions(
    reports: Sequence[str], *, clean: Callable[[str], str] | None = None
) -> list[str]:
    """Prepare generated reports for scoring under any protocol.

    White space is collapsed, and a full stop at the end of a word becomes a token ("clear." ->
    "clear ."), as in all cleaned references: reports of other programs would otherwise miss every
    sentence end. There is no change of case, no cut, and no cleaning unless `clean` is given.
    """
    texts = reports if clean is None else [clean(report) for report in reports]
    return [" ".join(_STICKING_FULL_STOPS.sub(" .", text).split()) for text in texts]
