"""The text of a report: its sections and its labels."""

from pathlib import Path

from radrep.metrics.labeler import OBSERVATIONS, label_report
from radrep.preparation.sources.free_text_sections import parse_report
from radrep.preparation.sources.mimic_sections import parse_sections


def read(file: Path) -> None:
    text = file.read_text(encoding="utf-8", errors="replace")
    found = label_report(text)
    assert set(found.states) == set(OBSERVATIONS)
    found.explain(text)
    for sections in (parse_report(text).sections, parse_sections(text)):
        assert all(map(str.strip, sections.values()))
