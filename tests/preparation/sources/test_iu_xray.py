import csv
import gzip
import io
import json
import pickle
import shutil
import tarfile
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from radrep.errors import DataError
from radrep.preparation.sources.iu_xray import images as iu_images
from radrep.preparation.sources.iu_xray.images import open_i_name, read_members
from radrep.preparation.sources.iu_xray.reports import read_reports
from radrep.preparation.sources.iu_xray.source import IuXraySource
from radrep.progress import Reporter

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
IMAGES = [
    "CXR1_1_IM-0001-3001",
    "CXR1_1_IM-0001-4001",
    "CXR10_IM-0002-2001",
    "CXR10_IM-0002-1001",
]
PLACES = {
    "png": "NLMCXR_png/{name}.png",
    "flat": "{name}.png",
    "dicom": "NLMCXR_dcm/{number}/{kaggle}.dcm",
    "kaggle": "images/images_normalized/{kaggle}.dcm.png",
    "NLMCXR_png.tgz": "NLMCXR_png/{name}.png",
    "NLMCXR_dcm.tgz": "NLMCXR_dcm/{number}/{kaggle}.dcm",
}


def write_raw(raw: Path, annotation: object = ROWS) -> Path:
    (raw / "images").mkdir(parents=True)
    (raw / "annotation.json").write_text(json.dumps(annotation))
    return raw


def draw(path: Path, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return pixels


def xml(images: list[str], findings: str = "", impression: str = "", mesh: tuple = ()) -> str:
    texts = {"COMPARISON": "", "FINDINGS": findings, "IMPRESSION": impression}
    return (
        '<?xml version="1.0" encoding="utf-8"?><eCitation><Abstract>'
        + "".join(f'<AbstractText Label="{k}">{escape(v)}</AbstractText>' for k, v in texts.items())
        + "</Abstract><MeSH>"
        + "".join(f"<major>{term}</major>" for term in mesh)
        + "<automatic>hernia</automatic></MeSH>"
        + "".join(f'<parentImage id="{image}"><panel/></parentImage>' for image in images)
        + "</eCitation>"
    )


def write_reports(raw: Path) -> Path:
    folder = raw / "ecgen-radiology"
    folder.mkdir(parents=True)
    terms = ("Cardiomegaly/mild", "Hernia, Hiatal/large", "Cardiomegaly", "No Indexing")
    (folder / "1.xml").write_text(xml(IMAGES[:2], "Lungs < clear.", "Normal.", ("normal",)))
    (folder / "7.xml").write_text(xml([], "Clear."))
    (folder / "10.xml").write_text(xml(IMAGES[2:], "Large heart.", mesh=terms))
    (folder / "12.xml").write_text("<eCitation><Abst")
    (folder / "readme.xml").write_text("no report")
    return raw


def write_open_i(raw: Path) -> Path:
    write_reports(raw)
    for seed, image in enumerate(IMAGES):
        draw(raw / "NLMCXR_png" / f"{image}.png", seed)
    return raw


def write_kaggle(raw: Path) -> Path:
    raw.mkdir(exist_ok=True)
    reports = REPORTS.replace("10,heart,", "10,Cardiomegaly/mild;Spine,").replace(",normal,", ",,")
    (raw / "indiana_reports.csv").write_text(reports + "1,,,,,Clear.,\n2084,,,,,Clear.,\n")
    more = ("1,1_IM-0001-3001", "2084,2084_IM-0715-1001-0001", "2084,2084_IM-0715-2001-0002")
    rows = "".join(f"{name}.dcm.png,Frontal\n" for name in more)
    (raw / "indiana_projections.csv").write_text(PROJECTIONS + rows)
    draw(raw / "images" / "images_normalized" / "1_IM-0001-3001.dcm.png")
    return raw


def write_dicom(path: Path, pixels: np.ndarray) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def pack(archive: Path, folder: Path) -> None:
    """Put a folder into an archive, and remove it."""
    # In this format each member has one header only.
    with tarfile.open(archive, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)


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
    assert source.expected_counts == {"train": 2069, "val": 296, "test": 590}
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


def test_the_fingerprint_follows_text_tables_and_sizes_of_images(tmp_path):
    raw = write_raw(tmp_path)
    seen = [IuXraySource(raw).fingerprint()]
    path = raw / "images" / "CXR7_IM-2263" / "0.jpg"
    draw(path, seed=1)
    seen.append(IuXraySource(raw).fingerprint())
    path.write_bytes(path.read_bytes() + b"more")
    seen.append(IuXraySource(raw).fingerprint())
    (raw / "indiana_reports.csv").write_text(REPORTS)
    seen.append(IuXraySource(raw).fingerprint())
    (raw / "annotation.json").write_text(json.dumps({**ROWS, "val": []}))
    seen.append(IuXraySource(raw).fingerprint())
    assert len(set(seen)) == 5
    (raw / "images" / "Thumbs.db").write_text("not named by the annotation")
    path.write_bytes(path.read_bytes()[::-1])  # not opened
    assert IuXraySource(raw).fingerprint() == seen[-1]


def test_a_folder_that_is_not_iu_xray_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="no IU X-Ray folder: expected R2Gen's annotation.json"):
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
        ([1], "expected an object with train, val, test"),
        ({"training": []}, '"training" is not one of the splits'),
        ({"train": []}, "has no study"),
        ({"val": [{"id": "a", "image_path": []}]}, r"val\[0\].report is missing; found id, image"),
    ],
)
def test_a_broken_annotation_is_refused(tmp_path, annotation, message):
    with pytest.raises(DataError, match=message):
        IuXraySource(write_raw(tmp_path, annotation))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"uid,findings\n1,x\n", "no column 'impression'; its columns are uid, findings"),
        (b"", "its columns are none"),
        (b"\xff\x81", "not UTF-8"),
    ],
)
def test_a_table_that_is_not_kaggles_is_refused(tmp_path, content, message):
    write_raw(tmp_path)
    (tmp_path / "indiana_reports.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"indiana_reports.csv.*{message}"):
        IuXraySource(tmp_path)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("CXR1000_IM-0003-1001.png", "CXR1000_IM-0003-1001"),
        ("1000_IM-0003-1001.dcm.png", "CXR1000_IM-0003-1001"),
        ("NLMCXR_dcm/1000/1000_IM-0003-1001.dcm", "CXR1000_IM-0003-1001"),
        ("CXR1021_IM-0017-1001-0001.png", "CXR1021_IM-0017-1001-0001"),
        ("CXR1_1_IM-0001-3001.png", "CXR1_1_IM-0001-3001"),
        ("1_IM-0001-3001.dcm.png", "CXR1_1_IM-0001-3001"),
        ("../../CXR7_IM-1-1", "CXR7_IM-1-1"),
        ("._CXR7_IM-1-1.png", None),
        ("CXR7_IM-1-1/0.png", None),
        ("CXR7.png", None),
    ],
)
def test_the_names_of_open_i_kaggle_and_dicom_are_one(name, image):
    assert open_i_name(name) == image


