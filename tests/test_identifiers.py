"""Nothing that names people in the headers of films reaches what radrep writes."""

import base64
import csv
import re
import socket
from pathlib import Path

import pyarrow.parquet
import pydicom
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from radrep.data.manifest import read_shards
from radrep.data.store import PreparedStudies
from radrep.data.study import SPLITS, Study
from radrep.preparation.sources.phantom.source import PhantomSource, draw_study
from tests.data.dicom.drawing import write_dicom
from tests.reporting.mixed_films import ROOT_UID
from tests.whole_way import radrep, start_radrep, write_recipe

# All texts, names, dates and times of the data dictionary: more than PS3.15 lists (its table E.1-1)
# but for UIDs, which name no one and by which a report finds its study.
TEXTS = ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "AE", "UR")
TIMES = {"DA": "19370423", "DT": "19370423031417", "TM": "031417.2718", "AS": "089Y"}
PLANTED = re.compile(rb"ZQ[0-9A-Z]{8}|19370423|031417\.2718")


def plant(path: Path) -> Path:
    """Write a text of its own into each element of a file that can hold one."""
    dataset = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        for tag, (vr, *_) in DicomDictionary.items():
            if tag >> 16 > 2 and vr in (*TEXTS, *TIMES):
                dataset.add_new(tag, vr, TIMES.get(vr, f"ZQ{tag:08X}"))
        item = Dataset()
        item.PatientID = item.PatientName = "ZQSEQUENCE"
        dataset.OtherPatientIDsSequence = [item]
        dataset.private_block(0x0099, "ZQPRIVATES", create=True).add_new(1, "LO", "ZQPRIVATES")
        dataset.save_as(path)
    assert len(set(PLANTED.findall(path.read_bytes()))) > 700
    return path


def find_planted(*folders: Path, words: str = "") -> list[tuple[str, bytes]]:
    """What was planted, in any file below some folders and in what a command wrote."""
    found = [("output", each) for each in PLANTED.findall(words.encode())]
    for file in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        if file.suffix == ".parquet":
            content += repr(pyarrow.parquet.read_table(file).to_pylist()).encode()
        found += [(str(file), each) for each in PLANTED.findall(content + str(file).encode())]
    return found


def write_film(path: Path, number: int, *, study: int) -> Path:
    uid = f"{ROOT_UID}.{study + 1}"
    series = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "ViewPosition": "PA"}
    write_dicom(path, draw_study(7, number, 64), BurnedInAnnotation="YES", **series)
    return plant(path)


def read_studies(prepared: Path) -> list[Study]:
    splits = (split for split in SPLITS if read_shards(prepared, split))
    return [study for split in splits for study in PreparedStudies(prepared, split)]


def test_planted_words_are_found(tmp_path: Path) -> None:
    write_film(tmp_path / "a.dcm", 0, study=0)
    found = {each for _, each in find_planted(tmp_path)}
    assert {b"ZQ00100010", b"ZQ00100020", b"ZQSEQUENCE", b"ZQPRIVATES", b"19370423"} <= found
    assert find_planted(words="of ZQ00100010")


def test_a_prepared_folder_has_pseudonyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = tmp_path / "raw", tmp_path / "prepared"
    raw.mkdir()
    for number in range(3):
        write_film(raw / f"{number}.dcm", number, study=number)
    info = PngInfo()
    info.add_text("Comment", "ZQ00100010")
    Image.fromarray(draw_study(7, 3, 64)).save(raw / "3.png", pnginfo=info)
    exif = Image.Exif()
    exif[0x010E] = "ZQ00100010"
    Image.fromarray(draw_study(7, 4, 64)).save(raw / "4.jpg", exif=exif)
    words = ""
    for command in (
        ("prepare", "folder", "--raw", raw, "--out", out, "--section", "any"),
        ("data", "show", out),
        ("data", "check", out),
    ):
        result = radrep(*command)
        assert result.exit_code == 0, result.output
        words += result.output
    assert find_planted(out, words=words) == []
    assert "burnt into the pixels" in words
    studies = read_studies(out)
    assert len(studies) == 5
    (patient,) = {study.patient_id for study in studies} - {None}
    assert re.fullmatch(r"patient-[0-9a-f]{16}", patient)
    assert len({s.split for s in studies if s.patient_id}) == 1
    monkeypatch.setenv("RADREP_CACHE", str(tmp_path / "another user"))
    again = tmp_path / "again"
    radrep("prepare", "folder", "--raw", raw, "--out", again, "--section", "any")
    others = read_studies(again)
    assert {study.patient_id for study in others} - {None} != {patient}
    assert [study.split for study in others] == [study.split for study in studies]


