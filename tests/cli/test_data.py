"""radrep data: what is in a prepared folder, and whether it is whole."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radrep.data.arrow import encode_png
from radrep.data.store import PreparedStudies
from radrep.preparation.overlap import count_near_duplicates
from tests.whole_way import draw_prepared, radrep, without_split


def test_show_shows_what_is_in_it_and_draws_a_sheet(phantoms: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = radrep("data", "show", phantoms, "--out", sheet, "--num-studies", "5")
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
    radrep("data", "show", phantoms, "--out", again, "--num-studies", "5")
    assert again.read_bytes() == sheet.read_bytes()
    other = tmp_path / "other.png"
    radrep("data", "show", phantoms, "--out", other, "--num-studies", "5", "--seed", "1")
    assert other.read_bytes() != sheet.read_bytes()


def test_a_sheet_that_cannot_be_written_is_named(phantoms: Path, tmp_path: Path) -> None:
    for sheet in (tmp_path / "nowhere" / "sheet.png", tmp_path / "sheet.xyz"):
        result = radrep("data", "show", phantoms, "--out", sheet)
        assert result.exit_code == 2
        assert "cannot be written" in result.stderr
    only_test = without_split(
        without_split(phantoms, tmp_path / "a", "train"), tmp_path / "b", "val"
    )
    shown = radrep("data", "show", only_test, "--out", tmp_path / "sheet.png")
    assert "sheet.png: 8 random studies of test" in shown.stdout


def test_check_finds_a_changed_byte(phantoms: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(phantoms, copy)
    whole = radrep("data", "check", copy, "--max-hash-distance", "10")
    assert whole.exit_code == 0, whole.output
    assert "3 shards, all checksums match" in whole.stdout
    assert "0 images of val are near-duplicates of one in train" in whole.stdout
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


def test_sets_of_two_image_sizes_are_compared_by_perceptual_hash(
    phantoms: Path, tmp_path: Path
) -> None:
    # The same films under ids of another source, so that only their pixels are alike.
    films = tmp_path / "films"
    test = PreparedStudies(phantoms, "test")
    films.mkdir()
    rows = ["image,split,findings"]
    for index in range(len(test)):
        (films / f"{index}.png").write_bytes(encode_png(test.read_images(index)[0]))
        rows.append(f"{index}.png,train,{test[index].sections['findings']}")
    (films / "reports.csv").write_text("\n".join(rows))
    for size, shared in (
        (64, "8 images"),
        (48, "8 near-duplicate images (hash distance at most 12)"),
    ):
        out = tmp_path / str(size)
        made = radrep(
            "prepare", "folder", "--raw", films, "--out", out, "--image-size", str(size),
        )  # fmt: skip
        assert made.exit_code == 0, made.output
        result = radrep("data", "check", out, "--against", phantoms)
        assert result.exit_code == 1, result.output
        assert f"share 0 studies, 0 patients, {shared}" in result.stdout
        assert ("images have 48 pixels here and 64 there" in result.stdout) == (size == 48)
        assert "reports     100% (8) of that test also occur verbatim in train" in result.stdout


def test_check_finds_a_changed_record_and_list(phantoms: Path, tmp_path: Path) -> None:
    def changed(name: str, old: str, new: str) -> str:
        copy = tmp_path / f"{name}-{new}".replace("/", "-")
        shutil.copytree(phantoms, copy)
        text = (copy / name).read_text()
        assert old in text or not old
        (copy / name).write_text(text.replace(old, new, 1) if old else new)
        result = radrep("data", "check", copy)
        assert result.exit_code == 1, result.output
        return result.stderr

    assert "the recipe was changed" in changed(
        "prepared.json", '"image_size": 64', '"image_size": 65'
    )
    assert "prepared.json was changed" in changed(
        "prepared.json", '"layout": "drawn"', '"layout": "x"'
    )
    row = '{"what": "x", "reason": "y"}\n'
    assert "left_out.jsonl was changed" in changed("left_out.jsonl", "", row)
    told = changed("prepared.json", '"train": 32', '"train": 33')
    assert "records {'train': 33" in told


def test_a_folder_of_an_older_radrep_is_whole_without_the_newer_hashes(
    phantoms: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(phantoms, copy)
    record = json.loads((copy / "prepared.json").read_text())
    for key in ("sha256", "left_out_sha256", "expected_images"):
        del record[key]
    for name in ("repeated", "target_texts", "target_shares"):
        del record["leaks"][name]
    (copy / "prepared.json").write_text(json.dumps(record))
    for command in ("check", "show"):
        result = radrep("data", command, copy)
        assert result.exit_code == 0, result.output


def test_a_leak_between_splits_is_exit_code_1(phantoms: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    train = PreparedStudies(phantoms, "train")
    for index in range(3):
        (films / f"{index}.png").write_bytes(encode_png(train.read_images(index)[0]))
    for name, patients, code in (("leaky", "aab", 1), ("clean", "abc", 0)):
        rows = [
            f"{index}.png,{patient},{split}"
            for index, patient, split in zip(
                range(3), patients, ("train", "test", "val"), strict=True
            )
        ]
        (films / "reports.csv").write_text("\n".join(["image,patient,split", *rows]))
        out = tmp_path / name
        assert radrep("prepare", "folder", "--raw", films, "--out", out).exit_code == 0
        result = radrep("data", "check", out)
        assert result.exit_code == code, result.output
        assert ("leak        1 patients are in train and in test" in result.stdout) == bool(code)
        assert "all checksums match" in result.stdout


def test_what_is_no_prepared_folder_is_named(tmp_path: Path) -> None:
    for command in ("show", "check"):
        result = radrep("data", command, tmp_path)
        assert result.exit_code == 2
        assert "is not a prepared folder" in result.stderr
    (tmp_path / "prepared.json").write_text(json.dumps({"recipe": {}, "counts": {}}))
    assert "by an older radrep" in radrep("data", "show", tmp_path).stderr


@pytest.mark.parametrize(("bits", "near"), [(0, 1), (1, 2), (4, 2), (5, 3)])
def test_near_duplicates_are_counted_by_bits(bits: int, near: int) -> None:
    all_ones = 2**64 - 1
    hashes = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [0, 0, 0, 0]], dtype=np.uint64)
    others = np.array([[1, 2, 3, 4], [all_ones] * 4], dtype=np.uint64)
    assert count_near_duplicates(hashes, others, bits) == near
    assert count_near_duplicates(hashes, others[:0], bits) == 0
