"""ReXrank's form: the fields that its script reads, under its names of studies.

`FORM` is what the public repository rajpurkarlab/ReXrank has, read at these commits:
    data/READMD.md and the test sets beside it, such as data/iu_xray/ReXRank_IUXray_test.json
    (07cdd3b): all fields but the last;
    example_files/merversa_inference.py (3a5b6c1): copies them and adds model_prediction;
    example_files/evaluation_script.md (06534b3): scores model_prediction, a text, against
    section_findings and section_impression, of which either may be missing (NaN or null).
Besides, its test set of MIMIC-CXR has subject_id, a number, which nothing reads.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from radrep.data.study import Image, Study
from radrep.evaluation.predictions import read_predictions, read_references
from radrep.interop.rexrank import study_key, write_rexrank
from radrep.sections import join_sections
from tests.whole_way import radrep

STUDY = Study(
    id="s50051329",
    patient_id="10046166",
    split="test",
    images=(Image("a.jpg", "lateral", ""), Image("b.jpg", "frontal", "")),
    sections={"findings": "Lungs clear.", "indication": "Cough."},
    source="mimic_cxr",
)

FORM: dict[str, type | tuple[type, ...]] = {
    "image_path": list,  # of texts
    "key_image_path": str,  # one of them
    "frontal_lateral": list,  # a text for each
    "context": str,
    "section_findings": (str, type(None)),
    "section_impression": (str, type(None)),
    "report": str,
    "split": str,
    "model_prediction": str,
}


def check_form(file: Path) -> dict[str, dict[str, Any]]:
    """The rows of a file in ReXrank's form, by nothing of radrep."""
    rows: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    assert rows
    for study, row in rows.items():
        assert row.keys() == FORM.keys(), study
        for name, kind in FORM.items():
            assert isinstance(row[name], kind), (study, name)
        for name in ("image_path", "frontal_lateral"):
            assert all(isinstance(text, str) for text in row[name]), (study, name)
        assert row["key_image_path"] in row["image_path"], study
        assert len(row["frontal_lateral"]) == len(row["image_path"]), study
        assert row["model_prediction"].strip(), study
        parts = (row["section_findings"], row["section_impression"])
        assert any(parts), study
        assert row["report"] == "Findings: {} Impression: {}".format(*parts), study
    return rows


def test_studies_have_the_names_of_rexrank() -> None:
    assert study_key(STUDY) == "50051329"
    plus = replace(STUDY, id="patient64620/study1", source="chexpert_plus")
    assert study_key(plus) == "patient64620_study1"
    own = replace(STUDY, id="s1/a", source="folder")
    assert study_key(own) == "s1/a"
    assert study_key(replace(STUDY, id="CXR2279_IM-0865", source="iu_xray")) == "CXR2279_IM-0865"


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("lungs are clear .", "findings", "Findings: lungs are clear ."),
        ("normal .", "impression", "Impression: normal ."),
        ("lungs are clear . normal .", "both", "lungs are clear . normal ."),
        (
            join_sections("lungs are clear .", "normal ."),
            "findings_impression",
            "Findings: lungs are clear . Impression: normal .",
        ),
    ],
)
def test_a_row_has_the_fields_that_are_scored(
    text: str, target: str, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "form.json"
    write_rexrank(file, [(STUDY, text)], target)
    (row,) = check_form(file).values()
    assert row == {
        "image_path": ["a.jpg", "b.jpg"],
        "key_image_path": "b.jpg",
        "frontal_lateral": ["Lateral", "Frontal"],
        "context": "Indication: Cough.",
        "section_findings": "Lungs clear.",
        "section_impression": None,
        "report": "Findings: Lungs clear. Impression: None",
        "split": "test",
        "model_prediction": expected,
    }


@pytest.mark.slow
@pytest.mark.usefixtures("without_java", "shared_cache")
def test_an_evaluation_writes_what_others_can_score(trained_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "form.json"
    words = ("eval", trained_run, "--split", "val", "--out", tmp_path / "scored")
    result = radrep(*words, "--rexrank", file)
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "scored/predictions-val.jsonl").read_text().splitlines()
    written = {row["id"]: row for row in map(json.loads, lines)}
    assert check_form(file).keys() == written.keys()
    found = read_predictions(file)
    assert found.source == "ReXrank JSON"
    assert found.reports == {id_: f"Findings: {r['generated']}" for id_, r in written.items()}
    assert read_references(file).reports == tuple(row["reference"] for row in written.values())
    several = radrep("eval", trained_run, trained_run, "--rexrank", tmp_path / "b.json")
    assert several.exit_code == 2
    assert "one run" in several.stderr
