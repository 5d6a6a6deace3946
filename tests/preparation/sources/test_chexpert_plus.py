import csv
import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radrep.errors import DataError
from radrep.preparation.sources.chexpert_plus import ChexpertPlusSource

COLUMNS = (
    "path_to_image", "path_to_dcm", "frontal_lateral", "report", "section_clinical_history",
    "section_history", "section_comparison", "section_findings", "section_impression", "split",
)  # fmt: skip
A, B, C = "patient00001/study1", "patient00001/study2", "patient64541/study1"


def row(path: str, report: str = "NARRATIVE: x", split: str = "train", **more: str) -> dict:
    view = "Lateral" if "lateral" in path else "Frontal"
    return {"path_to_image": path, "frontal_lateral": view, "report": report, "split": split} | more


ROWS = [
    row(f"train/{A}/view1_frontal.jpg", "", section_impression="Normal\nA."),
    row(f"train/{B}/view1_frontal.jpg", "B", section_findings="Findings, B."),
    row(f"valid/{C}/view1_frontal.jpg", "C", "valid", section_impression="C."),
    row(
        f"train/{A}/view2_lateral.jpg",
        "The report of A",
        section_impression="Normal\nA.",
        section_history="Smoker.",
        section_clinical_history="Cough.",
    ),
]


def write_table(raw: Path, rows: list[dict], columns: tuple[str, ...] = COLUMNS) -> Path:
    raw.mkdir(exist_ok=True)
    with (raw / "df_chexpert_plus_240401.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return raw


def draw(path: Path, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return pixels


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    raw = write_table(tmp_path / "chexpert", ROWS)
    draw(raw / "train" / A / "view1_frontal.png")
    return raw


def write_annotation(raw: Path, **splits: list[str]) -> None:
    content = {
        split: [
            {"id": name.replace("/", "_"), "report": "x", "image_path": [name]} for name in names
        ]
        for split, names in splits.items()
    }
    (raw / "annotation.json").write_text(json.dumps(content))


def test_rows_of_a_study_come_together_though_they_lie_apart(raw):
    source = ChexpertPlusSource(raw)
    assert len(source) == 3
    studies = {study.id: study for study in source}
    # A comes with its second row, the first one that has a report.
    assert [(s.id, s.patient_id, s.split) for s in source] == [
        (B, "patient00001", "train"),
        (C, "patient64541", "val"),
        (A, "patient00001", "train"),
    ]
    assert [(image.name, image.projection) for image in studies[A].images] == [
        (f"train/{A}/view1_frontal.jpg", "frontal"),
        (f"train/{A}/view2_lateral.jpg", "lateral"),
    ]
    assert studies[A].report == "The report of A"
    assert studies[A].sections == {"impression": "Normal\nA.", "indication": "Cough.\nSmoker."}
    assert studies[B].sections == {"findings": "Findings, B."}
    assert source.expected_counts == {"all": 187711}
    assert source.expected_images == {"all": 223228}
    assert source.splits == {"train", "val"}
    assert {study.refusal for study in studies.values()} == {None}


def test_studies_have_the_order_of_their_reports_where_the_table_has_it(raw):
    assert {study.order for study in ChexpertPlusSource(raw)} == {None}
    rows = [each | {"patient_report_date_order": str(k)} for k, each in enumerate(ROWS[:3])]
    write_table(raw, [*rows, ROWS[3]], (*COLUMNS, "patient_report_date_order"))
    # The report of A is in its second row, whose order is missing.
    orders = {study.id: study.order for study in ChexpertPlusSource(raw)}
    assert orders == {A: None, B: 1, C: 2}
    write_table(
        raw, [ROWS[0] | {"patient_report_date_order": "x"}], (*COLUMNS, "patient_report_date_order")
    )
    with pytest.raises(DataError, match="line 2: patient_report_date_order is 'x'"):
        ChexpertPlusSource(raw)


def test_images_of_a_study_keep_the_order_of_the_table(raw):
    paths = [f"train/{(A, B)[k % 2]}/view{k * 7 % 50}_frontal.jpg" for k in range(50)]
    first, second = ChexpertPlusSource(write_table(raw, [row(path) for path in paths]))
    assert [image.name for image in first.images] == paths[::2]
    assert [image.name for image in second.images] == paths[1::2]


@pytest.mark.parametrize("tree", ["", "PNG", "PNGs", "PNG/PNG"])
def test_images_are_found_below_any_of_the_known_folders(tmp_path, tree):
    raw = write_table(tmp_path / "raw", ROWS)
    expected = draw(raw / tree / "train" / B / "view1_frontal.png")
    (raw / "train").mkdir(exist_ok=True)
    studies = {study.id: study for study in ChexpertPlusSource(raw)}
    read = pickle.loads(pickle.dumps(studies[B].images[0].read))
    assert np.array_equal(read(256), expected)
    with pytest.raises(DataError, match="view1_frontal.jpg not found"):
        studies[C].images[0].read(256)


def test_a_study_that_contradicts_itself_or_says_nothing_is_refused(raw):
    rows = [
        *ROWS,
        row(f"valid/{A}/view1_frontal.jpg", "", "valid"),
        row(f"train/{B}/view1_frontal.jpg", "Another report of B"),
        row("train/patient00002/study1/view1_frontal.jpg", " "),
    ]
    source = ChexpertPlusSource(write_table(raw, rows))
    reasons = {study.id: study.refusal for study in source}
    assert reasons == {
        A: "it is in several splits: train, val",
        B: "df_chexpert_plus_240401.csv names one of its images twice",
        C: None,
        "patient00002/study1": "no report",
    }
    assert source.notes[0] == "studies with several reports, of which the first is used: 1"


def test_cxpmrg_takes_its_studies_and_says_what_it_puts_into_test(raw):
    write_annotation(
        raw, train=[f"valid/{C}/view1_frontal.png"], test=[f"train/{A}/view1_frontal.png"]
    )
    source = ChexpertPlusSource(raw, split="cxpmrg")
    assert [(s.id, s.split, len(s.images)) for s in source] == [(C, "train", 1), (A, "test", 2)]
    assert len(source) == 2
    assert source.expected_counts == {"train": 40463, "val": 5780, "test": 11562}
    assert len(source.notes) == 1
    assert "1 of the 1 studies for testing are training studies of the official" in source.notes[0]
    assert ChexpertPlusSource(raw).fingerprint() != source.fingerprint()
    write_annotation(
        raw,
        train=[f"{A}/view1_frontal.png", "patient9/study9/view1.png", "odd"],
        test=[f"{C}/view1_frontal.png", f"{A}/view2_lateral.png"],
    )
    source = ChexpertPlusSource(raw, split="cxpmrg")
    assert {s.id: s.refusal for s in source} == {
        A: "it is in several splits: train, test",
        C: None,
    }
    assert "1 of the 2 studies for testing" in source.notes[0]
    assert source.notes[1] == "rows of annotation.json for a study that has one already: 1"
    assert source.notes[2].startswith("rows of annotation.json that name no study of df_chexpert")


def test_the_splits_of_cxpmrg_need_its_annotation(raw):
    with pytest.raises(DataError, match="annotation.json not found; the split 'cxpmrg'"):
        ChexpertPlusSource(raw, split="cxpmrg")
    write_annotation(raw, train=["patient9/study9/view1.png"])
    with pytest.raises(DataError, match="annotation.json names none of the studies"):
        ChexpertPlusSource(raw, split="cxpmrg")
    with pytest.raises(DataError, match="the split 'random' is not one of official, cxpmrg"):
        ChexpertPlusSource(raw, split="random")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "240401.csv has no row"),
        ([row("patient1.jpg")], "line 2: path_to_image is 'patient1.jpg'; expected a path"),
        ([row(f"train/{A}/1.jpg", split="test")], "line 2: split is 'test'; expected one of"),
    ],
)
def test_a_broken_table_names_the_cell(raw, rows, message):
    with pytest.raises(DataError, match=message):
        ChexpertPlusSource(write_table(raw, rows))


