"""Report text: target text and the named cleaners; pure str -> str.

The two `r2gen` cleaners give what the published R2Gen tokenizer gives (Chen et al., "Generating
Radiology Reports via Memory-driven Transformer", EMNLP 2020), quirks included, because published
scores rest on them: list numbers vanish up to 5 only, "1. " also inside "T1. ", an empty report
becomes " .", and fractions lose their bar. `r2gengpt_mimic` is that of R2GenGPT (Wang et al.,
"R2GenGPT", Meta-Radiology 2023), MambaXray-VL and EMRRG. `plain` has none of that and is for
everything that need not be compared with a published number.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

from radrep.errors import DataError
from radrep.sections import SECTIONS, TWO_SECTIONS, change_sections, join_sections

TARGETS = (*SECTIONS, "both")  # texts without a marker

_LIST_NUMBERS = (
    ("1. ", ""),
    *((f". {number}. ", ". ") for number in range(2, 6)),
    *((f" {number}. ", ". ") for number in range(2, 6)),
)
# How often each pair of doubled marks is halved: the number of passes shows in very long runs.
_IU_HALVINGS = (("..", ".", 3),)
_MIMIC_HALVINGS = (("__", "_", 7), ("  ", " ", 6), ("..", ".", 8))

_QUOTES = str.maketrans("", "", "\"'/\\")
# The published pattern means to list ":-[" but spells the range from ":" to "[". So "<", "=", ">"
# and "@" go as well (capitals too, of which none is left by then), and "-" stays.
_MARKS = str.maketrans(
    "", "", ".,?;*!%^&_+()]{}" + "".join(map(chr, range(ord(":"), ord("[") + 1)))
)
# R2GenGPT's pattern has no such range: colons stay, and "<", "=", ">" and "@" with them.
_MARKS_BUT_COLONS = str.maketrans("", "", ".,?;*!%^&_+()[]{}")

# Words with their inner hyphens, bars and apostrophes ("l1-l2", "3/4"); numbers also with their
# inner points, commas and colons and a percent sign; of other marks, a run of one ("..") once.
_PLAIN_TOKEN = re.compile(
    r"\w+(?:(?:[-/'\u2019]|(?<=\d)[.,:](?=\d))\w+)*(?:(?<=\d)%)?|([^\w\s])\1*"
)


def _clean_r2gen(
    report: str, halvings: tuple[tuple[str, str, int], ...], *, keep_colons: bool = False
) -> str:
    for doubled, single, passes in halvings:
        for _ in range(passes):
            report = report.replace(doubled, single)
    for number, replacement in _LIST_NUMBERS:
        report = report.replace(number, replacement)
    if keep_colons:
        report = report.replace(":", " :")
    marks = _MARKS_BUT_COLONS if keep_colons else _MARKS
    sentences = report.strip().lower().split(". ")
    # Marks go after the outer spaces, so that a lone mark may leave a space behind.
    words = (sentence.translate(_QUOTES).strip().translate(marks) for sentence in sentences)
    return " . ".join(words) + " ."


def _clean_r2gen_mimic(report: str, *, keep_colons: bool = False) -> str:
    return _clean_r2gen(report.replace("\n", " "), _MIMIC_HALVINGS, keep_colons=keep_colons)


def _clean_plain(report: str) -> str:
    tokens = (match.group(1) or match.group(0) for match in _PLAIN_TOKEN.finditer(report.lower()))
    return " ".join(tokens)


CLEANERS: Mapping[str, Callable[[str], str]] = {
    "r2gen_iu": partial(_clean_r2gen, halvings=_IU_HALVINGS),
    "r2gen_mimic": _clean_r2gen_mimic,
    "r2gengpt_mimic": partial(_clean_r2gen_mimic, keep_colons=True),
    "plain": _clean_plain,
}


def get_cleaner(name: str) -> Callable[[str], str]:
    """The cleaner of that name; each lower-cases and separates words by spaces.

    `r2gen_iu` and `r2gen_mimic` are the published ones, `r2gengpt_mimic` is the second with colons
    kept, a space before each; `plain` keeps all numbers, units and marks. Of a text of two sections
    each is cleaned by itself.
    """
    if name not in CLEANERS:
        raise DataError(f"no report cleaner is called '{name}'; there are: {', '.join(CLEANERS)}")
    return partial(change_sections, CLEANERS[name])


def target_text(sections: Mapping[str, str], target: str) -> str:
    """The raw text that a model is to write for a study, stripped; empty where it has none.

    "both" is findings, then impression, one of which may be missing; without either, the last
    paragraph, as in the files by which MIMIC-CXR's sections and labels were made. In
    "findings_impression" a marker stands between them, see `radrep.sections`.
    """
    if target == TWO_SECTIONS:
        return join_sections(*(sections.get(name, "").strip() for name in SECTIONS))
    if target not in TARGETS:
        raise DataError(
            f"the target '{target}' is not one of {', '.join((*TARGETS, TWO_SECTIONS))}"
        )
    names = SECTIONS if target == "both" else (target,)
    texts = [text for name in names if (text := sections.get(name, "").strip())]
    if not texts and target == "both":
        return sections.get("last_paragraph", "").strip()
    return " ".join(texts)