def test_open_i_xml_gives_sections_labels_and_the_whole_report(tmp_path):
    source = IuXraySource(write_open_i(tmp_path))
    one, seven, ten, twelve = studies = list(source)
    assert len(source) == 4
    assert [study.id for study in studies] == ["CXR1_1_IM-0001", "CXR7", "CXR10_IM-0002", "CXR12"]
    assert [study.patient_id for study in studies] == ["1", "7", "10", "12"]
    assert one.sections == {"findings": "Lungs < clear.", "impression": "Normal."}
    assert one.report == "FINDINGS: Lungs < clear.\nIMPRESSION: Normal."
    assert one.labels == {"normal": 1}
    assert ten.labels == {"Cardiomegaly": 1, "Hernia, Hiatal": 1}
    assert [image.name for image in ten.images] == ["CXR10_IM-0002-2001", "CXR10_IM-0002-1001"]
    assert one.refusal is None
    assert ten.refusal is None
    assert "names no image" in seven.refusal
    assert "12.xml is no XML" in twelve.refusal
    assert source.expected_counts == {"all": 3955}
    assert source.expected_images == {"all": 7470}
    assert source.layout == "Open-i's PNG + ecgen-radiology"
    assert "not R2Gen's" in source.notes[0]
    assert "1 reports cannot be read, the first because 12.xml" in source.notes[1]


