"""Reads cases.txt: texts and what a radiologist reads in them."""

import re
from dataclasses import dataclass
from pathlib import Path

from radrep.metrics.labeler import OBSERVATIONS

MARKS = {"+": "positive", "-": "negative", "?": "uncertain", "o": "absent"}
_EXPECTED = re.compile(r'\s*([^("]+?)\s*(?:\((left|right|bilateral)\))?\s*(?:"([^"]+)")?\s*')


@dataclass(frozen=True)
class Expected:
    observation: str
    state: str
    side: str | None
    cue: str | None


@dataclass(frozen=True)
class Case:
    theme: str
    text: str
    expected: tuple[Expected, ...]


def read_cases() -> list[Case]:
    cases = []
    theme, text = "", []
    for line in Path(__file__).with_name("cases.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("="):
            theme, text = line[1:].strip(), []
        elif line.startswith("    ") and theme:
            cases.append(Case(theme, "\n".join(text).strip("\n"), tuple(_read_expected(line))))
            text = []
        elif theme:
            text.append(line)
    return cases


def _read_expected(line: str) -> list[Expected]:
    expected = []
    for group in line.strip().split(";"):
        mark, names = group.split(maxsplit=1)
        for name in names.split(","):
            match = _EXPECTED.fullmatch(name)
            assert match, name
            assert match[1] in OBSERVATIONS, name
            expected.append(Expected(match[1], MARKS[mark], match[2], match[3]))
    return expected
