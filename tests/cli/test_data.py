"""radrep data: what is in a prepared folder, and whether it is whole."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radrep.engine.leaks import count_near
from tests.whole_way import draw_prepared, radrep, without_split


def test_show_tells_what_is_in_it_and_draws_a_sheet(phantoms: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = radrep("data", "show", phantoms, "--sheet", sheet, "--num", "5")
    assert result.exit_code == 0, result.output
    train = next(line for line in result.stdout.splitlines() if line.startswith("train"))
    assert train.split()[1:7] == ["32", "32", "32", "32", "0", "32"]
    assert "source      phantom" in result.stdout
    assert "image_size 64" in result.stdout
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[0] > 3 * 224  # three rows of two studies
    assert 0.05 < (pixels < 128).mean() < 0.6, "films and text on white"
    again = tmp_path / "again.png"
    radrep("data", "show", phantoms, "--sheet", again, "--num", "5")
    assert again.read_bytes() == sheet.read_bytes()
    other = tmp_path / "other.png"
    radrep("data", "show", phantoms, "--sheet", other, "--num", "5", "--seed", "1")
    assert other.read_bytes() != sheet.read_bytes()


def test_a_sheet_that_cannot_be_written_is_told(phantoms: Path, tmp_path: Path) -> None:
    for sheet in (tmp_path / "nowhere" / "sheet.png", tmp_path / "sheet.xyz"):
        result = radrep("data", "show", phantoms, "--sheet", sheet)
        assert result.exit_code == 2
        assert "contact sheet cannot be written" in result.stderr
    only_test = without_split(
        without_split(phantoms, tmp_path / "a", "train"), tmp_path / "b", "val"
    )
    shown = radrep("data", "show", only_test, "--sheet", tmp_path / "sheet.png")
    assert "sheet.png: 8 random studies of test" in shown.stdout


def test_check_finds_a_changed_byte(phantoms: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(phantoms, copy)
    whole = radrep("data", "check", copy, "--near-duplicates", "10")
    assert whole.exit_code == 0, whole.output
    assert "3 shards, all as they were prepared" in whole.stdout
    assert "images of val look like one of train" in whole.stdout
    shard = copy / "val-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    changed = radrep("data", "check", copy)
    assert changed.exit_code == 1
    assert "val-00000.arrow was changed" in changed.stderr
    shard.unlink()
    assert "val-00000.arrow is missing" in radrep("data", "check", copy).stderr


def test_check_compares_with_another_sets_test(phantoms: Path, tmp_path: Path) -> None:
    longer = draw_prepared(tmp_path / "longer", num=120)
    result = radrep("data", "check", longer, "--against", phantoms)
    assert result.exit_code == 1
    assert "share 8 studies, 8 patients, 8 images" in result.stdout
    assert radrep("data", "check", phantoms, "--against", phantoms).exit_code == 0


def test_what_is_no_prepared_folder_is_told(tmp_path: Path) -> None:
    for command in ("show", "check"):
        result = radrep("data", command, tmp_path)
        assert result.exit_code == 2
        assert "is not a prepared folder" in result.stderr
    (tmp_path / "prepared.json").write_text(json.dumps({"recipe": {}, "counts": {}}))
    assert "by an older radrep" in radrep("data", "show", tmp_path).stderr


@pytest.mark.parametrize(("bits", "near"), [(0, 1), (1, 2), (4, 2), (5, 3)])
def test_near_duplicates_are_counted_by_bits(bits: int, near: int) -> None:
    all_ones = 2**64 - 1
    looks = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [0, 0, 0, 0]], dtype=np.uint64)
    others = np.array([[1, 2, 3, 4], [all_ones] * 4], dtype=np.uint64)
    assert count_near(looks, others, bits) == near
    assert count_near(looks, others[:0], bits) == 0
