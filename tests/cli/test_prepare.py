"""radrep prepare on the command line: what it leaves alone."""

import io
import json
import tarfile
from pathlib import Path

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


def write_r2gen(raw: Path, num_studies: int) -> None:
    """Studies of one image each, all for training."""
    rows = []
    for number in range(num_studies):
        path = raw / "images" / f"study{number}" / "0.png"
        path.parent.mkdir(parents=True)
        Image.effect_noise((64, 64), 40 + number).save(path)
        name = f"study{number}/0.png"
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


def test_of_a_complete_download_studies_and_images_are_told(tmp_path: Path) -> None:
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
