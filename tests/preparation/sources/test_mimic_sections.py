import csv

import pytest

from radrep.preparation.sources.mimic_sections import parse_sections

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___F with new onset ascites  // eval for infection
 
 TECHNIQUE:  Chest PA and lateral
 
 COMPARISON:  None.
 
 FINDINGS: 
 
 There is no focal consolidation.
 
 No pneumothorax.
 
 IMPRESSION: 
 
 No acute process.
"""  # noqa: W291, W293


def lines(*texts: str) -> str:
    """A report as MIMIC-CXR has it: every line begins with a space."""
    return "".join(f" {text}\n" for text in ("FINAL REPORT", *texts))


def test_a_report_is_split_at_its_headings():
    assert parse_sections(REPORT) == {
        "examination": "CHEST (PA AND LAT)",
        "indication": "___F with new onset ascites  // eval for infection",
        "technique": "Chest PA and lateral",
        "comparison": "None.",
        "findings": "There is no focal consolidation.\n \n No pneumothorax.",
        "impression": "No acute process.",
    }


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_do_not_matter(end):
    assert parse_sections(REPORT.replace("\n", end)) == parse_sections(REPORT)


def test_a_report_that_lost_its_margin_is_split_all_the_same():
    stripped = "\n".join(line.strip() for line in REPORT.splitlines())
    sections = parse_sections(stripped)
    assert sections["impression"] == "No acute process."
    assert sections["findings"] == "There is no focal consolidation.\n\nNo pneumothorax."
    assert sections.keys() == parse_sections(REPORT).keys()
    assert parse_sections("FINDINGS: Clear.\nIMPRESSION:\nNormal.") == {
        "findings": "Clear.",
        "impression": "Normal.",
    }


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("IMPRESSION", "impression"),
        ("CONCLUSION", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/ IMPRESSION", "impression"),
        ("IMPRESSON", "impression"),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI)", "impression"),
        ("FINDING", "findings"),
        ("FINIDNGS", "findings"),
        ("OTHER FINDINGS", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PORTABLE AP CHEST RADIOGRAPH", "findings"),
        ("FRONTAL AND LATERAL VIEWS", "findings"),
        ("REASON FOR EXAM", "indication"),
        ("REASON FOR EXAMINATION", "indication"),
        ("HISTORY", "indication"),
        ("CLINICAL HISTORY", "indication"),
        ("CLINICAL INFORMATION", "indication"),
        ("NDICATION", "indication"),
        ("COMPARISONS", "comparison"),
        ("REFERENCE EXAM", "comparison"),
        ("COMPARISON TO PRIOR", "comparison"),
        ("EXAM", "examination"),
        ("RECOMMENDATION(S)", "recommendations"),
        ("WET READ", "wet_read"),
        ("WETREAD", "wet_read"),
        ("ADDENDUM", "addendum"),
        ("  TECHNIQUE  ", "technique"),
    ],
)
def test_headings_are_grouped(heading, name):
    assert parse_sections(lines(f"{heading}: Some words.", "")) == {name: "Some words."}


def test_headings_that_are_not_kept_still_end_a_section():
    report = lines("IMPRESSION:  Normal.", "", "NOTIFICATION:  Told Dr. ___ by phone.")
    assert parse_sections(report) == {"impression": "Normal."}


def test_words_in_the_running_text_are_no_headings():
    report = lines(
        "FINDINGS: As said under IMPRESSION: nothing.",
        "Findings: the same.",
        "Impression:  in small letters.",
        "TIME 10:30 is no heading, nor 3 CM: at all.",
    )
    sections = parse_sections(report)
    assert list(sections) == ["findings"]
    assert sections["findings"].endswith("nor 3 CM: at all.")


def test_no_heading_is_looked_for_where_one_has_just_ended():
    # The published parser does so too, "to avoid some bad parses".
    report = lines("FINDINGS:", "CHEST: Clear lungs.", "IMPRESSION: Normal.")
    assert parse_sections(report) == {"findings": "CHEST: Clear lungs.", "impression": "Normal."}


def test_the_last_of_several_that_says_something_counts():
    report = lines(
        "IMPRESSION: First.", "IMPRESSION: Second.", "FINDINGS: Body.", "CHEST, PA:", "",
        "COMPARISON: ___.", "COMPARISON:", "",
    )  # fmt: skip
    assert parse_sections(report) == {
        "impression": "Second.",
        "findings": "Body.",
        "comparison": "___.",
    }


def test_indications_and_histories_are_all_kept():
    report = lines("HISTORY: Smoker.", "INDICATION: Cough.", "IMPRESSION: Normal.")
    assert parse_sections(report)["indication"] == "Smoker.\nCough."


def test_wet_read_and_addendum_stay_apart_from_the_impression():
    report = lines(
        "WET READ: ___ ___ 5:10 PM", "no pneumothorax", "", "IMPRESSION: Small effusion.", "",
        "ADDENDUM: Discussed with Dr. ___.",
    )  # fmt: skip
    assert parse_sections(report) == {
        "impression": "Small effusion.",
        "addendum": "Discussed with Dr. ___.",
        "wet_read": "___ ___ 5:10 PM\n no pneumothorax",
    }


def test_without_findings_and_impression_the_last_paragraphs_are_kept():
    report = lines("COMPARISON: ___.", "", "Lungs are clear.", "", "Heart is normal.")
    assert parse_sections(report) == {
        "comparison": "___.",
        "last_paragraph": "Lungs are clear.\n \n Heart is normal.",
    }
    report = lines("IMPRESSION:", "", "COMPARISON: ___.", "", "Clear.")
    assert parse_sections(report)["last_paragraph"] == "Clear."
    assert "last_paragraph" not in parse_sections(lines("FINDINGS: Clear.", "", "Normal."))


def test_a_report_without_headings_has_what_follows_its_first_paragraph():
    assert parse_sections(lines("", "Clear lungs.")) == {"last_paragraph": "Clear lungs."}
    assert parse_sections("Clear lungs.") == {}
    assert parse_sections("") == {}
    assert parse_sections("\n \n ") == {}


def test_other_alphabets_and_marks_pass_through():
    report = lines("FINDINGS: Größe ~3 µm, “stable”; ___.", "ÉTAT: no heading.")
    assert parse_sections(report) == {"findings": "Größe ~3 µm, “stable”; ___.\n ÉTAT: no heading."}


def test_studies_of_mimic_cxr_whose_conclusion_no_heading_tells():
    under = lines("RECOMMENDATION(S): None.", "RECOMMENDATIONS: Clear lungs.", "")
    assert parse_sections(under, "s50913680")["impression"] == "Clear lungs."
    assert "impression" not in parse_sections(under, "s50913681")
    assert "impression" not in parse_sections(under)
    at = "x" * 59 + " Clear lungs. ".ljust(399 - 59) + "END"
    assert parse_sections(at, "s50196495") == {"impression": "Clear lungs."}
    assert parse_sections(lines("FINDINGS: None."), "s58235663") == {}


def test_sections_agree_with_a_published_table(data_dir):
    raw = data_dir / "mimic_cxr_like"
    texts = {path.stem: path.read_text(encoding="utf-8") for path in raw.glob("files/*/*/*.txt")}
    with (raw / "mimic_cxr_sectioned.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120
    for row in rows:
        sections = parse_sections(texts[row["study"]], row["study"])
        for name in ("findings", "impression", "last_paragraph"):
            assert sections.get(name, "") == row[name], row["study"]
        # The table leaves out what the text calls "None.".
        assert sections["comparison"] == (row["comparison"] or "None.")