def test_splits_without_an_annotation_have_r2gens_shares_and_stay(tmp_path):
    folder = tmp_path / "ecgen-radiology"
    folder.mkdir()
    for number in range(1, 1001):
        (folder / f"{number}.xml").write_text(xml([f"CXR{number}_IM-1-1"], "Clear."))
    draw(tmp_path / "NLMCXR_png" / "CXR5_IM-1-1.png")
    splits = {study.id: study.split for study in IuXraySource(tmp_path)}
    counts = Counter(splits.values())
    assert abs(counts["train"] - 700) < 45  # three standard errors
    assert abs(counts["val"] - 100) < 30
    assert abs(counts["test"] - 200) < 40
    (folder / "1.xml").unlink()
    fewer = {study.id: study.split for study in IuXraySource(tmp_path)}
    assert fewer.items() < splits.items()


def test_every_layout_of_images_gives_the_same_studies(tmp_path):
    rng = np.random.default_rng(0)
    drawn = {name: rng.integers(0, 256, (40, 50)).astype(np.uint8) for name in IMAGES}
    for layout, place in PLACES.items():
        raw = tmp_path / layout.strip(".")
        write_reports(raw)
        for name, pixels in drawn.items():
            kaggle_name = name.removeprefix("CXR").replace("1_1_", "1_")
            path = raw / place.format(name=name, kaggle=kaggle_name, number=kaggle_name[:1])
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".dcm":
                write_dicom(path, pixels)
            else:
                Image.fromarray(pixels).save(path, format="PNG")
        if layout.endswith(".tgz"):
            pack(raw / f"{layout}", raw / place.partition("/")[0])
        source = unpacked(raw, tmp_path / "scratch" / layout)
        for study, names in zip(source, ([*IMAGES[:2]], [], [*IMAGES[2:]], []), strict=True):
            assert [image.name for image in study.images] == names, layout
            for image in study.images:
                read = pickle.loads(pickle.dumps(image.read))
                assert np.array_equal(read(256), drawn[image.name]), layout


def test_kaggle_alone_is_enough(tmp_path):
    raw = write_kaggle(tmp_path)
    source = IuXraySource(raw)
    one, seven, ten, missing = source
    assert [s.id for s in source] == [
        "CXR1_1_IM-0001",
        "CXR7_IM-9999",
        "CXR10_IM-0002",
        "CXR2084_IM-0715-1001",
    ]
    assert one.sections == {"findings": "Clear."}
    assert seven.labels == {}
    assert ten.labels == {"Cardiomegaly": 1, "Spine": 1}
    assert [image.projection for image in ten.images] == ["lateral", "frontal", "frontal"]
    assert [image.name for image in missing.images] == [
        "CXR2084_IM-0715-1001-0001",
        "CXR2084_IM-0715-2001-0002",
    ]
    assert source.layout.startswith("Kaggle's images + indiana_reports.csv")
    with pytest.raises(DataError, match="CXR2084_IM-0715-2001-0002 not found in"):
        missing.images[1].read(256)
    assert one.images[0].read(256).shape == (40, 50)


def test_images_that_only_kaggle_lacks_are_missed_elsewhere(tmp_path):
    names = [f"CXR2084_IM-0715-1001-000{k}" for k in (1, 2)]
    (tmp_path / "ecgen-radiology").mkdir()
    (tmp_path / "ecgen-radiology" / "2084.xml").write_text(xml(names, "Clear."))
    draw(tmp_path / f"{names[0]}.png")
    (study,) = IuXraySource(tmp_path)
    assert [image.name for image in study.images] == names
    with pytest.raises(DataError, match=f"{names[1]} not found"):
        study.images[1].read(256)


def test_r2gens_images_are_counted_with_those_that_kaggle_lacks(tmp_path):
    names = ["CXR2084_IM-0715-1001/0.png", "CXR2084_IM-0715-1001/1.png"]
    row = {"id": "CXR2084_IM-0715-1001", "report": "Clear.", "image_path": names}
    write_kaggle(write_raw(tmp_path, {"train": [row]}))
    draw(tmp_path / "images" / names[0])
    (study,) = IuXraySource(tmp_path)
    # The second is 1001-0002, which Kaggle has not, and not 2001-0002, which comes next there.
    assert [image.projection for image in study.images] == ["frontal", "unknown"]


def test_r2gens_annotation_goes_with_images_of_open_i(tmp_path):
    raw = write_open_i(tmp_path)
    (raw / "annotation.json").write_text(json.dumps(ROWS))
    pixels = draw(raw / "NLMCXR_png" / "CXR10_IM-0002-1001.png", seed=5)
    source = IuXraySource(raw)
    assert source.layout == "R2Gen's annotation.json + Open-i's PNG + ecgen-radiology"
    study = next(study for study in source if study.id == "CXR10_IM-0002")
    assert study.split == "train"
    assert study.sections["findings"] == "Large heart."
    assert study.labels == {"Cardiomegaly": 1, "Hernia, Hiatal": 1}
    assert np.array_equal(study.images[1].read(256), pixels)
    for file in (raw / "ecgen-radiology").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="to match them, add NLMCXR_reports.tgz"):
        IuXraySource(raw)


