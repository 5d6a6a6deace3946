import csv
import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radrep.data.sources.iu_xray import IuXraySource
from radrep.errors import DataError

ROWS = {
    "train": [
        {"id": "CXR7_IM-2263", "report": "Clear.", "image_path": ["CXR7_IM-2263/0.png"]},
        {
            "id": "CXR10_IM-0002",
            "report": "Large heart.",
            "image_path": ["CXR10_IM-0002/0.png", "CXR10_IM-0002/1.png"],
        },
    ],
    "test": [{"id": "odd id", "report": "", "image_path": ["odd/0.png"], "split": "test"}],
}
REPORTS = """uid,MeSH,image,indication,comparison,findings,impression
7,normal,PA,#NAME?,None.,Other words.,"Normal, chest."
10,heart,PA,Cough,,Large heart.,
"""
PROJECTIONS = """uid,filename,projection
10,10_IM-0002-2001.dcm.png,Frontal
10,10_IM-0002-1001.dcm.png,Lateral
10,10_IM-0002-3001.dcm.png,Frontal
7,7_IM-9999-1001.dcm.png,Frontal
"""


def write_raw(raw: Path, annotation: object = ROWS) -> Path:
    (raw / "images").mkdir(parents=True)
    (raw / "annotation.json").write_text(json.dumps(annotation))
    return raw


def draw(path: Path, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return pixels


def test_studies_come_in_annotation_order_with_split_and_patient(tmp_path):
    source = IuXraySource(write_raw(tmp_path))
    assert len(source) == 3
    assert [(s.id, s.split, s.patient_id) for s in source] == [
        ("CXR7_IM-2263", "train", "7"),
        ("CXR10_IM-0002", "train", "10"),
        ("odd id", "test", None),
    ]
    assert [s.sections for s in source] == [
        {"findings": "Clear."},
        {"findings": "Large heart."},
        {"findings": ""},
    ]
    assert {image.projection for study in source for image in study.images} == {"unknown"}
    assert source.expected_counts() == {"train": 2069, "val": 296, "test": 590}
    assert source.layout == "R2Gen"


def test_kaggle_tables_add_sections_and_projections(tmp_path):
    raw = write_raw(tmp_path)
    (raw / "indiana_reports.csv").write_text(REPORTS)
    (raw / "indiana_projections.csv").write_text("\ufeff" + PROJECTIONS)
    source = IuXraySource(raw)
    seven, ten, odd = source
    # The findings stay the annotation's; "#NAME?" is a spreadsheet's word, not a radiologist's.
    assert seven.sections == {
        "findings": "Clear.",
        "comparison": "None.",
        "impression": "Normal, chest.",
    }
    assert ten.sections == {"findings": "Large heart.", "indication": "Cough"}
    assert odd.sections == {"findings": ""}
    assert [image.projection for image in ten.images] == ["lateral", "frontal"]
    # Kaggle's names for 7 are of another study id, so which image is which is not known.
    assert [image.projection for image in seven.images] == ["unknown"]
    assert "indiana_reports.csv" in source.layout


def test_images_are_read_under_any_ending_and_readers_can_be_pickled(tmp_path):
    raw = write_raw(tmp_path)
    pixels = [draw(raw / "images" / "CXR10_IM-0002" / name, k) for k, name in enumerate("01")]
    (raw / "images" / "CXR10_IM-0002" / "0").rename(raw / "images" / "CXR10_IM-0002" / "0.jpg")
    study = list(IuXraySource(raw))[1]
    for image, expected in zip(study.images, pixels, strict=True):
        read = pickle.loads(pickle.dumps(image.read))
        assert np.array_equal(read(256), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../secret.png", "leads out of"),
        ("a/../../secret.png", "leads out of"),
        ("/secret.png", "leads out of"),
        ("", "leads out of"),
        ("a\0b.png", "leads out of"),
        ("CXR7/0.png", "0.png not found"),
        ("x" * 300 + "/0.png", "not found"),
        ("folder", "is a folder"),
    ],
)
def test_an_image_that_is_not_in_the_folder_is_refused_when_read(tmp_path, name, message):
    raw = write_raw(tmp_path / "raw", {"train": [{"id": "a", "report": "b", "image_path": [name]}]})
    draw(tmp_path / "secret.png")
    (raw / "images" / "folder").mkdir()
    (study,) = IuXraySource(raw)
    with pytest.raises(DataError, match=message):
        study.images[0].read(256)


