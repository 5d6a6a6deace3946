"""What downloads really contain: each is left out with its reason or ends in one clear error."""

import csv
import gzip
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.whole_way import radrep

Change = Callable[[Path], object]


def film(seed: int = 0, shape: tuple[int, int] = (64, 80)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def picture(seed: int = 0, mode: str = "L", kind: str = "PNG", **options: Any) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(film(seed)).convert(mode).save(encoded, format=kind, **options)
    return encoded.getvalue()


def deep(kind: str) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(film().astype(np.uint16) * 257).save(encoded, format=kind)
    return encoded.getvalue()


def float_tiff() -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(film().astype(np.float32)).save(encoded, format="TIFF")
    return encoded.getvalue()


def sized(height: int, width: int) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(film(shape=(height, width))).save(encoded, format="PNG")
    return encoded.getvalue()


def constant(level: int, kind: str = "PNG") -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(np.full((64, 64), level, np.uint8)).save(encoded, format=kind)
    return encoded.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(kind="JPEG", exif=exif)


def gigantic() -> bytes:
    """A PNG whose header promises 30000 x 30000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def dicom(**changes: Any) -> bytes:
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset: Dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    pixels = film()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.StudyInstanceUID = generate_uid()
    dataset.PixelData = pixels.tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    encoded = io.BytesIO()
    dataset.save_as(encoded, enforce_file_format=True)
    return encoded.getvalue()


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def make_folder(raw: Path) -> list[str]:
    for number in range(3):
        (raw / f"good{number}.png").write_bytes(picture(number))
    return ["folder"]


def make_table(raw: Path) -> list[str]:
    make_folder(raw)
    rows: list[dict[str, object]] = [
        {"image": f"good{n}.png", "study_id": n, "split": split, "findings": "Clear.", "Edema": 0}
        for n, split in enumerate(("train", "val", "test"))
    ]
    write_csv(raw / "reports.csv", rows)
    return ["folder", "--section", "both"]


def make_iu(raw: Path) -> list[str]:
    annotation = {}
    for number, split in enumerate(("train", "val", "test")):
        path = raw / "images" / str(number) / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(number))
        row = {"id": str(number), "report": "Clear.", "image_path": [f"{number}/0.png"]}
        annotation[split] = [row]
    (raw / "annotation.json").write_text(json.dumps(annotation))
    return ["iu"]


def make_mimic(raw: Path) -> list[str]:
    splits: list[dict[str, object]] = []
    metadata: list[dict[str, object]] = []
    for number, split in enumerate(("train", "validate", "test")):
        subject, study = 10_000_000 + number, 50_000_000 + number
        folder = raw / f"files/p10/p{subject}/s{study}"
        folder.mkdir(parents=True)
        (folder / f"film{number}.jpg").write_bytes(picture(number, kind="JPEG"))
        folder.with_suffix(".txt").write_text(" FINDINGS:\n Clear lungs.\n IMPRESSION: Normal.\n")
        ids = {"dicom_id": f"film{number}", "study_id": study, "subject_id": subject}
        splits.append(ids | {"split": split})
        metadata.append(ids | {"ViewPosition": "PA", "Rows": 64, "Columns": 80})
    write_csv(raw / "mimic-cxr-2.0.0-split.csv.gz", splits)
    write_csv(raw / "mimic-cxr-2.0.0-metadata.csv.gz", metadata)
    return ["mimic"]


CHEXPERT = "df_chexpert_plus_240401.csv"


def make_chexpert(raw: Path) -> list[str]:
    rows: list[dict[str, object]] = []
    for number, split in enumerate(("train", "train", "valid")):
        name = f"{split}/patient{number:05d}/study1/view1_frontal.jpg"
        path = raw / name
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(number, kind="JPEG"))
        rows.append(
            {
                "path_to_image": name,
                "frontal_lateral": "Frontal",
                "ap_pa": "PA",
                "deid_patient_id": f"patient{number:05d}",
                "patient_report_date_order": 1,
                "report": 'FINDINGS:\nClear,\n\n"lungs".\n',
                "section_findings": 'Clear,\n\n"lungs".',
                "section_impression": "Normal.",
                "split": split,
            }
        )
    write_csv(raw / CHEXPERT, rows)
    return ["chexpert-plus"]


def add(name: str, content: bytes) -> Change:
    return lambda raw: (raw / name).write_bytes(content)


def edit(name: str, change: Callable[[str], str]) -> Change:
    def apply(raw: Path) -> None:
        path = raw / name
        if path.suffix == ".gz":
            path.write_bytes(
                gzip.compress(change(gzip.decompress(path.read_bytes()).decode()).encode(), mtime=0)
            )
        else:
            path.write_text(change(path.read_text()))

    return apply


def iu_row(**changes: Any) -> Change:
    """Change the row of the training study; None takes a key away."""

    def apply(raw: Path) -> None:
        path = raw / "annotation.json"
        annotation = json.loads(path.read_text())
        row = annotation["train"][0] | changes
        annotation["train"] = [{key: value for key, value in row.items() if value is not None}]
        path.write_text(json.dumps(annotation))

    return apply


def iu_again(split: str) -> Change:
    """The training study once more, in a split."""

    def apply(raw: Path) -> None:
        path = raw / "annotation.json"
        annotation = json.loads(path.read_text())
        annotation[split].append(annotation["train"][0])
        path.write_text(json.dumps(annotation))

    return apply


def zip_reports(encrypted: bool, broken: bool = False) -> Change:
    def apply(raw: Path) -> None:
        encoded = io.BytesIO()
        with zipfile.ZipFile(encoded, "w") as archive:
            for path in sorted(raw.glob("files/*/*/*.txt")):
                archive.writestr(str(path.relative_to(raw)), path.read_text())
                path.unlink()
        content = bytearray(encoded.getvalue())
        if encrypted:  # the flag of every file, in its own header and in the directory
            for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
                start = content.find(mark)
                while start >= 0:
                    content[start + offset] |= 1
                    start = content.find(mark, start + 4)
        (raw / "mimic-cxr-reports.zip").write_bytes(content[: 60 if broken else None])

    return apply


def loop(raw: Path) -> None:
    (raw / "deep").mkdir()
    (raw / "deep" / "again").symlink_to(raw)


def outside(raw: Path) -> None:
    secret = raw.parent / "secret"
    secret.mkdir()
    (secret / "other.png").write_bytes(picture(9))
    (raw / "link.png").symlink_to(secret / "other.png")


def point_outside(raw: Path) -> None:
    (raw.parent / "other.png").write_bytes(picture(9))
    edit("reports.csv", lambda text: text.replace("good0", "../other"))(raw)


SPLIT, META = "mimic-cxr-2.0.0-split.csv.gz", "mimic-cxr-2.0.0-metadata.csv.gz"
REPORT = "files/p10/p10000000/s50000000.txt"


@dataclass(frozen=True)
class Case:
    """One thing to find in a download of three good studies.

    Attributes:
        make: Lays out the download.
        change: Puts the thing into it.
        left_out: What the reason of what is left out says; None if nothing is.
        error: What the one error says; None if there is none.
        studies: Studies that are prepared.
        said: What the command says of it, where nothing is left out.
    """

    make: Callable[[Path], list[str]]
    change: Change
    left_out: str | None = None
    error: str | None = None
    studies: int = 3
    said: str = ""


def bad(name: str, content: bytes, reason: str) -> Case:
    """A file that is no usable image, in a folder of good ones."""
    return Case(make_folder, add(name, content), left_out=reason)


def odd(name: str, content: bytes) -> Case:
    """An image of an odd kind that is read all the same."""
    return Case(make_folder, add(name, content), studies=4)


CASES: dict[str, Case] = {
    # Images
    "zero bytes": bad("x.png", b"", "empty file"),
    "truncated PNG": bad("x.png", picture()[:900], "broken|truncated"),
    "truncated JPEG": bad("x.jpg", picture(kind="JPEG")[:900], "broken|truncated"),
    "damaged PNG": bad("x.png", picture().replace(b"IDAT", b"IDAX"), "broken"),
    "a web page": bad("x.jpg", b"<!DOCTYPE html><html>404</html>", "web page"),
    "a PDF": bad("x.png", b"%PDF-1.7 ...", "not a PNG"),
    "half a GIF": bad("x.png", picture(kind="GIF")[:-60], "broken image file"),
    "a text": bad("x.dcm", b"not DICOM at all", "not a PNG"),
    "1 x 1": bad("x.png", sized(1, 1), "smaller than 32"),
    "a strip": bad("x.png", sized(31, 400), "smaller than 32"),
    "30000 x 30000 by its header": bad("x.png", gigantic(), "pixels"),
    "float TIFF": bad("x.tif", float_tiff(), "float|32-bit"),
    "all black": bad("x.png", constant(0), "blank"),
    "all white JPEG": bad("x.jpg", constant(255, "JPEG"), "blank"),
    "DICOM without pixels": bad("x.dcm", dicom(PixelData=None), "without a picture"),
    "DICOM of several frames": bad(
        "x.dcm", dicom(NumberOfFrames=2, PixelData=film().tobytes() * 2), "frames"
    ),
    "DICOM of an odd photometric": bad("x.dcm", dicom(PhotometricInterpretation="HSV"), "HSV"),
    "DICOM without photometric": bad("x.dcm", dicom(PhotometricInterpretation=None), "hotometric"),
    "DICOM cut short": bad("x.dcm", dicom()[:-2000], "broken|bytes|truncated"),
    "DICOM of no rows": bad("x.dcm", dicom(Rows=0), "0|broken"),
    "DICOM of one grey": bad("x.dcm", dicom(PixelData=bytes(64 * 80)), "blank"),
    "a folder named as a picture": Case(
        make_folder,
        lambda raw: (raw / "x.png").mkdir(),
        said="1 folders are named as images are, the first x.png",
    ),
    "a link to nowhere": Case(
        make_folder,
        lambda raw: (raw / "x.png").symlink_to(raw / "gone.png"),
        said="1 links lead nowhere, the first x.png",
    ),
    "folders that hold themselves": Case(make_folder, loop, said="1 links lead to what is in"),
    "a link out of the folder": Case(make_folder, outside, studies=4),
    "a pipe": Case(
        make_folder,
        lambda raw: os.mkfifo(raw / "x.png"),
        said="1 pipes, sockets or devices are not",
    ),
    "an empty folder": Case(lambda raw: ["folder"], lambda raw: None, error="no image"),
    "CMYK": odd("x.jpg", picture(mode="CMYK", kind="JPEG")),
    "palette": odd("x.png", picture(mode="P")),
    "16-bit PNG": odd("x.png", deep("PNG")),
    "16-bit TIFF": odd("x.tif", deep("TIFF")),
    "RGBA": odd("x.png", picture(mode="RGBA")),
    "grey and alpha": odd("x.png", picture(mode="LA")),
    "one bit": odd("x.png", picture(mode="1")),
    "rotated by EXIF": odd("x.jpg", rotated()),
    "progressive JPEG named PNG": odd("x.png", picture(kind="JPEG", progressive=True)),
    "MONOCHROME1": odd("x.dcm", dicom(PhotometricInterpretation="MONOCHROME1")),
    # R2Gen's annotation
    "an id twice": Case(make_iu, iu_again("train"), left_out="already that of a study in train"),
    "an id in two splits": Case(
        make_iu, iu_again("test"), left_out="already that of a study in train"
    ),
    "a missing image": Case(
        make_iu, lambda raw: (raw / "images/0/0.png").unlink(), left_out="not found", studies=2
    ),
    "an empty report": Case(make_iu, iu_row(report=" "), left_out="neither findings", studies=2),
    "no report": Case(make_iu, iu_row(report=None), error=r"train\[0\]\.report is missing"),
    "a report that is a number": Case(make_iu, iu_row(report=7), error="report must be text"),
    "no image": Case(
        make_iu, iu_row(image_path=[]), left_out="none of its images|no such view", studies=2
    ),
    "a path out of the folder": Case(
        make_iu, iu_row(image_path=["../../x.jpg"]), left_out="leads out of", studies=2
    ),
    "a path from the root": Case(
        make_iu, iu_row(image_path=["/etc/hostname"]), left_out="leads out of", studies=2
    ),
    "a path with a null byte": Case(
        make_iu, iu_row(image_path=["a\0b.png"]), left_out="leads out of", studies=2
    ),
    "a path that is a text": Case(make_iu, iu_row(image_path="0/0.png"), error="must be a list"),
    "an annotation that is no JSON": Case(
        make_iu, add("annotation.json", b"{"), error="annotation.json"
    ),
    "an annotation in Latin-1": Case(
        make_iu,
        add("annotation.json", '{"train": "\xe9"}'.encode("latin-1")),
        error="annotation.json",
    ),
    "an annotation that is a list": Case(
        make_iu, add("annotation.json", b"[]"), error="expected an object"
    ),
    "an annotation of nothing": Case(make_iu, add("annotation.json", b"{}"), error="no study"),
    "half a surrogate pair": Case(
        make_iu, iu_row(report="Clear \ud800."), error="half a character"
    ),
    # MIMIC's tables and reports
    "no split table": Case(make_mimic, lambda raw: (raw / SPLIT).unlink(), error=SPLIT),
    "no reports": Case(
        make_mimic,
        lambda raw: [path.unlink() for path in raw.glob("files/*/*/*.txt")],
        error="report|left out",
    ),
    "one report missing": Case(
        make_mimic, lambda raw: (raw / REPORT).unlink(), left_out="report", studies=2
    ),
    "a report in Latin-1": Case(
        make_mimic, add(REPORT, b"FINDINGS:\n Caf\xe9 clear.\n"), left_out="UTF-8", studies=2
    ),
    "an empty file for a report": Case(
        make_mimic, add(REPORT, b""), left_out="50000000", studies=2
    ),
    "a report that is only a heading": Case(
        make_mimic, add(REPORT, b" FINDINGS:\n\n IMPRESSION:\n"), left_out="neither", studies=2
    ),
    "a missing column": Case(
        make_mimic, edit(SPLIT, lambda t: t.replace("study_id", "study")), error="study_id"
    ),
    "another delimiter": Case(make_mimic, edit(SPLIT, lambda t: t.replace(",", ";"))),
    "a delimiter that is none": Case(
        make_mimic, edit(SPLIT, lambda t: t.replace(",", "#")), error="dicom_id"
    ),
    "a byte order mark": Case(make_mimic, edit(SPLIT, lambda t: "\ufeff" + t)),
    "a table cut short": Case(
        make_mimic,
        lambda raw: (raw / SPLIT).write_bytes((raw / SPLIT).read_bytes()[:-12]),
        error=SPLIT,
    ),
    "a table that is not gzip": Case(make_mimic, add(SPLIT, b"dicom_id,study_id"), error=SPLIT),
    "a table of one line": Case(
        make_mimic, edit(SPLIT, lambda t: t.splitlines()[0] + "\n"), error="no study|no row|empty"
    ),
    "an unknown split": Case(
        make_mimic, edit(SPLIT, lambda t: t.replace(",train", ",dev")), error="dev"
    ),
    "a study in two splits": Case(
        make_mimic,
        edit(SPLIT, lambda t: t + "film0,50000000,10000000,test\n"),
        left_out="split|already",
        studies=2,
    ),
    "an image that is not there": Case(
        make_mimic,
        lambda raw: next(raw.glob("files/*/*/s50000000/*")).unlink(),
        left_out="found",
        studies=2,
    ),
    "an encrypted archive": Case(make_mimic, zip_reports(encrypted=True), error="encrypt|password"),
    "an archive cut short": Case(make_mimic, zip_reports(False, broken=True), error="reports.zip"),
    "a good archive": Case(make_mimic, zip_reports(False)),
    # CheXpert Plus
    "quoted newlines and quotes": Case(make_chexpert, lambda raw: None),
    "a table without findings": Case(
        make_chexpert,
        edit(CHEXPERT, lambda t: t.replace("section_findings", "findings")),
        error="section_findings",
    ),
    "an empty table": Case(make_chexpert, add(CHEXPERT, b""), error=CHEXPERT),
    "a table in Latin-1": Case(
        make_chexpert,
        lambda raw: (raw / CHEXPERT).write_bytes(
            (raw / CHEXPERT).read_bytes().replace(b"Normal", b"Caf\xe9")
        ),
        said=f"{CHEXPERT} is not UTF-8 and read as",
    ),
    "a table in two encodings": Case(
        make_chexpert,
        lambda raw: (raw / CHEXPERT).write_bytes(
            (raw / CHEXPERT).read_bytes().replace(b"Normal", b"Caf\xe9, Caf\xc3\xa9")
        ),
        error=CHEXPERT,
    ),
    "a path out of CheXpert": Case(
        make_chexpert,
        edit(CHEXPERT, lambda t: t.replace("train/patient00000/study1/view1", "train/../../../x")),
        error="path_to_image",
    ),
    "an unknown split of CheXpert": Case(
        make_chexpert, edit(CHEXPERT, lambda t: t.replace(",valid\n", ",dev\n")), error="dev"
    ),
    # A table of one's own
    "a good table": Case(make_table, lambda raw: None),
    "a table without images": Case(
        make_table, edit("reports.csv", lambda t: t.replace("image,", "thing,")), error="image"
    ),
    "a table's path out of the folder": Case(
        make_table, point_outside, left_out="other.png not found in", studies=2
    ),
    "a table's missing image": Case(
        make_table,
        edit("reports.csv", lambda t: t.replace("good0", "gone")),
        left_out="gone",
        studies=2,
    ),
    "an unknown split in a table": Case(
        make_table,
        edit("reports.csv", lambda t: t.replace(",train,", ",holdout,")),
        error="holdout",
    ),
    "a study without findings": Case(
        make_table,
        edit("reports.csv", lambda t: t.replace("0,train,Clear.", "0,train,")),
        left_out="neither",
        studies=2,
    ),
    "broken JSON lines": Case(
        make_table,
        lambda raw: (
            (raw / "reports.csv").rename(raw / "old.txt")
            and (raw / "reports.jsonl").write_text("{\n")
        ),
        error="reports.jsonl",
    ),
}


def test_there_are_at_least_sixty() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_bad_data_is_left_out_or_named(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    source, *options = case.make(raw)
    case.change(raw)
    before = {path: os.lstat(path).st_mtime_ns for path in tmp_path.rglob("*")}
    result = radrep("prepare", source, "--raw", raw, "--out", out, "--workers", "1", *options)
    told = result.stdout + result.stderr
    if case.error is not None:
        assert result.exit_code == 2, told
        assert result.stderr.count("error: ") == 1
        assert_says(result.stderr, case.error)
        assert not out.exists()
    else:
        assert result.exit_code == 0, told
        record = json.loads((out / "prepared.json").read_text())
        lines = (out / "left_out.jsonl").read_text().splitlines()
        reasons = [json.loads(line) for line in lines]
        assert sum(record["counts"].values()) == case.studies, told
        assert record["num_left_out"] == len(reasons)
        assert case.said in result.stdout
        assert bool(reasons) == (case.left_out is not None), reasons
        if case.left_out is not None:
            assert_says(
                "\n".join(f"{row['what']}: {row['reason']}" for row in reasons), case.left_out
            )
            assert f"Left out: {len(reasons)}" in result.stdout
    after = {path: os.lstat(path).st_mtime_ns for path in before}
    assert after == before, "the download stays as it was"


def assert_says(text: str, pattern: str) -> None:
    assert re.search(pattern, text), text


@pytest.mark.skipif(os.name != "posix", reason="takes away a permission")
@pytest.mark.parametrize(
    "make",
    [
        make_folder,
        *(pytest.param(m, marks=pytest.mark.slow) for m in (make_iu, make_mimic, make_chexpert)),
    ],
)
def test_an_unreadable_image_is_left_out(make: Callable[[Path], list[str]], tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    source, *options = make(raw)
    image = min(path for path in raw.rglob("*") if path.suffix in (".png", ".jpg"))
    image.chmod(0)
    command = [sys.executable, "-m", "radrep", "prepare", source, "--raw", str(raw)]
    command += ["--out", str(out), "--workers", "1", *options]
    result = subprocess.run([*like_a_user(), *command], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "Permission denied" in (out / "left_out.jsonl").read_text()
    assert sum(json.loads((out / "prepared.json").read_text())["counts"].values()) == 2


def like_a_user() -> list[str]:
    """What to put before a command so that files without permissions are closed to it."""
    if os.geteuid() != 0:
        return []
    dropped = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]
    if not shutil.which("setpriv") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("root reads every file, and setpriv cannot take that away here")
    return prefix