def test_kaggle_stands_in_for_a_broken_xml_and_adds_projections(tmp_path):
    raw = write_open_i(tmp_path)
    (raw / "indiana_reports.csv").write_text(
        "uid,MeSH,indication,comparison,findings,impression\n12,normal,,,Clear.,\n10,x,,,Other.,\n"
    )
    (raw / "indiana_projections.csv").write_text(
        "uid,filename,projection\n12,12_IM-7-1.dcm.png,Frontal\n"
        "10,10_IM-0002-1001.dcm.png,Frontal\n10,10_IM-0002-2001.dcm.png,Lateral\n"
    )
    _, _, ten, twelve = IuXraySource(raw)
    assert [image.projection for image in ten.images] == ["lateral", "frontal"]
    assert ten.sections == {"findings": "Large heart."}
    assert twelve.sections == {"findings": "Clear."}
    assert twelve.refusal is None


class CountingReporter(Reporter):
    total = done = 0

    @contextmanager
    def progress(self, label, total, unit):
        def advance(n=1, note=""):
            self.done += n

        self.total = total
        yield advance


def unpacked(raw: Path, scratch: Path) -> IuXraySource:
    source = IuXraySource(raw)
    if source.archive:
        source.unpack(scratch)
    return source


def test_an_archive_of_images_needs_room_to_be_unpacked(tmp_path):
    raw = write_open_i(tmp_path / "raw")
    pack(raw / "NLMCXR_png.tgz", raw / "NLMCXR_png")
    source = IuXraySource(raw)
    assert "unpacked first" in " ".join(source.notes)
    before = source.fingerprint()
    first, *others = source
    assert len(others) == 3, "to count needs no unpacking"
    with pytest.raises(DataError, match=r"NLMCXR_png\.tgz has to be unpacked first"):
        first.images[0].read(256)
    reporter = CountingReporter()
    source.unpack(tmp_path / "scratch", reporter=reporter)
    assert (reporter.done, reporter.total) == (len(IMAGES), 7470)
    assert next(iter(source)).images[0].read(256).shape == (40, 50)
    assert source.fingerprint() == before


def test_of_a_few_studies_no_more_is_unpacked(tmp_path):
    raw = write_open_i(tmp_path / "raw")
    pack(raw / "NLMCXR_png.tgz", raw / "NLMCXR_png")
    source = IuXraySource(raw)
    first, *others = source
    assert first.images[0].find is None, "what is in an archive is not known"
    content = (raw / "NLMCXR_png.tgz").read_bytes()
    reporter = CountingReporter()
    source.unpack(tmp_path / "scratch", [first.id], reporter)
    assert reporter.total == reporter.done == len(first.images)
    first, *others = source
    for image in first.images:
        image.find()
        assert image.read(256).shape == (40, 50)
    # A whole one is not taken for done, and has the rest.
    again = IuXraySource(raw)
    again.unpack(tmp_path / "scratch")
    assert [image.read(256).shape for study in again for image in study.images[:1]]
    assert (raw / "NLMCXR_png.tgz").read_bytes() == content


def test_no_member_of_an_archive_lands_outside(tmp_path):
    raw, scratch = write_reports(tmp_path / "raw"), tmp_path / "a" / "b" / "scratch"
    draw(tmp_path / "chest.png")
    with tarfile.open(raw / "NLMCXR_png.tgz", "w:gz") as tar:
        for name in ("../../CXR1_1_IM-0001-3001.png", "/tmp/CXR10_IM-0002-2001.png", "../x.png"):
            tar.add(tmp_path / "chest.png", name)
        tar.getmembers()[1].name = "/CXR10_IM-0002-2001.png"
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("CXR1_1_IM-0001-4001.png")
            member.type, member.linkname = kind, str(tmp_path / "chest.png")
            tar.addfile(member)
    one, _, ten, _ = unpacked(raw, scratch)
    assert one.images[0].read(256).shape == (40, 50)
    assert ten.images[0].read(256).shape == (40, 50)
    with pytest.raises(DataError, match="CXR1_1_IM-0001-4001 not found"):
        one.images[1].read(256)
    (folder,) = scratch.iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "complete",
        "CXR1_1_IM-0001-3001",
        "CXR10_IM-0002-2001",
    }
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in written if folder not in path.parents and raw not in path.parents} == {
        tmp_path / "chest.png"
    }


