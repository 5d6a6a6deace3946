"""radrep prepare on the command line: what it finds, what it leaves alone."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tests.whole_way import radrep

XML = """<eCitation><MedlineCitation><Article><Abstract>
<AbstractText Label="FINDINGS">Clear.</AbstractText></Abstract></Article></MedlineCitation>
<parentImage id="CXR1_1_IM-0001-3001"/></eCitation>"""


def write_open_i(raw: Path) -> None:
    """One report of Open-i's, its image in an archive."""
    (raw / "ecgen-radiology").mkdir(parents=True)
    (raw / "ecgen-radiology/1.xml").write_text(XML)
    encoded = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(encoded, format="PNG")
    with tarfile.open(raw / "NLMCXR_png.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("CXR1_1_IM-0001-3001.png")
        member.size = len(encoded.getvalue())
        tar.addfile(member, io.BytesIO(encoded.getvalue()))


def test_an_archive_is_unpacked_and_cleared_away_but_nothing_else(tmp_path: Path) -> None:
    raw, out = tmp_path / "out.unpacked", tmp_path / "out"  # where radrep unpacks, of all places
    write_open_i(raw)
    counted = radrep("prepare", "iu", "--raw", raw, "--out", out, "--dry-run")
    assert counted.exit_code == 0, counted.output
    assert sorted(path.name for path in raw.iterdir()) == ["NLMCXR_png.tgz", "ecgen-radiology"]
    result = radrep("prepare", "iu", "--raw", raw, "--out", out)
    assert result.exit_code == 0, result.output
    assert "unpack NLMCXR_png.tgz" in result.stderr
    assert sum(json.loads((out / "prepared.json").read_text())["image_counts"].values()) == 1
    assert sorted(path.name for path in raw.iterdir()) == ["NLMCXR_png.tgz", "ecgen-radiology"]


def test_what_was_prepared_inside_the_raw_folder_is_no_image(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(3):
        Image.effect_noise((64, 64), 40 + number).save(raw / f"{number}.png")
    command = ("prepare", "folder", "--raw", raw, "--out", raw / "prepared")
    assert radrep(*command).exit_code == 0
    assert radrep("data", "show", raw / "prepared").exit_code == 0, "a picture lies in it now"
    again = radrep(*command)
    assert again.exit_code == 0, again.output
    assert "was prepared before in the same way" in again.stdout


def write_r2gen(raw: Path, num_studies: int, folder: str = "") -> None:
    """Studies of one image each, all for training."""
    rows = []
    for number in range(num_studies):
        name = f"{folder}study{number}/0.png"
        path = raw / "images" / name
        path.parent.mkdir(parents=True)
        Image.effect_noise((64, 64), 40 + number).save(path)
        rows.append({"id": f"study{number}", "report": "Clear.", "image_path": [name]})
    (raw / "annotation.json").write_text(json.dumps({"train": rows}))


def test_a_dry_run_counts_what_is_there_and_groups_what_is_not(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_r2gen(raw, 6)
    for number in (1, 2, 4):
        (raw / "images" / f"study{number}" / "0.png").unlink()
    for options in (["--dry-run"], []):
        result = radrep("prepare", "iu", "--raw", raw, "--out", out, *options)
        assert result.exit_code == 0, result.output
        train = next(line for line in result.stdout.splitlines() if line.startswith("train"))
        assert train.split() == ["train", "3", "3", "2069"]
        assert "3 images: not found, nor the same name with another ending (the first: " in (
            result.stdout
        )
        assert "3 studies: none of its images can be read (the first: study1)" in result.stdout
        assert out.exists() == (not options)


def test_of_a_complete_download_studies_and_images_are_named(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_open_i(raw)
    result = radrep("prepare", "iu", "--raw", raw, "--out", tmp_path / "out", "--workers", "1")
    assert result.stdout.count("expected studies") == result.stdout.count("expected images") == 1
    everything = next(line for line in result.stdout.splitlines() if line.startswith("all "))
    assert everything.split() == ["all", "1", "1", "3955", "7470"]
    assert "differs: all -3,954 studies, all -7,469 images" in result.stdout


def test_of_an_archive_a_limit_unpacks_no_more_than_it_needs(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_open_i(raw)
    archive = raw / "NLMCXR_png.tgz"
    with tarfile.open(archive) as tar:
        image = tar.extractfile("CXR1_1_IM-0001-3001.png")
        assert image is not None
        content = image.read()
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("CXR1_1_IM-0001-3001.png")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
        member = tarfile.TarInfo("CXR2_IM-0002-1001.png")
        member.size = 50_000
        tar.addfile(member, io.BytesIO(bytes(50_000)))
    archive.write_bytes(archive.read_bytes()[:-30_000])  # what comes later is not even looked at
    whole = radrep("prepare", "iu", "--raw", raw, "--out", out)
    assert "is broken or cut short" in whole.stderr
    result = radrep("prepare", "iu", "--raw", raw, "--out", out, "--limit", "1")
    assert result.exit_code == 0, result.output
    assert "1 images in" in result.stderr


SPLIT_TABLE = "dicom_id,study_id,subject_id,split\na1,50000001,10000032,train\n"
STUDY = "p10/p10000032/s50000001"


def write_mimic(raw: Path, reports: Path) -> None:
    """One study in PhysioNet's layout, its report in another folder perhaps."""
    for path in (raw / "files" / STUDY / "a1.jpg", reports / "files" / f"{STUDY}.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((64, 64), 60).save(raw / "files" / STUDY / "a1.jpg")
    (reports / "files" / f"{STUDY}.txt").write_text(" FINDINGS: Clear.\n")
    (raw / "mimic-cxr-2.0.0-split.csv").write_text(SPLIT_TABLE)


@pytest.mark.parametrize(
    ("raw", "reports"),
    [
        ("data/MIMIC-CXR", "data/MIMIC-CXR"),
        ("data/MIMIC-CXR-JPG", "data/MIMIC-CXR"),
        ("data/raw/mimic_cxr_jpg", "data/raw/mimic-cxr/2.1.0"),
        ("physionet.org/files/mimic-cxr-jpg/2.1.0", "physionet.org/files/mimic-cxr/2.1.0"),
        ("data/physionet.org/files/mimic-cxr-jpg/2.0.0", "data/mimic-cxr-reports"),
        ("data/mimic-cxr-jpg/2.1.0", "data/mimic-cxr"),
    ],
)
def test_mimic_and_its_reports_are_found_where_people_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: str, reports: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mimic(Path(raw), Path(reports))
    result = radrep("prepare", "mimic", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert f"raw: {raw} (found" in result.stdout
    assert json.loads(Path("data/mimic/prepared.json").read_text())["counts"]["train"] == 1
    assert ("--reports gives others" in result.stdout) == (raw != reports)
    assert "nothing was done" in radrep("prepare", "mimic", "--workers", "1").stdout


def test_an_r2gen_folder_is_found_and_a_prepared_one_is_not_raw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_r2gen(Path("data/mimic_cxr"), 2, "p10/p10000032/")
    write_r2gen(Path("data/IU-Xray/iu_xray"), 3)
    for name in ("mimic-cxr", "NLMCXR_prepared"):  # as an earlier run left them
        write_r2gen(Path("data") / name, 1)
        (Path("data") / name / "prepared.json").write_text("{}")
    for command, raw, count in (("mimic", "mimic_cxr", 2), ("iu", "IU-Xray/iu_xray", 3)):
        result = radrep("prepare", command, "--workers", "1")
        assert result.exit_code == 0, result.output
        assert f"raw: data/{raw} (found" in result.stdout
        assert "also found" not in result.stdout
        train = json.loads((Path("data") / command / "prepared.json").read_text())["counts"]
        assert train["train"] == count
    write_mimic(Path("MIMIC-CXR-JPG"), Path("MIMIC-CXR-JPG"))
    result = radrep("prepare", "mimic", "--dry-run")
    assert "raw: data/mimic_cxr (found" in result.stdout
    assert "not used, also found: MIMIC-CXR-JPG" in result.stdout
    # Only the official tables will do for --split official; --out itself is never raw.
    result = radrep("prepare", "mimic", "--split", "official", "--dry-run")
    assert "raw: MIMIC-CXR-JPG (found" in result.stdout
    result = radrep("prepare", "mimic", "--out", "data/mimic_cxr", "--dry-run")
    assert "raw: MIMIC-CXR-JPG (found" in result.stdout


def test_chexpert_plus_and_open_is_archives_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_open_i(Path("data"))  # the archives themselves, in no folder of their own
    result = radrep("prepare", "iu", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "raw: data (found" in result.stdout
    Path("data/CheXpert-Plus").symlink_to(data_dir / "chexpert_plus_like")
    result = radrep("prepare", "chexpert-plus", "--dry-run")
    assert "raw: data/CheXpert-Plus (found" in result.stdout


@pytest.mark.parametrize(
    ("command", "content"),
    [
        ("mimic", "mimic-cxr-2.0.0-split.csv.gz or R2Gen's annotation.json"),
        ("iu", "R2Gen's annotation.json, NLMCXR_reports.tgz or indiana_reports.csv"),
        ("chexpert-plus", "df_chexpert_plus_240401.csv"),
    ],
)
def test_where_no_download_is_found_the_error_lists_the_places_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MIMIC-CXR-JPG", "iu_xray", "CheXpert_Plus"):
        (tmp_path / "data" / name / "files").mkdir(parents=True)
    result = radrep("prepare", command)
    assert result.exit_code == 2
    assert f"{tmp_path / 'data'}, {tmp_path}" in result.stderr
    assert f"holds {content} (data/" in result.stderr
    assert f"radrep prepare {command} --raw DIR" in result.stderr
    assert not any((tmp_path / "data" / out).exists() for out in ("mimic", "iu", "chexpert_plus"))


@pytest.mark.parametrize(
    ("patients", "empty", "reason"),
    [
        ([f"p{number}" for number in range(6)], "", ""),
        (["ANONYMOUS"] * 6, "", "6 of 6 studies are of the patient 'ANONYMOUS'"),
        ([f"p{number % 5}" for number in range(6)], "", "1 patients are in several splits"),
        ([f"p{number}" for number in range(6)], "val", "there is no study in val. Give a table"),
        ([f"p{number}" for number in range(6)], "test", "there is no study in test. Give a table"),
    ],
)
def test_a_set_is_called_ready_only_if_it_is(
    tmp_path: Path, patients: list[str], empty: str, reason: str
) -> None:
    rows = ["image,patient_id,split"]
    for number, patient in enumerate(patients):
        split = ("train", "val", "test")[number % 3]
        rows.append(f"{number}.png,{patient},{'train' if split == empty else split}")
        Image.effect_noise((64, 64), 40 + number).save(tmp_path / f"{number}.png")
    (tmp_path / "reports.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    command = ("prepare", "folder", "--raw", tmp_path, "--out", out, "--workers", "1")
    for options in (["--dry-run"], []):
        result = radrep(*command, *options)
        assert result.exit_code == 0, result.output
        assert ("warning: " in result.stderr) == bool(reason)
        assert reason in result.stderr
    ending = "is prepared; see the warnings before you train on it." if reason else "is ready."
    assert result.stdout.splitlines()[-1] == f"{out} {ending}"
    assert reason in radrep("data", "show", out).stdout


def test_phantoms_are_no_smaller_than_the_help_says(tmp_path: Path) -> None:
    words = ("prepare", "phantom", "--num-studies", "3", "--out", tmp_path / "data")
    small = radrep(*words, "--image-size", "63")
    assert small.exit_code == 2
    assert "greater than or equal to 64" in " ".join(small.stderr.replace("│", "").split())
    assert "x>=64" in radrep("prepare", "phantom", "--help").stdout
    least = radrep(*words, "--image-size", "64")
    assert least.exit_code == 0, least.output
