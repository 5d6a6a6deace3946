"""ReXGradient-160K in the layout of its repository, with invented content."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from radrep.data.store import PreparedStudies
from radrep.errors import DataError
from radrep.preparation.sources.rexgradient import RexGradientSource
from tests.whole_way import radrep


def path(patient: str, number: int) -> str:
    return f"../deid_png/{patient}/GRDNACC/studies/1.2/series/1.3/instances/1.{number}.png"


def row(patient: str, *views: str, **texts: Any) -> dict[str, Any]:
    return {
        "PatientID": patient,
        "AccessionNumber": "GRDNACC",
        "StudyInstanceUid": "1.2",
        "StudyDate": "20190102",
        "PatientSex": "F",
        "ImagePath": [path(patient, number) for number in range(len(views))],
        "ImageViewPosition": list(views),
    } | texts


ROWS = {
    "train": {
        "GRDN1_A": row("GRDN1", "PA", "LATERAL", Findings="Clear.", Impression="Normal.",
                       Indication="Cough", Comparison="None"),
        "GRDN1_B": row("GRDN1", "POSTERO_ANTERIOR", Findings="None", Impression="Effusion."),
    },
    "valid": {"GRDN2_A": row("GRDN2", "ANTERO_POSTERIOR", Findings="Large heart.")},
    "test": {"GRDN3_A": row("GRDN3", "UNKNOWN", Findings=float("nan"), Impression="Well.")},
}  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "ReXGradient-160K"
    (folder / "metadata").mkdir(parents=True)
    for split, rows in ROWS.items():
        text = json.dumps(rows)
        (folder / f"metadata/{split}_metadata_view_position.json").write_text(text)
        for study in rows.values():
            for name in study["ImagePath"]:
                file = folder / name.removeprefix("../")
                file.parent.mkdir(parents=True, exist_ok=True)
                seed = abs(hash(name)) % 2**32
                pixels = np.random.default_rng(seed).integers(0, 255, (70, 80), dtype=np.uint8)
                Image.fromarray(pixels).save(file)
    return folder


def test_studies_have_splits_patients_views_and_sections(raw: Path) -> None:
    source = RexGradientSource(raw)
    studies = {study.id: study for study in source}
    assert len(source) == len(studies) == 4
    assert [study.split for study in studies.values()] == ["train", "train", "val", "test"]
    first = studies["GRDN1_A"]
    assert first.patient_id == "GRDN1"
    assert first.order == 20190102
    assert first.sections == {"findings": "Clear.", "impression": "Normal.", "indication": "Cough"}
    views = {id_: [i.projection for i in study.images] for id_, study in studies.items()}
    assert views == {
        "GRDN1_A": ["frontal", "lateral"],
        "GRDN1_B": ["frontal"],
        "GRDN2_A": ["frontal"],
        "GRDN3_A": ["unknown"],
    }
    assert studies["GRDN1_B"].sections == {"impression": "Effusion."}
    assert first.images[0].read(256).shape == (70, 80)
    assert source.fingerprint() == RexGradientSource(raw).fingerprint()


def test_the_command_prepares_it_and_compares_with_a_complete_download(
    raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "data"
    result = radrep("prepare", "rexgradient", "--raw", raw, "--out", out, "--image-size", 64)
    assert result.exit_code == 0, result.output
    assert "-139,998 studies" in result.stdout
    assert [study.id for study in PreparedStudies(out, "train")] == ["GRDN1_A", "GRDN1_B"]
    assert "deid_png" in PreparedStudies(out, "val")[0].images[0].name


def test_what_is_missing_is_named(raw: Path, tmp_path: Path) -> None:
    (raw / "metadata/valid_metadata_view_position.json").unlink()
    source = RexGradientSource(raw)
    assert source.notes == ("no metadata of the split val",)
    assert source.splits == {"train", "test"}
    (raw / "deid_png").rename(raw / "elsewhere")
    (raw / "deid_png.part00").touch()
    with pytest.raises(DataError, match="unpack them"):
        RexGradientSource(raw)
    with pytest.raises(DataError, match=r"has no metadata/train_metadata_.*ReXGradient-160K has"):
        RexGradientSource(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": 1}', "[1]", '[{"ImagePath": []}]', "{"])
def test_metadata_of_another_form_are_refused(text: str, raw: Path) -> None:
    (raw / "metadata/train_metadata_view_position.json").write_text(text)
    with pytest.raises(DataError):
        list(RexGradientSource(raw))


def test_paths_that_lead_out_are_not_read(raw: Path) -> None:
    rows = {"x": row("GRDN1", "PA") | {"ImagePath": ["../../../etc/passwd"]}}
    (raw / "metadata/train_metadata_view_position.json").write_text(json.dumps(rows))
    study = next(iter(RexGradientSource(raw)))
    with pytest.raises(DataError, match="leads out"):
        study.images[0].read(64)