def test_the_fingerprint_follows_text_tables_and_pixels(tmp_path):
    raw = write_raw(tmp_path)
    seen = [IuXraySource(raw).fingerprint()]
    path = raw / "images" / "CXR7_IM-2263" / "0.jpg"
    draw(path, seed=1)
    seen.append(IuXraySource(raw).fingerprint())
    draw(path, seed=2)
    seen.append(IuXraySource(raw).fingerprint())
    (raw / "indiana_reports.csv").write_text(REPORTS)
    seen.append(IuXraySource(raw).fingerprint())
    (raw / "annotation.json").write_text(json.dumps({**ROWS, "val": []}))
    seen.append(IuXraySource(raw).fingerprint())
    assert len(set(seen)) == 5
    (raw / "images" / "Thumbs.db").write_text("not named by the annotation")
    assert IuXraySource(raw).fingerprint() == seen[-1]


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["indiana_reports.csv"], "Kaggle's"),
        (["images/images_normalized/1.dcm.png"], "Kaggle's"),
        (["ecgen-radiology/1.xml"], "Open-i's original XML"),
        (["NLMCXR_png.tgz"], "Open-i's original XML"),
        (["CXR1/1.dcm"], "Open-i's DICOM"),
    ],
)
def test_other_layouts_are_named(tmp_path, names, layout):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"another layout .*{layout}.*reads the R2Gen layout"):
        IuXraySource(tmp_path)


def test_a_folder_that_is_not_iu_xray_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="no IU X-Ray folder: expected the R2Gen layout"):
        IuXraySource(tmp_path)
    with pytest.raises(DataError, match="absent not found"):
        IuXraySource(tmp_path / "absent")
    (tmp_path / "annotation.json").write_text(json.dumps(ROWS))
    with pytest.raises(DataError, match="is a file"):
        IuXraySource(tmp_path / "annotation.json")
    with pytest.raises(DataError, match="no folder 'images'"):
        IuXraySource(tmp_path)


def test_a_folder_one_level_up_points_to_the_right_one(tmp_path):
    write_raw(tmp_path / "iu_xray")
    with pytest.raises(DataError, match="iu_xray has: give that folder"):
        IuXraySource(tmp_path)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ([1], r"expected an object with train, val, test, found \[1\]"),
        ({"training": []}, "'training' is not one of the splits"),
        ({"train": {}}, r"train must be a list of studies, found \{\}"),
        ({"train": []}, "has no study"),
        ({}, "has no study"),
        ({"val": [7]}, r"val\[0\] must be an object, found 7"),
        ({"val": [{"id": "a", "image_path": []}]}, r"val\[0\].report is missing; found id, image"),
        ({"val": [{}]}, r"val\[0\].id is missing; found nothing"),
        ({"val": [{"id": 3, "report": "", "image_path": []}]}, r"id must be text, found 3"),
        ({"val": [{"id": "", "report": "", "image_path": []}]}, r"val\[0\].id is empty"),
        (
            {"val": [{"id": "a", "report": None, "image_path": []}]},
            r"val\[0\].report must be text, found null",
        ),
        (
            {"val": [{"id": "a", "report": "", "image_path": "a.png"}]},
            r"image_path must be a list of file names, found \"a.png\"",
        ),
    ],
)
def test_a_broken_annotation_names_the_key_and_what_was_found(tmp_path, annotation, message):
    with pytest.raises(DataError, match=message):
        IuXraySource(write_raw(tmp_path, annotation))


@pytest.mark.parametrize("content", [b"", b'{"train": [', b"\xff\xfe\x00"])
def test_an_annotation_that_is_no_json_is_refused(tmp_path, content):
    write_raw(tmp_path)
    (tmp_path / "annotation.json").write_bytes(content)
    with pytest.raises(DataError, match="annotation.json cannot be read"):
        IuXraySource(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"uid,findings\n1,x\n", "no column 'impression'; its columns are uid, findings"),
        (b"", "its columns are none"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_table_that_is_not_kaggles_is_refused(tmp_path, content, message):
    write_raw(tmp_path)
    (tmp_path / "indiana_reports.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"indiana_reports.csv.*{message}"):
        IuXraySource(tmp_path)


def test_real_projections_and_reports_agree_with_the_name_map(data_dir):
    raw = data_dir / "iu_xray"
    with (raw / "image_names.csv").open(newline="") as file:
        projections = {row["image"]: row["projection"].lower() for row in csv.DictReader(file)}
    studies = list(IuXraySource(raw))
    assert Counter(study.split for study in studies) == {"train": 2068, "val": 295}
    found = {image.name: image.projection for study in studies for image in study.images}
    assert found == projections
    first = [study.images[0].projection for study in studies]
    assert Counter(first)["lateral"] > 200  # the file order is kept, not frontal first
    assert len({study.patient_id for study in studies}) == len(studies)
    assert sum("impression" in study.sections for study in studies) > 2300
