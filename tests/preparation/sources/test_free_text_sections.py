from collections.abc import Callable

import numpy as np
import pytest

from radrep.preparation.sources.free_text_sections import parse_report
from radrep.preparation.sources.mimic_sections import parse_sections
from tests.runaway import no_runaway

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
    "HTML paragraphs": (lambda name: f"<p>{name}: ", "</p>"),
    "Windows": (lambda name: f"{name}: ", "\r\n"),
    "escaped": (lambda name: f"{name}: ", "\\n"),
    "dash, one line": (lambda name: f"{name} - ", " "),
    "full stop, one line": (lambda name: f"{name}. ", " "),
    "colon and dash": (lambda name: f"{name.upper()}:- ", "\n"),
    "ruled": (lambda name: f"{name}\n=======\n", "\n\n"),
    "mixed case, one line, no colon": (lambda name: f"{name} ", " "),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(4))
def test_sections_are_the_same_in_every_style(style, seed):
    draw = np.random.default_rng(seed)
    wanted = [name for name in PARTS if draw.random() < 0.8 or name in PARTS[2:]]
    # What begins with a heading is none only where a mark would have to follow it.
    bare = ("no colon", "alone", "ruled")
    sentences = SENTENCES[:6] if any(word in style for word in bare) else SENTENCES
    texts = {name: " ".join(draw.choice(sentences, draw.integers(1, 4))) for name in wanted}
    heading, between = STYLES[style]
    report = between.join(heading(name) + text for name, text in texts.items())
    assert parse_report(report).sections == {name.lower(): text for name, text in texts.items()}


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
    assert parse_report(report).sections == {"findings": report}
    assert parse_report("  ").sections == {}


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
          "findings": "Heart normal.\n\nLungs clear."}),
        ("Findings:\nImpression: Normal.", {"impression": "Normal."}),
    ],
)  # fmt: skip
def test_what_stands_around_findings_and_impression(report, sections):
    assert parse_report(report).sections == sections


TEXTS = {
    "indication": ("Cough and fever.", "54 year old man with chest pain, evaluate for\nCHF."),
    "findings": ("The lungs are clear. The heart is normal.", "Lungs clear: no effusion.\nStable."),
    "impression": ("Normal chest.", "No acute disease.\nFollow up."),
}
# Headings of indication, findings and impression; "" for none.
HEADINGS = [
    ("Clinical history: ", "Report: ", "Conclusion: "),
    ("CLINICAL DETAILS: ", "REPORT: ", "OPINION: "),
    ("Clinical data: ", "DESCRIPTION: ", "OPINION: "),
    ("Indication: ", "Chest X-ray: ", "Impression: "),
    ("Indication: ", "XR CHEST (PA AND LATERAL): ", "IMPRESSION: "),
    ("Reason for referral: ", "RADIOLOGIC FINDINGS: ", "DIAGNOSIS: "),
    ("Diagnosis: ", "Findings: ", "Final Impression: "),
    ("HISTORY - ", "FINDINGS - ", "CONCLUSION - "),
    ("Clinical findings: ", "Interpretation: ", "Impression and plan: "),
    ("Indication: ", "", "Impression: "),
    ("Indication: ", "", None),
    ("Indication: ", "Narrative: ", None),
    ("Clinical info: ", "Observation: ", "Comment: "),
    ("CLINICAL HX: ", "FINDING(S): ", "IMPRESSION(S): "),
    ("Dx: ", "Findings = ", "Impression = "),
    ("Indikation: ", "Befund: ", "Beurteilung: "),
    ("Indicaci\u00f3n: ", "HALLAZGOS: ", "CONCLUSI\u00d3N: "),
    ("Indication: ", "R\u00e9sultats : ", "Conclusion : "),
    ("Indication: ", "IMAGE: ", "Impression: "),
    ("<indication>", "</indication><findings>", "</findings><impression>"),
]


@pytest.mark.parametrize("headings", HEADINGS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_findings_hold_the_text_of_findings_only(headings, seed):
    draw = np.random.default_rng(seed)
    texts = {name: str(draw.choice(found)) for name, found in TEXTS.items()}
    texts = {n: t for (n, t), head in zip(texts.items(), headings, strict=True) if head is not None}
    report = "\n".join(head + text for head, text in zip(headings, texts.values(), strict=False))
    found = parse_report(report)
    assert not found.is_unclear
    assert found.sections == texts


def test_organs_are_headings_of_findings_where_there_are_no_others():
    for organs in ("Lungs: Clear.\nHeart and vessels: Normal.", "LUNGS: Clear.\nBONES: Old."):
        report = f"Indication: Cough\n{organs}\nImpression: Well."
        expected = {"indication": "Cough", "findings": organs, "impression": "Well."}
        assert parse_report(report).sections == expected


def test_unknown_headings_whose_text_describes_the_image_are_findings_together():
    report = (
        "EXAM: Film.\nRIGHT SIDE: Clear lung.\nLEFT SIDE: Small effusion.\nIMPRESSION: Effusion."
    )
    found = "RIGHT SIDE: Clear lung.\nLEFT SIDE: Small effusion."
    assert parse_report(report).sections["findings"] == found
    report = "Examination: Chest\nThe lungs are clear.\nImpression: Normal."
    assert parse_report(report).sections["findings"] == "The lungs are clear."
    report = "Examination: Chest. Stents in place. Impression: Normal."
    assert "findings" not in parse_report(report).sections
    report = "Stents in place. Impression: Normal."
    assert parse_report(report).sections["findings"] == "Stents in place."


@pytest.mark.parametrize("before", ["Indication: Cough.", "Comparison: None.", "History: Fever."])
def test_text_that_only_a_sentence_sets_off_is_kept_whole_and_unclear(before):
    report = f"{before} The lungs are clear. Stable."
    for rest, more in (("", {}), (" Impression: Well.", {"impression": "Well."})):
        found = parse_report(report + rest)
        assert found.is_unclear
        assert found.sections == {"findings": report, **more}
    for asked in ("Evaluate for pleural effusion.", "Known heart failure.", "Is the heart normal?"):
        found = parse_report(f"{before} {asked}\nHistory of pleural effusion.")
        assert not found.is_unclear
        assert "findings" not in found.sections


def test_reports_of_mimic_cxr_are_split_as_by_its_own_parser(data_dir):
    paths = sorted((data_dir / "mimic_cxr_like").glob("files/*/*/*.txt"))
    assert len(paths) == 120
    for path in paths:
        text = path.read_text(encoding="utf-8")
        strict, free = parse_sections(text), parse_report(text)
        # One has its findings behind those words of the comparison.
        assert free.is_unclear == ("COMPARISON:  XXXX, XXXX. A thoracolumbar" in text)
        names = ("findings", "impression", "indication", "comparison")
        for name in names[1:3] if free.is_unclear else names:
            assert free.sections.get(name, "").split() == strict.get(name, "").split(), path


@pytest.mark.parametrize(
    "unit",
    [
        "*",
        "_",
        "#",
        "findings ",
        "FINDINGS: ",
        "a: ",
        "comment: ",
        "**findings** ",
        "chest x-ray: ",
    ],
)
def test_time_grows_with_the_length_of_a_report(unit):
    text = "right effusion " + unit * (50_000 // len(unit)) + "findings"
    with no_runaway(5):
        parse_report(text)
