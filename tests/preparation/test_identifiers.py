"""Texts that look like what de-identification removes."""

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrep.preparation.identifiers import find_kinds
from radrep.preparation.pipeline import prepare
from radrep.preparation.sources.folder.source import FolderSource
from tests.runaway import no_runaway
from tests.whole_way import radrep, write_films

FOUND = {
    "names": (
        "Findings were discussed with Dr. Smith.",
        "Discussed with John O'Brien by phone.",
        "Dictated by Anna Lee, M.D.",
        "Mrs. Miller has a pacemaker.",
        "PATIENT NAME: Jane Doe",
        "FINDINGS DISCUSSED WITH DR. SMITH AT 3 PM.",
        "DICTATED BY: JOHN SMITH",
        "JOHN A. SMITH, M.D.",
        "PATIENT NAME: DOE, JANE",
        "Name: DOE^JANE",
        "Dr. van der Berg was called.",
    ),
    "phone numbers": ("Call 555-123-4567.", "Tel (555) 123-4567", "pager 31234", "+1 555 123-4567"),
    "record numbers": (
        "MRN: 1234567",
        "Accession number A123456",
        "SSN 123-45-6789",
        "mrn 00012345",
        "MR# 123456",
        "Acc: 12345678",
    ),
    "dates": ("2019-03-14T10:22:00", "Compared to March 14th.", "as on DEC. 3", "14/3/19"),
}
NOTHING = (
    "The heart is normal in size. No pneumothorax. ",
    "Nodule of 3-4 mm at T10-11; 12.5 x 3.4 cm; ratio 1/2; T5/6 fusion.",
    "Comparison XXXX. Discussed with Dr. XXXX at XXXX a.m. on ___.",
    "discussed with dr ___ by phone at 3:15 pm on ___.",
    "Stable since May. Ribs 4-6 on the right. Read by the team.",
    "Two views, PA and lateral. S/P CABG. ET tube 4.5 cm above the carina.",
    "Patient rotated. Right IJ catheter. Right ext rotation",
    "DR. XXXX WAS NOTIFIED. READ BY: XXXX XXXX. XXXX XXXX, M.D. READ BY THE TEAM. DR CHEST PA.",
    "A nodule, may 3 mm. Mar 4 cm. 20 of 20190350.",
)
DATES = ("%Y-%m-%d", "%m/%d/%Y", "%m/%d/%y", "%d.%m.%Y", "%B %d, %Y", "%d %b %Y", "%b. %d, %Y")
DATES += ("%Y%m%d", "%d-%b-%Y", "%d-%b-%y")


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, texts in FOUND.items() for t in texts])
def test_identifiers_are_found(kind: str, text: str) -> None:
    assert kind in find_kinds(text)


@pytest.mark.parametrize("text", NOTHING)
def test_reports_without_any_have_none(text: str) -> None:
    assert list(find_kinds(text)) == []


@given(st.dates(date(1900, 1, 1), date(2099, 12, 31)), st.sampled_from(DATES))
def test_dates_are_found_however_written(day: date, form: str) -> None:
    assert "dates" in find_kinds(f"Compared with {day.strftime(form)}, no change.")


@pytest.mark.parametrize(
    "part", ["Aa-", "a-", "name: Aa ", "A'", "1 of june ", "AA ", "DR. A. ", "Dr. A. ", "2019"]
)
def test_the_time_grows_with_the_length_of_a_text(part: str) -> None:
    with no_runaway(5):
        list(find_kinds("A" + part * 30_000))


def test_of_iu_x_ray_only_days_that_its_makers_left_are_found(data_dir: Path) -> None:
    import csv

    with (data_dir / "iu_xray/indiana_reports.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 3_261
    found = [text for row in rows for text in row.values() if list(find_kinds(text))]
    assert len(found) == 11
    assert all("2V FRONTAL/LATERAL Sept " in text for text in found)


def test_data_check_counts_them_and_shows_none(phantoms: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    films = write_films(phantoms, raw)
    reports = ("Normal.", "Seen by Dr. Ochsenknecht on 3/4/2019.", "MRN 7654321.", "Clear.")
    pairs = enumerate(zip(films, reports, strict=True))
    lines = [f"{film.name},s{number},train,{text}" for number, (film, text) in pairs]
    (raw / "reports.csv").write_text("\n".join(["image,study_id,split,findings", *lines]))
    prepare(FolderSource(raw), tmp_path / "data", image_size=64, workers=1)
    result = radrep("data", "check", tmp_path / "data")
    assert result.exit_code == 0, result.output
    shown = [line for line in result.stdout.splitlines() if line.startswith("identifiers")]
    assert shown == [
        "identifiers 1 reports seem to have dates, the first of s1 in train",
        "identifiers 1 reports seem to have names, the first of s1 in train",
        "identifiers 1 reports seem to have record numbers, the first of s2 in train",
    ]
    for text in ("Ochsenknecht", "7654321", "3/4/2019"):
        assert text not in result.output