def test_what_is_missing_is_named(raw, tmp_path):
    with pytest.raises(DataError, match="no df_chexpert_plus_240401.csv, but .*chexpert has: give"):
        ChexpertPlusSource(tmp_path)
    with pytest.raises(DataError, match="no column 'section_impression'"):
        ChexpertPlusSource(write_table(raw, ROWS, COLUMNS[:8] + COLUMNS[9:]))
    with pytest.raises(DataError, match="no df_chexpert_plus_240401.csv, the table of reports"):
        ChexpertPlusSource(raw / "train")
    with pytest.raises(DataError, match="absent not found"):
        ChexpertPlusSource(raw / "absent")
    (raw / "train").rename(raw / "other")
    with pytest.raises(DataError, match=f"none of the images .*PNG/train/{A}"):
        ChexpertPlusSource(write_table(raw, ROWS))


def test_the_fingerprint_follows_the_table_and_the_images(raw):
    seen = [ChexpertPlusSource(raw).fingerprint()]
    assert ChexpertPlusSource(raw).fingerprint() == seen[0]
    image = raw / "train" / A / "view1_frontal.png"
    image.write_bytes(image.read_bytes() + b"1")
    seen.append(ChexpertPlusSource(raw).fingerprint())
    draw(raw / "train" / A / "view2_lateral.png")
    seen.append(ChexpertPlusSource(raw).fingerprint())
    write_table(raw, ROWS[:-1])
    seen.append(ChexpertPlusSource(raw).fingerprint())
    assert len(set(seen)) == 4


def test_a_folder_in_the_layout_of_chexpert_plus_agrees_with_its_table(data_dir):
    raw = data_dir / "chexpert_plus_like"
    source = ChexpertPlusSource(raw)
    studies = list(source)
    assert len(studies) == len(source) == 120
    assert Counter(study.split for study in studies) == {"train": 93, "val": 27}
    images = [image for study in studies for image in study.images]
    assert {image.name for image in images} == {
        path.relative_to(raw).as_posix() for path in raw.glob("*/*/*/*.jpg")
    }
    assert Counter(image.projection for image in images) == {"frontal": 123, "lateral": 108}
    assert all(study.sections["impression"] and study.report for study in studies)
    assert sum("findings" in study.sections for study in studies) == 100
    assert images[0].read(256).shape == (256, 256)
