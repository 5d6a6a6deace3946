"""DICOM SR files, read back by pydicom and highdicom."""

import io
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import BasicTextSRStorage

from radrep.interop.document import NOTICE, Document
from tests.interop.clock import shift_clock
from tests.interop.rows import EFFUSION, PNEUMOTHORAX, make_row

pytest.importorskip("highdicom", reason="highdicom is not installed: radrep[dicom]")

FILM = {
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.1",
    "SOPInstanceUID": "1.2.3.1.1",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1",
    "PatientID": "P1",
    "PatientName": "山田^太郎",
    "PatientBirthDate": "19500102",
    "PatientSex": "F",
    "StudyDate": "20260102",
    "StudyTime": "101112",
    "StudyID": "7",
    "AccessionNumber": "A7",
    "ReferringPhysicianName": "",
}


def make_sr(*films: Any, row: Any = None) -> Any:
    from radrep.interop.formats import write_documents

    document = Document(row or make_row(EFFUSION, PNEUMOTHORAX), films)
    written = write_documents(["dicom-sr"], document, pytest.fail)
    return dcmread(io.BytesIO(written["dicom-sr/1.2.3.dcm"])) if written else None


def texts(report: Any) -> list[tuple[str, str]]:
    """Name and text of every item, in order; the content is one that highdicom reads."""
    from highdicom.sr import ContentSequence

    assert ContentSequence.from_sequence(report.ContentSequence, is_root=False)

    def walk(items: Any) -> Any:
        for item in items:
            name = item.ConceptNameCodeSequence[0].CodeMeaning
            yield name, str(item.get("TextValue", ""))
            yield from walk(item.get("ContentSequence", ()))

    return list(walk(report.ContentSequence))


def test_the_report_belongs_to_the_study_of_its_films() -> None:
    second = FILM | {"SOPInstanceUID": "1.2.3.1.2"}
    report = make_sr(FILM, second)
    assert report.SOPClassUID == report.file_meta.MediaStorageSOPClassUID == BasicTextSRStorage
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate"):
        assert report[keyword].value == FILM[keyword]
    assert report.SeriesInstanceUID != FILM["SeriesInstanceUID"]
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    seen = [each.ReferencedSOPInstanceUID for each in series.ReferencedSOPSequence]
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.3", "1.2.3.1")
    assert seen == ["1.2.3.1.1", "1.2.3.1.2"]


def test_it_is_preliminary_by_a_device_and_not_for_clinical_use() -> None:
    report = make_sr(FILM)
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.Manufacturer == "radrep"
    assert "Not for clinical use" in report.SeriesDescription
    found = texts(report)
    assert ("Comment", NOTICE) in found
    assert ("Device Observer Model Name", "ab" * 32) in found
    assert report.ContentSequence[1].ConceptCodeSequence[0].CodeMeaning == "Device"


def test_it_has_every_sentence_and_finding() -> None:
    found = texts(make_sr(FILM))
    assert [text for name, text in found if name == "Finding"] == [
        "Small left effusion.",
        "<No> pneumothorax & ?.",
    ]
    line = next(text for _, text in found if text.startswith("Pleural Effusion"))
    assert line.startswith("Pleural Effusion: positive, left, small, predicted probability 0.90, ")
    assert "sentence inserted by software" in line
    assert ("Comment", "Pneumothorax: negative") in found


def test_a_report_without_sentences_is_whole() -> None:
    assert ("Comment", "None.") in texts(make_sr(FILM, row=make_row(sentences=[], report="")))


def test_headers_as_hospitals_have_them_are_taken(
    recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    from radrep.interop.formats import write_documents

    odd = {
        "PatientBirthDate": "1950-01-02",
        "PatientSex": "female",
        "StudyDate": "unknown",
        "StudyTime": "10:11",
        "AccessionNumber": "A" * 30,
        "PatientName": "anonymous",
    }
    document = Document(make_row(EFFUSION), [FILM | odd])
    (content,) = write_documents(["dicom-sr"], document, pytest.fail).values()
    assert not recwarn.list
    assert not caplog.records
    report = dcmread(io.BytesIO(content))
    assert (report.PatientBirthDate, report.PatientSex, report.StudyDate) == ("", "", "")
    assert report.get_item("AccessionNumber").value.strip() == b"A" * 30
    assert report.PatientName == "anonymous"


@pytest.mark.parametrize(
    ("keyword", "value", "written"),
    [
        ("PatientBirthDate", "00000000", ""),
        ("PatientBirthDate", "19500000", ""),
        ("StudyDate", "20260231", ""),
        ("StudyTime", "24", ""),
        ("StudyTime", "256199", ""),
        ("StudyTime", "101", ""),
        ("StudyTime", "1011", "1011"),
        ("StudyTime", "101112.5", "101112.5"),
    ],
)
def test_dates_and_times_that_do_not_exist_are_left_empty(
    keyword: str, value: str, written: str
) -> None:
    report = make_sr(FILM | {keyword: value})
    assert (str(report[keyword].value), report.PatientID) == (written, "P1")


@pytest.mark.parametrize("refused", ["SOP class", "anything"])
def test_films_that_highdicom_refuses_have_no_sr_and_a_warning(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from highdicom import sr

    from radrep.interop.formats import write_documents

    def fail(*args: Any, **kwargs: Any) -> None:
        raise TypeError("odd header")

    film, reason = FILM | {"SOPClassUID": "1.2.840.113619.4.26"}, "SOP class 1.2.840.113619.4.26"
    if refused == "anything":
        film, reason = FILM, "TypeError: odd header"
        monkeypatch.setattr(sr, "EnhancedSR", fail)
    warned: list[str] = []
    assert not write_documents(["dicom-sr"], Document(make_row(), [film]), warned.append)
    (line,) = warned
    assert line.startswith("1.2.3 has no dicom-sr: highdicom refuses the headers")
    assert reason in line


@pytest.mark.parametrize(
    "films",
    [
        (),
        (None,),
        (FILM, None),
        (FILM, FILM | {"StudyInstanceUID": "1.2.4"}),
        (FILM, FILM | {"PatientID": "P2"}),
    ],
    ids=["none", "no DICOM", "one of two", "two studies", "two patients"],
)
def test_films_that_are_not_of_one_study_have_no_sr(films: tuple[Any, ...]) -> None:
    assert make_sr(*films) is None


def test_the_same_report_gives_the_same_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from radrep.interop.dicom_sr import write_sr

    document = Document(make_row(EFFUSION), [FILM])
    now = write_sr(document)
    shift_clock(monkeypatch)
    assert write_sr(document) == now