def test_reports_have_none_of_it(trained_run: Path, tmp_path: Path) -> None:
    films, out = tmp_path / "films", tmp_path / "reports"
    films.mkdir()
    for number in range(3):
        write_film(films / f"{number}.dcm", number, study=number)
    (films / "3.dcm").write_bytes((films / "2.dcm").read_bytes()[:-1500])  # cut off
    words = ""
    options = ("--checkpoint", trained_run, "--seed", "1")
    for command in (
        (films, "--out", out, "--format", "fhir"),
        (films / "0.dcm", films / "1.dcm", films / "3.dcm", "--json"),
        (films / "0.dcm", "--json", "--heatmap", tmp_path / "reports/map.png"),
    ):
        result = radrep("generate", *command, *options)
        assert result.exit_code in (0, 2), result.output
        words += result.output
    assert "cut off" in words
    assert len(list(out.rglob("*.json"))) >= 4
    assert find_planted(out, words=words) == []


@pytest.mark.slow
def test_the_page_its_answers_and_its_log_have_none_of_it(
    trained_run: Path, tmp_path: Path
) -> None:
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    films = [write_film(tmp_path / f"{n}.dcm", n, study=n).read_bytes() for n in range(2)]
    coded = [base64.b64encode(film).decode() for film in (*films, films[0][:-1500], b"ZQ00100010")]
    whole, second, cut, text = ({"name": "film.dcm", "data": each} for each in coded)
    process = start_radrep("serve", trained_run, "--port", str(free_port()))
    assert process.stdout is not None
    printed = process.stdout.readline()
    try:
        place = re.search(r"http://\S+?(?=/)", printed)
        assert place, printed
        answers = [httpx.get(f"{place[0]}{path}") for path in ("/", "/page.js", "/about")]
        for given in ([whole], [whole, second], [cut], [text]):
            sent = {"films": given}
            answers.append(httpx.post(f"{place[0]}/report", json=sent, timeout=120))
        answers.append(httpx.post(f"{place[0]}/report", content=films[0]))
    finally:
        process.terminate()
        output, log = process.communicate(timeout=60)
    assert [answer.status_code for answer in answers] == [*[200] * 5, 422, 422, 415]
    assert "burnt into the pixels" in answers[3].text, "its header was read"
    words = "".join(f"{answer.headers}{answer.text}" for answer in answers)
    assert find_planted(words=words + printed + output + log) == []


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.slow
@pytest.mark.usefixtures("without_java")
def test_training_and_evaluation_have_none_of_it(tmp_path: Path) -> None:
    raw, prepared = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    source = PhantomSource(36, image_size=64, splits=(4 / 6, 1 / 6, 1 / 6))
    rows = []
    for number, study in enumerate(source):
        write_film(raw / f"{number}.dcm", number, study=number)
        rows.append((f"{number}.dcm", f"s{number}", study.split, study.sections["findings"]))
    with (raw / "reports.csv").open("w") as file:
        csv.writer(file).writerows([("image", "study_id", "split", "findings"), *rows])
    words = ""
    for command in (
        ("prepare", "folder", "--raw", raw, "--out", prepared),
        ("train", write_recipe(tmp_path, prepared)),
        ("eval", tmp_path / "run", "--split", "test"),
        ("data", "check", prepared),
    ):
        result = radrep(*command)
        assert result.exit_code == 0, result.output
        words += result.output
    assert (tmp_path / "run/report.html").is_file()
    assert find_planted(prepared, tmp_path / "run", tmp_path / "cache", words=words) == []
