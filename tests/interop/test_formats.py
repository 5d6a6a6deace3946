"""One command: a folder of mixed films to reports, findings, FHIR and DICOM SR."""

import json
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from radrep.data.dicom.identity import read_identity
from radrep.guidance.editing import WrittenReport
from radrep.inference import generator
from radrep.interop import formats
from tests.interop.rows import check_row
from tests.interop.test_fhir import read_bundle
from tests.reporting.mixed_films import (
    BROKEN,
    ROOT_UID,
    add_broken,
    contents,
    draw_films,
    rows_of,
    write_again,
    write_film,
)
from tests.whole_way import radrep, start_radrep

BOTH = ("--format", "fhir", "--format", "dicom-sr")


def check_written(out: Path, num: int) -> None:
    """Read back the rows, each FHIR bundle and SR, and the list of broken files."""
    from tests.interop.test_dicom_sr import texts

    rows = rows_of(out)
    assert len(rows) == num
    bundles = [read_bundle(path.read_bytes()) for path in (out / "fhir").iterdir()]
    reports = {b["DiagnosticReport"][0]["identifier"][0]["value"]: b for b in bundles}
    assert reports.keys() == rows.keys()
    for study, row in rows.items():
        check_row(row)
        (report,) = reports[study]["DiagnosticReport"]
        assert report["conclusion"].startswith(row["report"])
        assert len(reports[study].get("Observation", [])) == len(row["findings"])
        assert ("imagingStudy" in report) == study.startswith(ROOT_UID)
    documents = {path.stem: dcmread(path) for path in (out / "dicom-sr").iterdir()}
    assert documents.keys() == {study for study in rows if study.startswith(ROOT_UID)}
    for study, document in documents.items():
        assert document.StudyInstanceUID == study
        assert document.PatientName == "Müller^Änne"
        assert rows[study]["report"] in " ".join(text for _, text in texts(document))
    left_out = (out / "left_out.jsonl").read_text().splitlines()
    assert {json.loads(line)["image"] for line in left_out} == {*BROKEN}


def test_mixed_films_become_reports_findings_fhir_and_dicom_sr(
    trained_run: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fhir.resources", reason="fhir.resources is not installed: radrep[fhir]")
    pytest.importorskip("highdicom", reason="highdicom is not installed: radrep[dicom]")
    films, out = draw_films(tmp_path / "films", 36), tmp_path / "reports"
    add_broken(films)
    words = ("generate", films, "--checkpoint", trained_run, *BOTH)
    result = radrep(*words, "--out", out)
    assert result.exit_code == 2, result.output
    assert f"{out / 'fhir'} has 36 documents." in result.stdout
    assert f"{out / 'dicom-sr'} has 12 documents; the others have no DICOM films" in result.stdout
    check_written(out, 36)
    assert "36 of 40" in result.stdout
    again = radrep(*words, "--out", out)
    assert "40 of 40 studies are done already" in again.stderr


@pytest.mark.parametrize(
    "num", [pytest.param(150, marks=pytest.mark.slow), pytest.param(2000, marks=pytest.mark.soak)]
)
def test_a_killed_command_goes_on_and_makes_the_same_bytes(
    num: int, trained_run: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """With several processes that read, of which none is left."""
    pytest.importorskip("fhir.resources", reason="fhir.resources is not installed: radrep[fhir]")
    pytest.importorskip("highdicom", reason="highdicom is not installed: radrep[dicom]")
    films, out = draw_films(tmp_path / "films", num), tmp_path / "reports"
    num_files = len([*films.iterdir()]) + len(add_broken(films))
    words = ("generate", films, "--checkpoint", trained_run, *BOTH)
    wall, cpu = time.monotonic(), processor_seconds()
    done = 0
    for number in (signal.SIGKILL, signal.SIGINT):
        process, deadline = start_radrep(*words, "--out", out), time.monotonic() + num
        least = done + max(1, num // 100)
        while (done := len([*out.glob("*.done.json")])) < least:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline + 300
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=120)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130)
        for path in out.rglob("*.jsonl"):
            assert all(json.loads(line) for line in path.read_text().splitlines())
    assert 0 < len(rows_of(out)) < num
    process = start_radrep(*words, "--out", out)
    _, error = process.communicate(timeout=300 + num)
    assert process.returncode == 2, error
    assert all(name in error for name in BROKEN)
    wall, cpu = time.monotonic() - wall, processor_seconds() - cpu
    record_property("counted", f"{num_files:,} files, {wall:.0f} s, processor {cpu:.0f} s")
    check_written(out, num)
    write_again(out, tmp_path / "at once", *words)
    assert contents(out) == contents(tmp_path / "at once")


def processor_seconds() -> float:
    """What ended processes of this one have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_stored_findings_have_places(
    trained_run: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a known report, whose words attend to the upper right of a map of 2 by 2."""
    text = "small left pleural effusion . no pneumothorax ."
    attention = np.zeros((len(text.split()), 1, 2, 2))
    attention[:, :, 0, 1] = 1

    def explain(loaded: Any, batch: Any, *rest: Any, **options: Any) -> Any:
        return [(WrittenReport(text, draft=text), attention) for _ in batch.ids]

    monkeypatch.setattr(generator, "explain_reports", explain)
    result = radrep("generate", *films, "--checkpoint", trained_run, "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.split("\n")[:-1]]
    assert len(rows) == len(films)
    for row, film in zip(rows, films, strict=True):
        check_row(row)
        found = {finding["observation"]: finding for finding in row["findings"]}
        effusion, place = found["Pleural Effusion"], found["Pleural Effusion"]["place"]
        assert (effusion["state"], effusion["side"], effusion["size"]) == (
            "positive", "left", "small",
        )  # fmt: skip
        assert (place["image"], place["map"], place["x"], place["y"]) == (
            str(film), "attention", 0.75, 0.25,
        )  # fmt: skip
        assert found["Pneumothorax"]["state"] == "negative"
        assert found["Pneumothorax"]["place"] is None


@pytest.mark.parametrize("name", ["fhir", "dicom-sr"])
def test_what_is_not_installed_is_named(
    name: str, trained_run: Path, films: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda module: None)
    out = ("--out", tmp_path / "reports", "--format", name)
    result = radrep("generate", films[0], "--checkpoint", trained_run, *out)
    assert result.exit_code == 2
    extra = {"fhir": "fhir", "dicom-sr": "dicom"}[name]
    assert f"pip install 'radrep[{extra}]'" in result.stderr.replace("\n", " ")
    assert not (tmp_path / "reports").exists()


def test_a_format_that_is_not_known_or_has_no_folder_is_refused(
    trained_run: Path, films: list[Path], tmp_path: Path
) -> None:
    words = ("generate", films[0], "--checkpoint", trained_run, "--format")
    unknown = radrep(*words, "hl7", "--out", tmp_path / "reports")
    assert "--format must be fhir or dicom-sr, got 'hl7'" in unknown.stderr
    if formats.find_spec("fhir"):
        assert "add --out DIR" in radrep(*words, "fhir").stderr


def test_the_identity_of_a_film_is_read_with_its_character_set(tmp_path: Path) -> None:
    from tests.data.dicom.drawing import GREY

    path = write_film(tmp_path / "a.dcm", GREY, study=4)
    found = read_identity(path)
    assert found is not None
    assert found["PatientName"] == "Müller^Änne"
    assert found["StudyInstanceUID"] == f"{ROOT_UID}.5"
    path.write_bytes(b"no DICOM")
    assert read_identity(path) is None