def test_unpacking_goes_on_after_a_kill(tmp_path, monkeypatch):
    raw, scratch = write_open_i(tmp_path / "raw"), tmp_path / "scratch"
    expected = {
        image.name: image.read(256) for study in IuXraySource(raw) for image in study.images
    }
    pack(raw / "NLMCXR_png.tgz", raw / "NLMCXR_png")
    write, written = iu_images._write, []

    def killed(path, size, chunks):
        if len(written) == 2:
            path.with_name(path.name + ".partial").write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, size, chunks)
        written.append((path, path.stat().st_mtime_ns))

    monkeypatch.setattr(iu_images, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        unpacked(raw, scratch)
    monkeypatch.undo()
    for _ in range(2):
        found = {i.name: i.read(256) for study in unpacked(raw, scratch) for i in study.images}
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert all(path.stat().st_mtime_ns == then for path, then in written)
    assert not list(scratch.rglob("*.partial"))


def test_images_without_their_bytes_after_a_power_loss_are_unpacked_again(tmp_path):
    raw, scratch = write_open_i(tmp_path / "raw"), tmp_path / "scratch"
    pack(raw / "NLMCXR_png.tgz", raw / "NLMCXR_png")
    unpacked(raw, scratch)
    (mark,) = scratch.rglob("complete")
    mark.unlink()
    films = sorted(mark.parent.iterdir())
    expected = [film.read_bytes() for film in films]
    films[0].write_bytes(bytes(len(expected[0])))
    unpacked(raw, scratch)
    assert mark.is_file()
    assert [film.read_bytes() for film in films] == expected


def test_what_a_killed_run_unpacked_inside_the_raw_folder_is_no_download(tmp_path):
    raw = write_open_i(tmp_path / "raw")
    draw(raw / "iu.unpacked" / "NLMCXR_png.tgz-123-456" / IMAGES[0])
    pack(raw / "NLMCXR_png.tgz", raw / "NLMCXR_png")
    source = IuXraySource(raw)
    assert source.archive == raw / "NLMCXR_png.tgz"
    assert source.layout == "NLMCXR_png.tgz + ecgen-radiology"


@pytest.mark.parametrize("archive", ["NLMCXR_reports.tgz", "NLMCXR_png.tgz"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "header", "empty", "no archive"])
def test_a_broken_archive_is_one_clear_error(tmp_path, archive, harm):
    raw = write_open_i(tmp_path / "raw")
    pack(raw / archive, raw / ("ecgen-radiology" if "reports" in archive else "NLMCXR_png"))
    content = (raw / archive).read_bytes()
    if harm == "header":
        tar = bytearray(gzip.decompress(content))
        last = tar.rindex(b"ustar")
        tar[last - 100 : last] = b"x" * 100
        content = gzip.compress(bytes(tar), mtime=0)
    elif harm == "flipped":
        half = len(content) // 2
        content = content[:half] + bytes([content[half] ^ 255]) + content[half + 1 :]
    else:
        content = {"cut": content[:-20], "empty": b"", "no archive": b"<html>" * 99}[harm]
    (raw / archive).write_bytes(content)
    with pytest.raises(DataError, match=f"{archive} is broken or cut short .*download it again"):
        list(unpacked(raw, tmp_path / "scratch"))


def test_reports_without_images_and_images_without_reports_say_what_to_add(tmp_path):
    draw(tmp_path / "a" / "CXR10_IM-0002-1001.png")
    with pytest.raises(DataError, match="but no reports; add NLMCXR_reports.tgz"):
        IuXraySource(tmp_path / "a")
    write_reports(tmp_path / "b")
    with pytest.raises(DataError, match="has reports but no images; add NLMCXR_png"):
        IuXraySource(tmp_path / "b")
    with pytest.raises(DataError, match="but .*b has: give that folder"):
        IuXraySource(tmp_path)
    (tmp_path / "a" / "indiana_projections.csv").write_text(PROJECTIONS)
    with pytest.raises(DataError, match="has no text of a report; add NLMCXR_reports.tgz"):
        IuXraySource(tmp_path / "a")


def test_images_of_no_report_are_counted_and_links_in_circles_end(tmp_path):
    raw = write_open_i(tmp_path)
    draw(raw / "NLMCXR_png" / "CXR4000_IM-1-1.png")
    for name in "abc":  # followed as deep as the system allows, they would have no end
        (raw / "NLMCXR_png" / name).symlink_to(raw)
    source = IuXraySource(raw)
    assert "1 images belong to no report" in source.notes[-1]
    assert len(source) == 4


def test_links_to_images_elsewhere_are_followed(tmp_path):
    raw = write_open_i(tmp_path / "raw")
    (raw / "NLMCXR_png").rename(tmp_path / "elsewhere")
    (raw / "NLMCXR_png").symlink_to(tmp_path / "elsewhere")
    one = next(iter(IuXraySource(raw)))
    assert one.images[0].read(256).shape == (40, 50)


def test_a_linked_folder_further_in_that_leads_outside_is_not_followed(tmp_path):
    rows = [{"id": name, "report": "Clear.", "image_path": [f"{name}/0.png"]} for name in "ab"]
    raw = write_raw(tmp_path / "raw", {"train": rows})
    draw(raw / "images" / "a" / "0.png")
    draw(tmp_path / "elsewhere" / "0.png")
    (raw / "images" / "b").symlink_to(tmp_path / "elsewhere")
    inside, outside = IuXraySource(raw)
    assert inside.images[0].read(256).shape == (40, 50)
    for look in (outside.images[0].find, lambda: outside.images[0].read(256)):
        with pytest.raises(DataError, match="behind a link that leads out of"):
            look()
    # The whole folder of images may lie on another disk.
    (raw / "images").rename(tmp_path / "disk")
    (raw / "images").symlink_to(tmp_path / "disk")
    assert next(iter(IuXraySource(raw))).images[0].read(256).shape == (40, 50)

    raw = write_open_i(tmp_path / "open_i")
    (raw / "NLMCXR_png").rename(tmp_path / "pngs")
    (raw / "NLMCXR_png").mkdir()
    (raw / "NLMCXR_png" / "deeper").symlink_to(tmp_path / "pngs")
    with pytest.raises(DataError, match="no images"):
        IuXraySource(raw)


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        ("indiana_projections.csv", "7,chest.png,Frontal", "line 2: filename is 'chest.png'"),
        ("indiana_projections.csv", "x,7_IM-1-1.dcm.png,Frontal", "line 2: uid is 'x'"),
        ("indiana_reports.csv", "7.5,,,,Clear.,", "line 2: uid is '7.5'; expected the number"),
    ],
)
def test_a_cell_that_is_not_kaggles_is_named(tmp_path, table, row, message):
    header = {
        "indiana_projections.csv": "uid,filename,projection",
        "indiana_reports.csv": "uid,MeSH,indication,comparison,findings,impression",
    }[table]
    (write_raw(tmp_path) / table).write_text(f"{header}\n{row}\n")
    with pytest.raises(DataError, match=f"{table}, {message}"):
        IuXraySource(tmp_path)


