import csv
import gzip
import json
import pickle
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radrep.errors import DataError
from radrep.preparation.sources.mimic_cxr.source import MimicCxrSource

LABELS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
SPLIT = """dicom_id,study_id,subject_id,split
a1,50000001,10000032,train
c1,50000003,11000007,test
a2,50000001,10000032,train
b1,50000002,10000032,validate
"""
METADATA = """dicom_id,subject_id,study_id,ViewPosition
b1,10000032,50000002,LL
a2,10000032,50000001,LATERAL
a1,10000032,50000001,PA
c1,11000007,50000003,
"""
REPORT = " FINAL REPORT\n INDICATION: Cough.\n \n FINDINGS: Study {}.\n \n IMPRESSION: Normal.\n"
STUDIES = ("p10/p10000032/s50000001", "p10/p10000032/s50000002", "p11/p11000007/s50000003")


def write_table(raw: Path, kind: str, text: str, packed: bool = True) -> None:
    path = raw / f"mimic-cxr-2.0.0-{kind}.csv{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())


def draw(path: Path, seed: int = 0, kind: str = "JPEG") -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format=kind)
    return pixels


def write_reports(tree: Path) -> None:
    for study in STUDIES:
        path = tree / f"{study}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(REPORT.format(study[-1]))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """PhysioNet's folder with the two tables that most matter, reports, and no labels."""
    raw = tmp_path / "mimic"
    write_reports(raw / "files")
    write_table(raw, "split", SPLIT)
    write_table(raw, "metadata", METADATA)
    for study, names in zip(STUDIES, (("a1", "a2"), ("b1",), ("c1",)), strict=True):
        for name in names:
            draw(raw / "files" / study / f"{name}.jpg")
    return raw


def names(study) -> list[str]:
    return [Path(image.name).stem for image in study.images]


def test_studies_come_in_the_order_of_the_split_and_images_in_that_of_the_metadata(raw):
    source = MimicCxrSource(raw)
    assert len(source) == 3
    assert [(s.id, s.patient_id, s.split, names(s)) for s in source] == [
        ("s50000001", "10000032", "train", ["a2", "a1"]),
        ("s50000003", "11000007", "test", ["c1"]),
        ("s50000002", "10000032", "val", ["b1"]),
    ]
    first, third, second = source
    assert [image.projection for image in first.images] == ["lateral", "frontal"]
    assert [image.projection for image in (*third.images, *second.images)] == ["unknown", "lateral"]
    assert first.report == REPORT.format(1)
    assert first.sections == {
        "findings": "Study 1.",
        "impression": "Normal.",
        "indication": "Cough.",
    }
    assert {study.refusal for study in source} == {None}
    assert source.expected_counts == {"train": 222758, "val": 1808, "test": 3269}
    assert "official split" in source.layout


def test_studies_have_their_order_in_time_where_the_metadata_has_it(raw):
    assert {study.order for study in MimicCxrSource(raw)} == {None}
    times = {
        "b1": "21800107,90000.5",
        "a2": "21800107,93000.1",
        "a1": "21800107,92959.9",
        "c1": ",",
    }
    dated = [METADATA.splitlines()[0] + ",StudyDate,StudyTime"]
    dated += [f"{line},{times[line[:2]]}" for line in METADATA.splitlines()[1:]]
    write_table(raw, "metadata", "\n".join(dated))
    orders = {study.id: study.order for study in MimicCxrSource(raw)}
    assert orders == {"s50000002": 0, "s50000001": 1, "s50000003": None}
    write_table(raw, "metadata", "\n".join(dated).replace("90000.5", "noon"))
    with pytest.raises(DataError, match="line 2: a time is .*noon"):
        MimicCxrSource(raw)


