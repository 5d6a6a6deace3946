"""radrep data labels: the labeler beside the labels that people gave the same reports."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.preparation.sources.test_rad_restruct import structured, write_structured
from tests.whole_way import draw_prepared, radrep

# Study -> its report, its label of a table, its topics.
REPORTS = {
    "CXR1_1_IM-0001": ("The lungs are clear.", "", ()),
    "CXR2_IM-0652": ("The heart is enlarged.", 1, ("cardiovascular system/cardiomegaly",)),
    "CXR3_IM-1384": ("Possible cardiomegaly.", 1, ("cardiovascular system/cardiomegaly",)),
    "CXR4_IM-2050": ("Cardiomegaly. Small right pleural effusion.", 0, ("lung/density",)),
    "CXR5_IM-2117": ("Left basilar opacity.", -1, ("lung/opacity", "pleura/thickening")),
    "CXR6_IM-2192": ("Right lower lobe opacity.", 0, ()),
}


def prepare_reports(folder: Path) -> Path:
    """The reports as validation studies with a label each; the first has none."""
    films = folder / "films"
    films.mkdir(parents=True)
    rows = ["image,study_id,split,findings,Cardiomegaly,Fracture"]
    for number, (study, (text, label, _)) in enumerate(REPORTS.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40)).astype(np.uint8)
        Image.fromarray(pixels).save(films / f"{study}.png")
        rows.append(f"{study}.png,{study},val,{text},{label},")
    (films / "reports.csv").write_text("\n".join(rows))
    made = radrep("prepare", "folder", "--raw", films, "--out", folder / "data", "--workers", "1")
    assert made.exit_code == 0, made.output
    return folder / "data"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_reports(tmp_path_factory.mktemp("labels"))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Rad-ReStruct without the sixth report."""
    topics = [topics for _, _, topics in REPORTS.values()][:5]
    numbered = {number: structured(*named) for number, named in enumerate(topics, 1)}
    return write_structured(tmp_path / "Rad-ReStruct", numbered)


def rows(stdout: str) -> dict[str, str]:
    """The figures of the table by observation."""
    found = {}
    for line in stdout.splitlines():
        words = line.split()
        if len(words) > 8 and words[-8].isdigit():
            found[" ".join(words[:-8])] = " ".join(words[-8:])
    return found


def test_the_labeler_is_compared_with_rad_restruct(
    prepared: Path, clone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "differ.jsonl"
    result = radrep("data", "labels", prepared, "--rad-restruct", clone, "--out", out)
    assert result.exit_code == 0, result.output
    assert "compared    5 studies of val with labels of rad-restruct" in result.stdout
    assert "left out    1 studies without one that is certain" in result.stdout
    found = rows(result.stdout)
    # Both say it of the second study, Rad-ReStruct of the third, the labeler of the fourth.
    assert found["Cardiomegaly"] == "5 0.400 0.400 1 0.500 0.500 0.500 0.167"
    assert found["No Finding"] == "5 0.200 0.200 0 1.000 1.000 1.000 1.000"
    # A density may be an opacity or a lesion or neither: the fourth study is left out.
    assert found["Lung Opacity"] == "4 0.250 0.250 0 1.000 1.000 1.000 1.000"
    assert found["Lung Lesion"] == "4 0.000 0.000 0 - - - -"
    assert found["Pleural Effusion"] == "5 0.000 0.200 0 0.000 - 0.000 0.000"
    assert found["Support Devices"].startswith("5 0.000 0.000")
    assert f"{out}: 3 studies on which they differ" in result.stdout
    differing = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in differing] == [*REPORTS][2:5]
    third, fourth, fifth = differing
    assert third["differ"] == {"Cardiomegaly": {"given": "positive", "labeler": "uncertain"}}
    assert third["given_labels"] == ["cardiovascular system/cardiomegaly"]
    assert third["report"] == "Possible cardiomegaly."
    assert "uncertain by 'cardiomegaly', for 'possible'" in third["labeler_reads"][0]
    assert fourth["differ"] == {
        "Cardiomegaly": {"given": "absent", "labeler": "positive"},
        "Pleural Effusion": {"given": "absent", "labeler": "positive"},
    }
    assert set(fifth["differ"]) == {"Pleural Other"}


def test_the_labeler_is_compared_with_the_labels_of_the_folder(prepared: Path) -> None:
    result = radrep("data", "labels", prepared)
    assert result.exit_code == 0, result.output
    # The first study has no label, and that of the fifth is uncertain.
    assert "compared    4 studies of val with labels of chexpert" in result.stdout
    assert "left out    2 studies without one that is certain" in result.stdout
    found = rows(result.stdout)
    assert found["Cardiomegaly"] == "4 0.500 0.500 1 0.500 0.500 0.500 0.000"
    assert found["Lung Opacity"].startswith("0 "), "the table does not name it"
    lines = (prepared / "differ-table-val.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["CXR3_IM-1384", "CXR4_IM-2050"]
    assert radrep("data", "check", prepared).exit_code == 0, "the folder stays whole"


def test_what_cannot_be_compared_is_named(prepared: Path, clone: Path, tmp_path: Path) -> None:
    phantoms = draw_prepared(tmp_path / "phantoms", num=12)
    other = write_structured(tmp_path / "other", {99: structured()})
    out = ("--out", tmp_path / "differ.jsonl")
    for words, problem in (
        ((prepared, "--rad-restruct", tmp_path), "is no folder of Rad-ReStruct"),
        ((prepared, "--rad-restruct", other), "report of none of the 6 studies of val"),
        ((phantoms, "--rad-restruct", clone), "has no id of IU X-Ray"),
        ((phantoms,), "no study of val has labels beside its report"),
        ((prepared, "--split", "dev"), "--split must be one of train, val, test, got 'dev'"),
        ((prepared, "--split", "test"), "the split 'test' has no study"),
        ((tmp_path / "nowhere",), "nowhere"),
    ):
        result = radrep("data", "labels", *words, *out)
        assert result.exit_code == 2, result.output
        assert problem in result.stderr
    assert not (tmp_path / "differ.jsonl").exists()