@pytest.mark.slow
def test_the_real_layouts_agree(data_dir, tmp_path):
    raw = data_dir / "iu_xray"
    with (raw / "image_names.csv").open(newline="") as file:
        names = list(csv.DictReader(file))
    open_i, kaggle = tmp_path / "open_i", tmp_path / "kaggle"
    (open_i / "NLMCXR_png").mkdir(parents=True)
    (kaggle / "images" / "images_normalized").mkdir(parents=True)
    for row in names:
        image = raw / "images" / row["image"]
        (open_i / "NLMCXR_png" / f"{row['openi_name']}.png").symlink_to(image)
        (kaggle / "images" / "images_normalized" / row["kaggle_name"]).symlink_to(image)
    (open_i / "NLMCXR_reports.tgz").symlink_to(raw / "NLMCXR_reports.tgz")
    for table in ("indiana_reports.csv", "indiana_projections.csv"):
        (kaggle / table).symlink_to(raw / table)
    by_layout = [{s.id: s for s in IuXraySource(folder)} for folder in (raw, open_i, kaggle)]
    published, *others = by_layout
    assert len(published) == 2363
    kaggles = {row["image"]: row["projection"].lower() for row in names}
    originals = {row["image"]: row["openi_name"] for row in names}
    for study in published.values():
        for layout in others:
            same = layout[study.id]
            # These two indications begin with "+", which a spreadsheet took for formulas.
            is_lost = layout is others[1] and study.id in ("CXR1555_IM-0362", "CXR3477_IM-1690")
            lost = {"indication"} if is_lost else set()
            kept = {name: text for name, text in study.sections.items() if name not in lost}
            assert same.sections == kept
            assert same.labels == study.labels
            views = {image.name: image.projection for image in same.images}
            for image in study.images:
                assert image.projection == kaggles[image.name]
                assert views[originals[image.name]] in (image.projection, "unknown")
    kaggle_views = [i.projection for study in others[1].values() for i in study.images]
    assert "unknown" not in kaggle_views
    # The reports of R2Gen's test studies, 590, are not in the folder.
    studies = others[0].values()
    assert len(studies) == 3955 - 590
    with_findings = [study for study in studies if "findings" in study.sections]
    assert len(with_findings) == 3425 - 590
    chosen = {study.id for study in with_findings if len(study.images) >= 2}
    assert len(chosen) == 2955 - 590
    assert published.keys() < chosen
    assert sum(len(study.images) for study in studies) == 6247


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


