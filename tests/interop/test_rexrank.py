"""ReXrank's form: the fields that its script reads, under its names of studies."""

import json
from dataclasses import replace
from pathlib import Path

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
    (row,) = json.loads(file.read_text()).values()
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
    found = read_predictions(file)
    assert found.source == "ReXrank JSON"
    assert found.reports == {id_: f"Findings: {r['generated']}" for id_, r in written.items()}
    assert read_references(file).reports == tuple(row["reference"] for row in written.values())
    several = radrep("eval", trained_run, trained_run, "--rexrank", tmp_path / "b.json")
    assert several.exit_code == 2
    assert "one run" in several.stderr
