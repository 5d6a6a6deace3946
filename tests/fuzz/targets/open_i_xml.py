"""A report of Open-i."""

from pathlib import Path

from radrep.preparation.sources.iu_xray.reports import read_reports


def read(file: Path) -> None:
    folder = file.with_name("ecgen-radiology")
    folder.mkdir(exist_ok=True)
    file.replace(folder / "1.xml")
    (report,) = read_reports([folder]).values()
    assert report.problem is None or not report.sections