@pytest.mark.parametrize("how", ["pax", "long name"])
def test_metadata_of_an_archive_that_fills_the_memory_is_refused(tmp_path, how):
    path = tmp_path / "NLMCXR_png.tgz"
    kind = tarfile.PAX_FORMAT if how == "pax" else tarfile.GNU_FORMAT
    with tarfile.open(path, "w:gz", format=kind, compresslevel=1) as tar:
        tar.addfile(tarfile.TarInfo("x" * 2_000_000))
    with pytest.raises(DataError, match="metadata of 2 MB; the limit is 1 MB"):
        list(read_members(path))


def test_an_endless_member_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "NLMCXR_png.tgz"
    member = tarfile.TarInfo("CXR1_1_IM-0001-3001.png")
    member.size = 6 * 10**9
    path.write_bytes(gzip.compress(member.tobuf()))
    with pytest.raises(DataError, match="has 6 GB; the limit is 1 GB"):
        list(read_members(path))


@pytest.mark.parametrize("how", ["bytes", "members", "zeros at its end", "xz"])
def test_an_archive_that_unpacks_to_much_more_than_itself_is_refused(tmp_path, monkeypatch, how):
    monkeypatch.setattr(iu_images, "_MAX_UNPACKED", 10**7)
    monkeypatch.setattr(iu_images, "_MAX_MEMBERS", 1000)
    path = tmp_path / "NLMCXR_png.tgz"
    size, number = {"bytes": (10**6, 20), "members": (0, 1001)}.get(how, (0, 1))
    with tarfile.open(path, "w:xz" if how == "xz" else "w:gz") as tar:
        for k in range(number):
            member = tarfile.TarInfo(f"CXR{k}_IM-0001-3001.txt")  # unread ones count as well
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
        if how == "zeros at its end":
            tar.fileobj.write(bytes(2 * 10**7))
    message = "unpacks to more than" if number > 1 else "is broken or cut short"
    with pytest.raises(DataError, match=message):
        list(read_members(path))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "it declares an entity, 'b'"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]><a>&b;</a>', "declares an entity, 'b'"),
        ('<!DOCTYPE a [<!ENTITY % b "c">]><a/>', "it declares an entity, 'b'"),
        ("<a>&b;</a>", "undefined entity"),
        ("<a>&lt;&#65;</a>", None),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_entities_of_its_own_is_no_report(tmp_path, text, problem, encoding):
    (tmp_path / "1.xml").write_bytes(text.encode(encoding))
    found = read_reports([tmp_path])["1"].problem
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize("packed", [True, False])
def test_a_report_of_gigabytes_is_read_to_its_limit(tmp_path, packed):
    content = b"<eCitation>" + b" " * 30_000_000
    folder = tmp_path / "ecgen-radiology"
    folder.mkdir()
    (folder / "1.xml").write_bytes(content)
    path = folder
    if packed:
        path = tmp_path / "NLMCXR_reports.tgz"
        with tarfile.open(path, "w:gz", compresslevel=1) as tar:
            tar.add(folder, arcname="ecgen-radiology")
    tracemalloc.start()
    reports = read_reports([path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reports["1"].problem == "1.xml has more than 1 MB, which no report has"
    assert peak < 10_000_000
