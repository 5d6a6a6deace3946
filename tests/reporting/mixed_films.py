"""A folder of films as hospitals have them: PNG, JPEG and DICOM, some of them broken."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from radrep.preparation.sources.phantom.source import draw_study
from tests.data.dicom.drawing import write_dicom
from tests.whole_way import radrep

ROOT_UID = "1.2.826.0.1.3680043.8.498"
KINDS = ("png", "jpg", "dcm")
BROKEN = ("cut.png", "page.jpg", "empty.dcm", "header.dcm")


def draw_films(folder: Path, num: int, size: int = 64) -> Path:
    """Draw `num` phantoms in turn as PNG, JPEG and DICOM, two files of each second DICOM study."""
    folder.mkdir(parents=True)
    for number in range(num):
        pixels = draw_study(7, number, size)
        path = folder / f"film{number:04d}.{KINDS[number % len(KINDS)]}"
        if path.suffix != ".dcm":
            Image.fromarray(pixels).save(path)
            continue
        write_film(path, pixels, study=number)
        if number % 2:
            write_film(path.with_name(f"film{number:04d}b.dcm"), pixels[:, ::-1], study=number)
    return folder


def write_film(path: Path, pixels: np.ndarray, *, study: int) -> Path:
    """A radiograph of a patient and a study, as DICOM."""
    uid = f"{ROOT_UID}.{study + 1}"
    elements = {
        "StudyInstanceUID": uid,
        "SeriesInstanceUID": f"{uid}.1",
        "PatientID": f"P{study}",
        "PatientName": "Müller^Änne",
        "PatientBirthDate": "19500102",
        "PatientSex": "F",
        "StudyDate": "20260102",
        "StudyTime": "101112",
        "StudyID": str(study),
        "AccessionNumber": f"A{study}",
        "ViewPosition": "PA",
        "SpecificCharacterSet": "ISO_IR 192",
    }
    return write_dicom(path, pixels, **elements)


def add_broken(folder: Path) -> list[Path]:
    """Four files that are no whole radiograph, by the names of `BROKEN`."""
    cut, page, empty, header = (folder / name for name in BROKEN)
    Image.fromarray(draw_study(7, 1000, 64)).save(cut)
    cut.write_bytes(cut.read_bytes()[:900])
    page.write_text("<!doctype html><p>Please log in")
    empty.touch()
    write_film(header, draw_study(7, 1001, 64), study=1001)
    header.write_bytes(header.read_bytes()[:600])
    return [cut, page, empty, header]


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows = [
        json.loads(line)
        for path in sorted(out.glob("part-*.jsonl"))
        for line in path.read_text().split("\n")[:-1]
    ]
    assert len({row["study"] for row in rows}) == len(rows), "no study has two reports"
    return {row["study"]: row for row in rows}


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def write_again(out: Path, copy: Path, *words: str | Path) -> None:
    """Write the reports in one go into another folder, as if begun at the same time."""
    copy.mkdir()
    record = json.loads((out / "generated.json").read_text())
    (copy / "generated.json").write_text(json.dumps({**record, "finished": False}))
    assert radrep(*words, "--out", copy).exit_code in (0, 2)
