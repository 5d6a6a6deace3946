import csv
import json
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from radrep.data.dicom import pseudonym
from radrep.data.study import projection_of
from radrep.errors import DataError
from radrep.preparation.sources.base import split_by_hash
from radrep.preparation.sources.folder.source import FolderSource
from radrep.preparation.sources.folder.warnings import _NOBODY
from tests.runaway import no_runaway


def draw(path: Path, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return pixels


def write_dicom(path: Path, **elements: str) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = 40, 50
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes(range(200)) * 10
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_table(raw: Path, text: str, name: str = "reports.csv", images: str = "abcdef") -> Path:
    for seed, image in enumerate(images):
        draw(raw / "films" / f"{image}.png", seed)
    (raw / name).write_text(text)
    return raw


def ids(source: FolderSource) -> list[str]:
    return [study.id for study in source]


def names(study) -> list[str]:
    return [image.name for image in study.images]


def test_without_a_table_every_image_is_a_study_in_natural_order(tmp_path):
    files = ["a10.png", "a2.png", "b/x.png", "B/c/1", "z.jpg"]
    pixels = {name: draw(tmp_path / name, seed) for seed, name in enumerate(files)}
    (tmp_path / "readme.txt").write_text("not an image")
    draw(tmp_path / ".thumbs" / "a2.png")
    (tmp_path / "._a2.png").write_text("left by a Mac")
    source = FolderSource(tmp_path)
    assert ids(source) == ["a2.png", "a10.png", "B/c/1", "b/x.png", "z.jpg"]
    assert len(source) == 5
    for study in source:
        (image,) = study.images
        read = pickle.loads(pickle.dumps(image.read))
        assert np.array_equal(read(256), pixels[image.name])
        assert study.patient_id is None
        assert study.sections == {}
        assert study.refusal is None
    assert source.expected_counts is None
    assert source.layout == "5 images, 0 of them DICOM, without a table"
    notes = " ".join(source.notes)
    assert "drawn by a hash" in notes
    assert "No patients are known" in notes
    assert "1 files are no images" in notes


def test_broken_images_are_told_of_when_read(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    (tmp_path / "c.jpg").write_text("no image")
    (tmp_path / "d.dcm").write_bytes(bytes(128) + b"DICM" + b"broken" * 40)
    _, *broken = FolderSource(tmp_path)
    assert [study.id for study in broken] == ["b.png", "c.jpg", "d.dcm"]
    for study in broken:
        with pytest.raises(DataError, match=study.id):
            study.images[0].read(256)


def test_links_are_followed_once_and_never_in_circles(tmp_path):
    pixels = draw(tmp_path / "store" / "s1" / "f.png", 1)
    draw(tmp_path / "store" / "s2" / "g.png", 2)
    draw(tmp_path / "single.png", 3)
    raw = tmp_path / "raw"
    draw(raw / "a" / "1.png")
    (raw / "a" / "up").symlink_to(raw)  # around
    (raw / "parent").symlink_to(tmp_path)  # around, too
    (raw / "again.png").symlink_to(raw / "a" / "1.png")  # there already
    (raw / "self.png").symlink_to(raw / "self.png")
    (raw / "gone.png").symlink_to(tmp_path / "nowhere")
    (raw / "stored").symlink_to(tmp_path / "store")
    (raw / "twice").symlink_to(tmp_path / "store" / "s1")
    (raw / "f.png").symlink_to(tmp_path / "store" / "s1" / "f.png")
    (raw / "one.png").symlink_to("../single.png")
    source = FolderSource(raw)
    assert ids(source) == ["a/1.png", "one.png", "stored/s1/f.png", "stored/s2/g.png"]
    assert np.array_equal(list(source)[2].images[0].read(256), pixels)
    notes = " ".join(source.notes)
    assert "2 links lead nowhere, the first gone.png." in notes
    assert "5 links lead to what is in the folder anyhow" in notes


def test_a_table_may_name_a_link_to_an_image_that_is_there_already(tmp_path):
    raw = write_table(tmp_path, "image,findings\nby_patient/p1/x.png,a\nb.png,b\n")
    (raw / "by_patient" / "p1").mkdir(parents=True)
    (raw / "by_patient" / "p1" / "x.png").symlink_to(raw / "films" / "a.png")
    (raw / "by_patient" / "b.png").symlink_to(raw / "films" / "b.png")
    one, two = FolderSource(raw)
    assert one.images[0].read(256).shape == two.images[0].read(256).shape == (40, 50)


def test_a_folder_of_broken_links_is_refused_with_their_number(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no image .* \(1 links in it lead nowhere"):
        FolderSource(tmp_path)


def test_a_pipe_does_not_stop_anything(tmp_path):
    draw(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert ids(FolderSource(tmp_path)) == ["a.png"]


def test_names_that_are_not_utf_8_can_be_read_and_shown(tmp_path):
    pixels = draw(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff\xe9.png")
    (study,) = FolderSource(tmp_path)
    assert study.id == study.images[0].name == "\\udcff\\udce9.png"
    assert study.id.encode("utf-8")
    assert np.array_equal(study.images[0].read(256), pixels)
    assert FolderSource(tmp_path).fingerprint()


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("prepared.json", '{"recipe": {}, "shards": []}'),
        ("generated.json", '{"settings": {}, "began": ""}'),
    ],
)
def test_what_radrep_wrote_below_the_images_is_skipped(tmp_path, name, record):
    draw(tmp_path / "a.png")
    notes = FolderSource(tmp_path).notes
    for file in ("out/sheet.png", "new.partial/recipe.json", "new.partial.lock"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "out" / name).write_text(record)
    source = FolderSource(tmp_path)
    assert ids(source) == ["a.png"]
    assert set(source.notes) - set(notes) == {
        "1 folders that radrep wrote are not read, the first out."
    }


@pytest.mark.parametrize("name", ["prepared.json", "generated.json"])
@pytest.mark.parametrize("content", ["", "[]", '{"images": 3}'])
def test_a_file_of_another_program_named_as_a_record_hides_no_image(tmp_path, name, content):
    (tmp_path / "b").mkdir()
    draw(tmp_path / "b/a.png")
    (tmp_path / "b" / name).write_text(content)
    assert ids(FolderSource(tmp_path)) == ["b/a.png"]


def test_dicom_files_of_one_study_are_together(tmp_path):
    one, two = ("1.2.3", "1.2.4")
    write_dicom(tmp_path / "im1", StudyInstanceUID=one, PatientID="p", ViewPosition="PA")
    write_dicom(tmp_path / "im2", StudyInstanceUID=two, PatientID="p", ViewPosition="AP")
    write_dicom(tmp_path / "im3", StudyInstanceUID=one, PatientID="p", ViewPosition="LL")
    write_dicom(tmp_path / "im4", PatientID="", ViewPosition="XX")
    draw(tmp_path / "im5.png")
    source = FolderSource(tmp_path)
    studies = {study.id: study for study in source}
    assert list(studies) == [two, one, "im4", "im5.png"]
    assert names(studies[one]) == ["im1", "im3"]
    assert [image.projection for image in studies[one].images] == ["frontal", "lateral"]
    patient = pseudonym("p")
    assert [study.patient_id for study in studies.values()] == [patient, patient, None, None]
    assert {studies[one].split, studies[two].split} == {split_by_hash("p", 0.8, 0.1)}
    assert [image.projection for image in studies["im4"].images] == ["unknown"]
    assert "4 of them DICOM" in source.layout
    assert all(image.read(256).shape == (40, 50) for s in source for image in s.images)


def test_a_table_names_images_studies_patients_splits_and_texts(tmp_path):
    raw = write_table(
        tmp_path,
        "Image_Path,study id,Subject_ID,split,View,findings,impression,indication,comparison,x\n"
        'films/a.png,s1,p1,train,PA,"Clear,\nall of it.",,Cough,,hello\n'
        "films/b.png,s1,p1,train,LATERAL,,Normal.,,None.,\n"
        "films/c.png,s2,p2,Validate,AP,Large heart.,,,,\n"
        "films/d.png,s3,p3,TEST,,,,,,\n",
    )
    source = FolderSource(raw)
    one, two, three = source
    assert (one.id, one.patient_id, one.split) == ("s1", "p1", "train")
    assert names(one) == ["films/a.png", "films/b.png"]
    assert [image.projection for image in one.images] == ["frontal", "lateral"]
    assert one.sections == {
        "findings": "Clear,\nall of it.",
        "impression": "Normal.",
        "indication": "Cough",
        "comparison": "None.",
    }
    assert (two.split, three.split) == ("val", "test")
    assert three.sections == {}
    assert one.labels == {}
    assert source.layout.startswith("reports.csv: Image_Path, study id, Subject_ID, split, View")
    assert source.notes == (
        "Columns that are not used: x ('hello').",
        "2 images of the folder are not in the table and are not used, the first films/e.png.",
    )


def test_rows_of_a_study_need_not_be_together(tmp_path):
    raw = write_table(tmp_path, "image,study,report\na,1,A\nb,2,B\nc,1,C\nd,3,D\ne,2,E\n")
    studies = {study.id: study for study in FolderSource(raw)}
    assert {name: names(study) for name, study in studies.items()} == {
        "1": ["a", "c"],
        "2": ["b", "e"],
        "3": ["d"],
    }
    assert [study.report for study in studies.values()] == ["A", "D", "B"]


@pytest.mark.parametrize(
    "name", ["films/b.png", "b.png", "b", "b.jpg", "/home/x/b.png", r"x\b.png"]
)
def test_an_image_is_found_by_its_path_or_by_a_name_that_is_there_once(tmp_path, name):
    raw = write_table(tmp_path, f"path,findings\n{name},Clear.\n")
    (study,) = FolderSource(raw)
    expected = np.asarray(Image.open(raw / "films" / "b.png"))
    assert np.array_equal(study.images[0].read(256), expected)


def test_an_image_that_is_not_there_or_twice_is_told_of_when_read(tmp_path):
    raw = write_table(tmp_path, "path,findings\nb.png,x\nfilms/b.png,y\nz.png,z\n")
    draw(raw / "more" / "b.png")
    source = FolderSource(raw)
    twice, found, absent = source
    assert found.images[0].read(256).shape == (40, 50)
    for study in (twice, absent):
        with pytest.raises(DataError, match="not found in .* or there are several"):
            study.images[0].read(256)
    assert "2 of 3 images of the table are not in the folder, the first b.png." in source.notes


def test_an_image_named_twice_is_one_image(tmp_path):
    raw = write_table(tmp_path, "image,study\na.png,1\nfilms/a.png,1\nb.png,1\nb.png,1\nc.png,2\n")
    assert [names(study) for study in FolderSource(raw)] == [["films/a.png", "b.png"], ["c.png"]]


def test_columns_of_1_0_and_blanks_are_labels(tmp_path):
    raw = write_table(
        tmp_path,
        ",image,study,Edema,Mass,Age,Empty,Follow-up #\n"
        "0,a,1,1.0,0,1,,0\n1,b,1,-1.0,,0,,3\n,c,2,,-1,50,,1\n",
    )
    source = FolderSource(raw)
    one, two = source
    assert one.labels == {"Edema": 1, "Mass": 0}
    assert two.labels == {"Mass": -1}
    assert source.layout.endswith("; labels Edema, Mass")


def test_nih_labels_are_named_findings(tmp_path):
    raw = write_table(
        tmp_path,
        "Image Index,Finding Labels,Patient ID\na.png,Effusion|Mass,1\nb.png,No Finding,2\n",
        name="labels.csv",
    )
    assert [study.labels for study in FolderSource(raw)] == [
        {"Effusion": 1, "Mass": 1},
        {"No Finding": 1},
    ]


def test_chexperts_own_table_gives_labels_and_projections(tmp_path):
    folder = tmp_path / "CheXpert-v1.0-small"
    rows = ["Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema,Support Devices"]
    for number, (view, told) in enumerate(
        (("Frontal,AP", ",-1.0,0.0,1.0"), ("Lateral,", "1.0,,,"))
    ):
        image = f"train/patient0000{number}/study1/view1.png"
        draw(folder / image, number)
        rows.append(f"CheXpert-v1.0-small/{image},Female,68,{view},{told}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    studies = list(FolderSource(tmp_path, folder / "train.csv"))
    assert [study.images[0].projection for study in studies] == ["frontal", "lateral"]
    assert [dict(study.labels) for study in studies] == [
        {"Cardiomegaly": -1, "Edema": 0, "Support Devices": 1},
        {"No Finding": 1},
    ]


def test_a_report_is_split_into_its_sections(tmp_path):
    reports = {
        "a": "FINDINGS: Lungs clear.\n\nIMPRESSION: Normal.",
        "b": "Lungs are clear.\n\nHeart is large.",
        "c": "",
    }
    rows = [{"image": name, "report": report} for name, report in reports.items()]
    rows.append({"image": "d", "report": "FINDINGS: Not this.", "findings": "But this."})
    raw = write_table(tmp_path, "\n".join(map(json.dumps, rows)), name="reports.jsonl")
    assert [(study.sections, study.report) for study in FolderSource(raw)] == [
        ({"findings": "Lungs clear.", "impression": "Normal."}, reports["a"]),
        ({"findings": reports["b"]}, reports["b"]),
        ({}, ""),
        ({"findings": "But this."}, "FINDINGS: Not this."),
    ]


def test_json_lines_may_have_numbers_truths_and_lists_of_images(tmp_path):
    rows = [
        {"images": ["a.png", "b.png"], "study_id": 7, "patient": 1, "Mass": True, "Edema": None},
        {"images": "c.png", "study_id": 8, "patient": 2, "Mass": 0, "other": {"a": []}},
        {"study_id": 8, "patient": 2, "findings": "Clear."},
    ]
    text = "\n\n".join(map(json.dumps, rows))
    raw = write_table(tmp_path, "\ufeff" + text, name="table")
    one, two = FolderSource(raw, raw / "table")
    assert (one.id, one.patient_id, names(one)) == ("7", "1", ["a.png", "b.png"])
    assert one.labels == {"Mass": 1}
    assert (names(two), two.labels, two.sections) == (
        ["c.png"],
        {"Mass": 0},
        {"findings": "Clear."},
    )


def test_a_study_of_several_patients_or_splits_is_refused(tmp_path):
    raw = write_table(
        tmp_path,
        "image,study,patient,split\na,1,p,train\nb,1,q,train\nc,2,p,train\nd,2,p,test\ne,3,p,\n",
    )
    reasons = [study.refusal for study in FolderSource(raw)]
    assert reasons == [
        "its rows are of several patients: p, q",
        "its rows are of several splits: test, train",
        "it has no split",
    ]


def test_splits_are_drawn_by_patient_in_the_shares_said(tmp_path):
    rows = "".join(f"a{k},{k},{k // 2}\n" for k in range(4000))
    raw = write_table(tmp_path, "image,study,patient\n" + "a.png,x,0\n" + rows)
    by_patient: dict[str, set[str]] = {}
    for study in FolderSource(raw):
        by_patient.setdefault(study.patient_id, set()).add(study.split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    counts = Counter(split for splits in by_patient.values() for split in splits)
    assert abs(counts["train"] - 1600) < 60  # three standard errors
    assert abs(counts["val"] - 200) < 45
    assert abs(counts["test"] - 200) < 45


def test_the_fingerprint_follows_the_table_and_the_images_it_uses(tmp_path):
    raw = write_table(tmp_path, "image,findings\na.png,Clear.\n")
    seen = [FolderSource(raw).fingerprint()]
    (raw / "reports.csv").write_text("image,findings\na.png,Clear!\n")
    seen.append(FolderSource(raw).fingerprint())
    image = raw / "films" / "a.png"
    image.write_bytes(image.read_bytes() + b"more")
    seen.append(FolderSource(raw).fingerprint())
    assert len(set(seen)) == 3
    draw(raw / "films" / "z.png")
    image.write_bytes(image.read_bytes()[::-1])  # not opened
    assert FolderSource(raw).fingerprint() == seen[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,findings\na,b\n",
            "no row with a column of images .* its columns are findings, name",
        ),
        ("", "no row with a column of images .* its columns are none"),
        ("image,findings\n", "no row with a column of images"),
        ("image,split\na,holdout\n", "line 2: split is 'holdout'; expected train, val or test"),
        ("image,findings\n,Clear.\n", "line 2: image is ''; expected the name of a file"),
        ("image,findings\na,b,c\n", "line 2: 3 values, but the header names 2"),
        ("image,findings\nq.png,b\n", "none of the images that .*'q.png'"),
        ('{"image": "a"}\n{"image": ', "line 2: no JSON object"),
        ('[{"image": "a"}, "b"]', "row 2: expected a JSON object"),
        ('{"image": "a"}\n["b"]', "line 2: expected one JSON object a line"),
        ('{"image": {"a": 1}, "x": 1}', "line 1: image is .*; expected a text or a number"),
        ('{"image": "a", "findings": ["b"]}', "line 1: findings is .*; expected a text"),
        ("[" * 100_000, "no JSON that can be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_clear_error(tmp_path, text, message):
    raw = write_table(tmp_path, text)
    with pytest.raises(DataError, match=message):
        list(FolderSource(raw))


def test_bytes_that_are_no_text_are_one_clear_error(tmp_path):
    raw = write_table(tmp_path, "")
    for content in (b"\xff\xfeimage", b"image,findings\na,\x81\n", b'{"image": "\x81"}'):
        (raw / "reports.csv").write_bytes(content)
        with pytest.raises(DataError, match="reports.csv"):
            FolderSource(raw)


def test_a_table_may_lie_elsewhere_and_several_need_a_choice(tmp_path):
    raw = write_table(tmp_path / "raw", "image\tfindings\na.png\tClear.\n", name="reports.tsv")
    (raw / "labels.csv").write_text("image,Mass\nb.png,1\n")
    with pytest.raises(DataError, match=r"several tables \(reports.tsv, labels.csv\)"):
        FolderSource(raw)
    (raw / "reports.tsv").rename(tmp_path / "other.txt")
    assert ids(FolderSource(raw, tmp_path / "other.txt")) == ["a.png"]
    with pytest.raises(DataError, match="absent.csv cannot be read"):
        FolderSource(raw, tmp_path / "absent.csv")


def test_a_folder_without_images_or_no_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no image .* in"):
        FolderSource(tmp_path)
    with pytest.raises(DataError, match="absent not found"):
        FolderSource(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        FolderSource(tmp_path / "file")


@pytest.mark.parametrize(
    ("view", "projection"),
    [
        ("PA", "frontal"),
        ("AP_horizontal", "frontal"),
        ("AP AXIAL", "frontal"),
        ("Frontal", "frontal"),
        ("LATERAL", "lateral"),
        ("view1_lateral", "lateral"),
        ("LL", "lateral"),
        ("PA and lateral", "unknown"),
        ("", "unknown"),
        ("LPO", "unknown"),
    ],
)
def test_projections_are_known_by_their_words(view, projection):
    assert projection_of(view) == projection


def test_real_nih_labels_come_out_right(data_dir):
    raw = data_dir / "nih_chestxray14_100"
    with (raw / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    source = FolderSource(raw)
    studies = list(source)
    assert len(source) == len(studies) == len(rows) == 100
    for row, study in zip(rows, studies, strict=True):
        assert study.id == row["file"]
        assert study.patient_id == row["Patient ID"]
        assert set(study.labels) == set(row["Finding Labels"].split("|"))
        assert [image.projection for image in study.images] == ["frontal"]
        assert study.images[0].read(224).shape == (224, 224)
    assert {study.split for study in studies} == {"train", "val", "test"}
    # Of numbers there is none that could be taken for a finding.
    assert "labels" not in source.layout.partition(":")[2]


def test_real_dicom_files_are_one_study(data_dir):
    (study,) = FolderSource(data_dir / "dicom")
    assert names(study) == ["chest_pa_monochrome1_jpeg.dcm", "chest_pa_monochrome2_jpeg.dcm"]
    assert study.id.startswith("1.2.276.0.7230010.")
    assert study.patient_id == pseudonym("16d7f894-55d7-4d95-8957-d18987f0e981")
    assert [image.projection for image in study.images] == ["frontal", "frontal"]
    inverted, straight = (image.read(256) for image in study.images)
    assert np.corrcoef(inverted.ravel(), straight.ravel())[0, 1] < -0.9


@pytest.mark.parametrize("unit", ["unknown  ", "x", "anon"])
def test_time_grows_with_the_length_of_a_name_that_stands_for_nobody(unit):
    with no_runaway(5):
        assert not _NOBODY.fullmatch(unit * 2000 + "1")
        assert _NOBODY.fullmatch("x" + unit * 2000 if unit == "x" else unit * 2000)
