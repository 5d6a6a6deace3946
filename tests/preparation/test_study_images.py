from pathlib import Path

import pytest

from radrep.preparation.sources.folder.source import FolderSource
from radrep.preparation.study_images import PlannedStudy, make_images
from tests.data.dicom.drawing import DEEP, draw
from tests.whole_way import radrep

BESIDE = {"WindowCenter": "9000", "WindowWidth": "100"}


def test_what_was_chosen_in_reading_an_image_is_noted(tmp_path):
    (tmp_path / "a.dcm").write_bytes(draw(DEEP, elements=BESIDE))
    (study,) = FolderSource(tmp_path)
    made = make_images(PlannedStudy(study, 0, None), 32, "all")
    ((name, note),) = made.notes
    assert name == "a.dcm"
    assert note.endswith("its window leaves no picture and is not used (center 9000, width 100)")
    assert len(made.images) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_prepare_counts_notes_by_kind_and_takes_dicom_without_a_preamble(tmp_path, workers):
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(3):
        elements = BESIDE | {"PatientID": f"p{number}", "StudyInstanceUID": f"1.2.{number}"}
        elements["WindowCenter"] = str(9000 + number)
        film = draw(DEEP // (number + 1) + number, elements=elements, start=b"", meta=False)
        (raw / f"IM{number}").write_bytes(film)
    (raw / "readme").write_text("no image")
    out = tmp_path / "out"
    for _ in ("prepared", "was prepared before"):
        result = radrep("prepare", "folder", "--raw", raw, "--out", out, "--workers", workers)
        assert result.exit_code == 0, result.output
        assert "3 images, 3 of them DICOM" in result.stdout
        kind = "note: 3 images: its window leaves no picture and is not used (the first: "
        assert f"{kind}{Path(raw, 'IM')}" in result.stdout
