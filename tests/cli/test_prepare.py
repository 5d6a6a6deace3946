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
