from collections.abc import Callable

import numpy as np
import pytest

from radrep.preparation.sources.free_text_sections import parse_report
from radrep.preparation.sources.mimic_sections import parse_sections

PARTS = ("Indication", "Comparison", "Findings", "Impression")
SENTENCES = (
    "The heart is normal in size.", "No focal consolidation; no effusion.", "Cough and fever.",
    "Tip 2.5 cm above the carina (unchanged).", "None.", "There is a 4 mm nodule: stable.",
    "1. No acute disease.", "Findings are consistent with edema.", "PICC line, right.",
)  # fmt: skip
# How a heading and its text may be put, and what stands between sections.
STYLES: dict[str, tuple[Callable[[str], str], str]] = {
    "capitals, lines": (lambda name: f"{name.upper()}: ", "\n"),
    "capitals, paragraphs": (lambda name: f"{name.upper()}:\n", "\n\n"),
    "capitals, one line": (lambda name: f"{name.upper()}: ", " "),
    "capitals, one line, no colon": (lambda name: f"{name.upper()} ", " "),
    "mixed case, lines": (lambda name: f"{name}: ", "\n"),
    "mixed case, one line": (lambda name: f"{name}: ", " "),
    "ReXrank": (lambda name: f"{name}:", ""),
    "small letters, lines": (lambda name: f"{name.lower()}: ", "\n"),
    "small letters, one line": (lambda name: f"{name.lower()}: ", " "),
    "alone on a line": (lambda name: f"{name}\n", "\n\n"),
    "alone in capitals": (lambda name: f"{name.upper()}\n", "\n"),
    "blank before the colon": (lambda name: f"{name} : ", "\n"),
    "dash": (lambda name: f"{name} - ", "\n"),
    "bold": (lambda name: f"**{name}:** ", "\n"),
    "bold, colon outside": (lambda name: f"**{name}**: ", "\n\n"),
    "bold, one line": (lambda name: f"**{name}:** ", " "),
    "bold alone": (lambda name: f"**{name}**\n", "\n\n"),
    "underlined": (lambda name: f"__{name}__: ", "\n"),
    "Markdown heading": (lambda name: f"## {name}\n", "\n\n"),
    "list": (lambda name: f"- {name}: ", "\n"),
    "numbered": (lambda name: f"{PARTS.index(name) + 1}. {name}: ", "\n"),
    "brackets": (lambda name: f"[{name.upper()}] ", " "),
    "HTML": (lambda name: f"<b>{name}:</b> ", "<br>"),
    "Windows": (lambda name: f"{name}: ", "\r\n"),
    "escaped": (lambda name: f"{name}: ", "\\n"),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(4))
def test_sections_are_the_same_in_every_style(style, seed):
    draw = np.random.default_rng(seed)
    wanted = [name for name in PARTS if draw.random() < 0.8 or name in PARTS[2:]]
    # What begins with a heading is none only where a mark would have to follow it.
    sentences = SENTENCES[:7] if "no colon" in style or "alone" in style else SENTENCES
    texts = {name: " ".join(draw.choice(sentences, draw.integers(1, 4))) for name in wanted}
    heading, between = STYLES[style]
    report = between.join(heading(name) + text for name, text in texts.items())
    assert parse_report(report) == {name.lower(): text for name, text in texts.items()}


@pytest.mark.parametrize(
    "report",
    [
        "Lungs are clear.\n\nHeart is large.",
        "There are no significant\nfindings to suggest pneumonia.",
        "Findings are consistent with edema. No impression of a mass.",
        "NO ACUTE FINDINGS. IMPRESSION NORMAL",
        "The comparison to prior is limited.",
        "Time 10:30. Ratio 1:2.",
    ],
)
def test_a_report_without_headings_is_all_findings(report):
    assert parse_report(report) == {"findings": report}
    assert parse_report("  ") == {}


@pytest.mark.parametrize(
    ("report", "sections"),
    [
        ("Indication: Cough Comparison: None", {"indication": "Cough", "comparison": "None"}),
        ("Heart normal. Lungs clear.\nImpression: Normal.",
         {"findings": "Heart normal. Lungs clear.", "impression": "Normal."}),
        ("CHEST RADIOGRAPH\nImpression: Normal.", {"impression": "Normal."}),
        ("FINDINGS:\nLUNGS: Clear.\nHEART: Normal.\nIMPRESSION: Well.\nDICTATED BY: Dr. X",
         {"findings": "LUNGS: Clear.\nHEART: Normal.", "impression": "Well."}),
        ("Findings: Clear.\nElectronically signed by: Dr. X", {"findings": "Clear."}),
        ("Reason for exam: Pain.\nFindings (PA view): Clear.\nConclusion: Well.",
         {"indication": "Pain.", "findings": "Clear.", "impression": "Well."}),
        ("FINDINGS/IMPRESSION: Normal chest.", {"impression": "Normal chest."}),
        ("EXAM: CHEST\nHISTORY: Cough\n\nHeart normal.\n\nLungs clear.",
         {"examination": "CHEST", "indication": "Cough",
          "last_paragraph": "Heart normal.\n\nLungs clear."}),
        ("Findings:\nImpression: Normal.", {"impression": "Normal."}),
    ],
)  # fmt: skip
def test_what_stands_around_findings_and_impression(report, sections):
    assert parse_report(report) == sections


def test_reports_of_mimic_cxr_are_split_as_by_its_own_parser(data_dir):
    paths = sorted((data_dir / "mimic_cxr_like").glob("files/*/*/*.txt"))
    assert len(paths) == 120
    for path in paths:
        text = path.read_text(encoding="utf-8")
        strict, free = parse_sections(text), parse_report(text)
        for name in ("findings", "impression", "indication", "comparison"):
            assert free.get(name, "").split() == strict.get(name, "").split(), path