def test_unpacked_tables_and_a_second_folder_with_zipped_reports_give_the_same(raw, tmp_path):
    expected = [(s.id, s.sections, s.report, names(s)) for s in MimicCxrSource(raw)]
    second = tmp_path / "reports"
    second.mkdir()
    with zipfile.ZipFile(second / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/files/._s50000001.txt", "not a report")
        for k, study in enumerate(STUDIES):
            path = raw / "files" / f"{study}.txt"
            stored = zipfile.ZIP_STORED if k else None
            archive.write(path, f"mimic-cxr-reports/files/{study}.txt", stored)
            path.unlink()
    for kind, text in (("split", SPLIT), ("metadata", METADATA)):
        (raw / f"mimic-cxr-2.0.0-{kind}.csv.gz").unlink()
        write_table(second if kind == "metadata" else raw, kind, text, packed=False)
    for reports in (second, second / "mimic-cxr-reports.zip"):
        if reports.is_file():
            write_table(raw, "metadata", METADATA)
        source = MimicCxrSource(raw, reports)
        assert [(s.id, s.sections, s.report, names(s)) for s in source] == expected
        assert "mimic-cxr-reports.zip" in source.layout


def test_labels_are_chexperts_and_negbios_in_their_absence(raw):
    assert "there are no labels" in MimicCxrSource(raw).notes[0]
    header = f"subject_id,study_id,{LABELS}\n"
    write_table(raw, "negbio", header + "10000032,50000001,1.0,,0.0,-1.0,,,,,,,,,,\n")
    source = MimicCxrSource(raw)
    assert [s.labels for s in source] == [
        {"Atelectasis": 1, "Consolidation": 0, "Edema": -1},
        {},
        {},
    ]
    assert "the labels are negbio's" in source.notes[0]
    write_table(raw, "chexpert", header + "11000007,50000003,,,,,,,,,1.0,,,,,0.0\n")
    source = MimicCxrSource(raw)
    assert [s.labels for s in source] == [{}, {"No Finding": 1, "Support Devices": 0}, {}]
    assert source.notes == ()
    write_table(raw, "chexpert", header + "11000007,50000003,2.0,,,,,,,,,,,,,\n")
    with pytest.raises(DataError, match=r"chexpert.csv.gz, line 2: Atelectasis is '2.0'"):
        MimicCxrSource(raw)


def test_without_metadata_the_record_list_orders_and_the_note_says_what_is_lost(raw):
    (raw / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    assert [names(s) for s in MimicCxrSource(raw)] == [["a1", "a2"], ["c1"], ["b1"]]
    records = "subject_id,study_id,dicom_id,path\n1,2,a2,x\n1,2,a1,x\n"
    (raw / "cxr-record-list.csv.gz").write_bytes(gzip.compress(records.encode(), mtime=0))
    source = MimicCxrSource(raw)
    assert [names(s) for s in source] == [["a2", "a1"], ["c1"], ["b1"]]
    assert {image.projection for s in source for image in s.images} == {"unknown"}
    assert "metadata.csv.gz is missing (physionet.org/content/mimic-cxr-jpg" in source.notes[0]


@pytest.mark.parametrize(
    ("position", "projection"),
    [("AP", "frontal"), (" pa ", "frontal"), ("XTABLE LATERAL", "lateral"), ("LAO", "unknown")],
)
def test_view_positions_become_projections(raw, position, projection):
    write_table(raw, "metadata", f"dicom_id,study_id,ViewPosition\na1,50000001,{position}\n")
    assert next(iter(MimicCxrSource(raw))).images[0].projection == projection


def test_images_are_read_by_content_under_any_ending(raw):
    folder = raw / "files" / STUDIES[0]
    (folder / "a1.jpg").unlink()
    (folder / "a2.jpg").unlink()
    expected = draw(folder / "a1.jpeg", 1, "PNG")
    second, first = next(iter(MimicCxrSource(raw))).images
    read = pickle.loads(pickle.dumps(first.read))
    assert np.array_equal(read(256), expected)
    with pytest.raises(DataError, match="a2.jpg not found"):
        second.read(256)


def test_dicom_takes_the_place_of_jpg(raw, data_dir):
    folder = raw / "files" / STUDIES[0]
    for name in ("a1", "a2"):
        (folder / f"{name}.jpg").unlink()
    source = data_dir / "dicom" / "chest_pa_monochrome2_jpeg.dcm"
    (folder / "a1.dcm").write_bytes(source.read_bytes())
    _, image = next(iter(MimicCxrSource(raw))).images
    assert image.read(256).dtype == np.uint8


def test_reports_unpacked_beside_the_images_are_found(raw, tmp_path):
    for path in raw.glob("files/*/*/*.txt"):
        path.unlink()
    for tree in ("mimic-cxr-reports/files", "mimic-cxr-reports", "."):
        reports = tmp_path / tree.replace("/", "_")
        write_reports(reports / tree)
        source = MimicCxrSource(raw, reports)
        assert [study.refusal for study in source] == [None, None, None]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no report: .*s50000001.txt"),
        (b"", "its report is empty"),
        (b" \n \n", "its report is empty"),
        (b"FINDINGS: \xe9", "its report is not UTF-8 text .byte 0xe9 at 10."),
        (b"x" * 1_000_001, "its report is longer than"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_study_without_a_readable_report_says_so(raw, content, reason, packed):
    path = raw / "files" / f"{STUDIES[0]}.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    if packed:
        with zipfile.ZipFile(raw / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(raw.glob("files/*/*/*.txt")):
                archive.write(file, f"files/{file.name}")
    first, *others = MimicCxrSource(raw)
    assert not first.sections
    assert {study.refusal for study in others} == {None}
    assert re.search(reason, first.refusal)


@pytest.mark.parametrize(
    ("packing", "place", "value", "reason"),
    [
        (zipfile.ZIP_DEFLATED, 90, b"\0" * 10, ""),
        (zipfile.ZIP_STORED, 90, b"#", "Bad CRC-32"),
        (zipfile.ZIP_STORED, 0, b"?", "Bad magic number"),
    ],
)
def test_a_report_that_is_broken_in_the_archive_costs_only_its_study(
    raw, packing, place, value, reason
):
    path = raw / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        for study in STUDIES:
            archive.write(raw / "files" / f"{study}.txt", f"files/{study}.txt")
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value  # the first file's header begins at 0
    path.write_bytes(content)
    reasons = {study.id: study.refusal for study in MimicCxrSource(raw)}
    assert re.search(f"cannot be unpacked: .*{reason}", reasons.pop("s50000001"))
    assert set(reasons.values()) == {None}


def test_an_encrypted_archive_is_refused(raw):
    path = raw / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("files/s50000001.txt", "secret")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="reports.zip is encrypted; unpack it"):
        MimicCxrSource(raw)


def test_an_archive_that_cannot_be_read_or_has_no_reports_is_refused(raw):
    path = raw / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("files/index.html", "no report")
    with pytest.raises(DataError, match="has none of the reports"):
        MimicCxrSource(raw)
    content = path.read_bytes()
    of_no_zip = content.replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\xff")
    assert of_no_zip != content
    for unreadable in (content[:-40], of_no_zip, b""):
        path.write_bytes(unreadable)
        with pytest.raises(DataError, match="reports.zip is broken or cut off .*download it again"):
            MimicCxrSource(raw)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a3,50000001,10000032,test", "puts its images into several splits"),
        ("a3,50000001,10000033,train", "images are of several patients"),
        ("a1,50000001,10000032,train", "names one of its images twice"),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(raw, row, reason):
    write_table(raw, "split", f"{SPLIT}{row}\n")
    first, *others = MimicCxrSource(raw)
    assert reason in first.refusal
    assert {study.refusal for study in others} == {None}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a3,50000001,10000032,dev", "line 6: split is 'dev'; expected one of train, validate"),
        ("../a3,50000001,10000032,train", r"line 6: dicom_id is '../a3'; expected the name"),
        ("a3,s50000001,10000032,train", "line 6: study_id is 's50000001'; expected a number"),
        ("a3,50000001,10000032", "line 6: 3 values"),
    ],
)
def test_a_broken_split_names_the_cell(raw, row, message):
    write_table(raw, "split", f"{SPLIT}{row}\n")
    with pytest.raises(DataError, match=f"split.csv.gz, {message}"):
        MimicCxrSource(raw)


def test_what_is_missing_is_named_with_where_physionet_keeps_it(raw, tmp_path):
    for path in raw.glob("files/*/*/*.txt"):
        path.unlink()
    with pytest.raises(DataError, match=r"has none of the reports.*org/content/mimic-cxr/2.1.0/"):
        MimicCxrSource(raw)
    with pytest.raises(DataError, match="elsewhere not found; give the folder of the reports"):
        MimicCxrSource(raw, tmp_path / "elsewhere")
    (raw / "files").rename(raw / "other")
    with pytest.raises(DataError, match=r"none of the images .*files/p10/p10000032/s50000001 "):
        MimicCxrSource(raw)
    with pytest.raises(
        DataError, match="mimic-cxr-2.0.0-split.csv.gz or .*, but .*mimic has: give that"
    ):
        MimicCxrSource(tmp_path)
    write_table(raw, "split", "dicom_id,study_id,subject_id,split\n")
    with pytest.raises(DataError, match="split.csv.gz has no row"):
        MimicCxrSource(raw)
    (raw / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    with pytest.raises(DataError, match=r"has no mimic-cxr-2.0.0-split.csv.gz.*mimic-cxr-jpg/2.1"):
        MimicCxrSource(raw)
    with pytest.raises(DataError, match="absent not found"):
        MimicCxrSource(tmp_path / "absent")


ANNOTATION = {
    "train": [
        {"id": "a1", "report": "From R2Gen.", "image_path": [f"{STUDIES[0]}/a1.jpg"]},
        {"id": "a2", "report": "From R2Gen.", "image_path": [f"{STUDIES[0]}/a2.jpg"]},
    ],
    "val": [],
    "test": [
        {"id": "c1", "report": "Large heart.", "image_path": [f"{STUDIES[2]}/c1.jpg"]},
        {"id": "odd", "report": "x", "image_path": ["odd.jpg"], "study_id": 1},
    ],
}


def test_every_row_of_r2gens_annotation_is_a_study(raw):
    (raw / "annotation.json").write_text(json.dumps(ANNOTATION))
    (raw / "files").rename(raw / "images")
    labels = f"subject_id,study_id,{LABELS}\n10000032,50000001,1.0,,,,,,,,,,,,,\n"
    write_table(raw, "chexpert", labels)
    source = MimicCxrSource(raw)
    assert [s.labels for s in source] == [{"Atelectasis": 1}, {"Atelectasis": 1}, {}, {}]
    assert [(s.id, s.patient_id, s.split, names(s)) for s in source] == [
        ("s50000001_a1", "10000032", "train", ["a1"]),
        ("s50000001_a2", "10000032", "train", ["a2"]),
        ("s50000003_c1", "11000007", "test", ["c1"]),
        ("odd", None, "test", ["odd"]),
    ]
    assert len(source) == 4
    first, second, *_ = source
    # The findings are R2Gen's, the other sections those of the reports, where they are there.
    assert first.sections == {
        "findings": "From R2Gen.",
        "impression": "Normal.",
        "indication": "Cough.",
    }
    assert [s.images[0].projection for s in (first, second)] == ["frontal", "lateral"]
    assert source.expected_counts == {"train": 270790, "val": 2130, "test": 3858}
    assert "decides which images" in source.notes[0]
    assert "1 of 4 rows repeat the report" in source.notes[1]


def test_r2gens_folder_needs_neither_tables_nor_reports(raw, tmp_path):
    alone = tmp_path / "r2gen"
    alone.mkdir()
    (raw / "files").rename(alone / "images")
    for path in alone.glob("images/*/*/*.txt"):
        path.unlink()
    (alone / "annotation.json").write_text(json.dumps(ANNOTATION))
    source = MimicCxrSource(alone)
    first = next(iter(source))
    assert first.sections == {"findings": "From R2Gen."}
    assert first.refusal is None
    assert first.images[0].read(256).shape == (40, 50)
    assert "reports are missing" in source.notes[-1]


def test_the_official_split_can_be_asked_for_where_r2gens_annotation_lies(raw):
    with pytest.raises(DataError, match=r"annotation\.json not found"):
        MimicCxrSource(raw, split="r2gen")
    (raw / "annotation.json").write_text(json.dumps(ANNOTATION))
    by_split = {split: MimicCxrSource(raw, split=split) for split in (None, "r2gen", "official")}
    assert [len(source) for source in by_split.values()] == [4, 4, 3]
    official, published = by_split["official"], by_split["r2gen"]
    assert official.expected_images == {"train": 368960, "val": 2991, "test": 5159}
    assert published.expected_images == published.expected_counts
    assert official.splits == {"train", "val", "test"}
    assert published.splits == {"train", "test"}
    assert published.fingerprint() == by_split[None].fingerprint() != official.fingerprint()
    assert "--split official" in published.notes[0]
    with pytest.raises(DataError, match="'mine' is not one of official, r2gen"):
        MimicCxrSource(raw, split="mine")


def test_outlines_read_no_report(raw):
    outlines = list(MimicCxrSource(raw).outlines())
    for path in raw.glob("files/*/*/*.txt"):
        path.unlink()
    assert [(study.id, study.split) for study in outlines] == [
        ("s50000001", "train"),
        ("s50000003", "test"),
        ("s50000002", "val"),
    ]
    assert "no report" in outlines[0].read().refusal


def test_an_image_is_looked_for_without_being_opened(raw):
    (raw / "files" / STUDIES[0] / "a1.jpg").write_bytes(b"")
    (raw / "files" / STUDIES[0] / "a2.jpg").unlink()
    second, first = next(iter(MimicCxrSource(raw))).images
    first.find()
    with pytest.raises(DataError, match="a2.jpg not found"):
        second.find()


def test_the_fingerprint_tells_how_far_it_is(raw):
    told = []
    MimicCxrSource(raw).fingerprint(lambda: told.append(1))
    assert len(told) == 3


def test_the_fingerprint_follows_tables_reports_and_images(raw):
    seen = [MimicCxrSource(raw).fingerprint()]
    assert MimicCxrSource(raw).fingerprint() == seen[0]
    image = raw / "files" / STUDIES[0] / "a1.jpg"
    image.write_bytes(image.read_bytes() + b"1")
    seen.append(MimicCxrSource(raw).fingerprint())
    image.rename(image.with_suffix(".png"))
    seen.append(MimicCxrSource(raw).fingerprint())
    image.with_suffix(".png").unlink()
    seen.append(MimicCxrSource(raw).fingerprint())
    (raw / "files" / f"{STUDIES[1]}.txt").write_text("FINDINGS: Other.")
    seen.append(MimicCxrSource(raw).fingerprint())
    with zipfile.ZipFile(raw / "mimic-cxr-reports.zip", "w") as archive:
        archive.writestr("s50000001.txt", "FINDINGS: One.")
    seen.append(MimicCxrSource(raw).fingerprint())
    with zipfile.ZipFile(raw / "mimic-cxr-reports.zip", "w") as archive:
        archive.writestr("s50000001.txt", "FINDINGS: Two.")
    seen.append(MimicCxrSource(raw).fingerprint())
    write_table(raw, "split", SPLIT.replace("validate", "test"))
    seen.append(MimicCxrSource(raw).fingerprint())
    (raw / "annotation.json").write_text(json.dumps(ANNOTATION))
    seen.append(MimicCxrSource(raw).fingerprint())
    assert len(set(seen)) == len(seen)
    (raw / "files" / "Thumbs.db").write_text("no table names it")
    assert MimicCxrSource(raw).fingerprint() == seen[-1]


def test_a_folder_in_the_layout_of_mimic_cxr_jpg_agrees_with_its_tables(data_dir):
    raw = data_dir / "mimic_cxr_like"
    source = MimicCxrSource(raw)
    with gzip.open(raw / "mimic-cxr-2.0.0-metadata.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    studies = list(source)
    assert len(studies) == len(source) == 120
    assert Counter(study.split for study in studies) == {"train": 93, "val": 12, "test": 15}
    images = [image for study in studies for image in study.images]
    assert sorted(Path(image.name).stem for image in images) == sorted(r["dicom_id"] for r in rows)
    assert Counter(image.projection for image in images) == {"frontal": 123, "lateral": 108}
    assert all((raw / "files" / image.name).is_file() for image in images)
    assert all(study.sections.keys() & {"findings", "impression"} for study in studies)
    assert sum(len(study.labels) for study in studies) == 100
    assert {study.refusal for study in studies} == {None}
    assert images[0].read(256).shape == (256, 256)
    assert source.notes == ()
