import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from radrep.data.arrow import ShardWriter, encode_png, open_shards
from radrep.data.manifest import PREPARED, ShardRecord, hash_file
from radrep.data.store import Fold, PreparedStudies, study_features, study_row
from radrep.data.study import HELD_OUT, Image, Study
from radrep.errors import DataError


def make_study(number: int, **sections: str) -> Study:
    image = Image(f"film {number}", "frontal", f"{number:064x}")
    return Study(str(number), None, "train", (image,), sections, "drawn", "raw", {"Mass": 1})


def film(number: int) -> np.ndarray:
    return np.full((8, 9), number, dtype=np.uint8)


@pytest.fixture
def prepared(tmp_path):
    """Two shards of 20 and 5 studies; every third has no findings."""
    shards = []
    for index, numbers in enumerate((range(20), range(20, 25))):
        path = tmp_path / f"train-{index:05d}.arrow"
        writer = ShardWriter(path, study_features())
        for number in numbers:
            text = {"impression": "Old."} if number % 3 == 2 else {"findings": f"Film {number}."}
            writer.write(
                study_row(
                    make_study(number, **text),
                    [encode_png(film(number))],
                    [bytes(31) + bytes([number])],
                )
            )
        assert not path.exists(), "it has its name when it is whole"
        writer.close()
        shards.append(shard_of(path.name, len(numbers)))
    write_record(tmp_path, shards)
    return tmp_path


def shard_of(name: str, studies: int) -> ShardRecord:
    return ShardRecord(name, "train", studies, images=studies, sha256="", num_bytes=0)


def write_record(folder, shards: list[ShardRecord]) -> None:
    whole = [replace(shard, sha256=hash_file(folder / shard.name)) for shard in shards]
    record = {"recipe": {}, "shards": [asdict(shard) for shard in whole]}
    (folder / PREPARED).write_text(json.dumps(record))


def test_studies_come_back_as_they_were_written(prepared):
    studies = PreparedStudies(prepared, "train")
    assert len(studies) == 25
    assert studies[21] == make_study(21, findings="Film 21.")
    assert studies[-1].id == "24"
    assert [study.id for study in studies[3:6]] == ["3", "4", "5"]
    assert np.array_equal(studies.read_images(21)[0], film(21))
    assert studies.shard_sizes == [20, 5]


def test_studies_without_the_text_are_passed_over(prepared):
    studies = PreparedStudies(prepared, "train", target="findings")
    assert len(studies) == 17
    assert studies.num_without_text == 8
    assert studies.shard_sizes == [14, 3]
    assert studies[2].id == "3"
    assert list(studies) == studies[:]
    assert studies.ids == [study.id for study in studies]
    assert np.array_equal(studies.read_images(2)[0], film(3))
    assert studies.texts("findings") == [study.sections["findings"] for study in studies]
    assert studies.texts("impression") == [""] * 17


def test_equal_studies_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        writer = ShardWriter(tmp_path / name, study_features())
        for number in range(40):
            writer.write(
                study_row(make_study(number, findings="x"), [encode_png(film(number))], [bytes(32)])
            )
        writer.close()
    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "b")


def test_an_abandoned_shard_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path / "a", study_features())
    writer.write(study_row(make_study(1), [encode_png(film(1))], [bytes(32)]))
    writer.abandon()
    assert not list(tmp_path.iterdir())


def test_missing_and_damaged_shards_are_reported(prepared):
    with pytest.raises(DataError, match="the split 'test' has no study"):
        PreparedStudies(prepared, "test")
    shard = prepared / "train-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train-00001\.arrow cannot be read .*radrep data check"):
        PreparedStudies(prepared, "train")
    with pytest.raises(DataError, match="cannot be read"):
        open_shards(prepared, [shard_of("absent.arrow", 1)])
    write_record(prepared, [shard_of("train-00000.arrow", 21)])
    with pytest.raises(DataError, match="has 20 studies and should have 21"):
        PreparedStudies(prepared, "train")


@pytest.mark.parametrize(
    ("files", "hashes", "problem"),
    [
        ([b"x", b"x"], [bytes(32)], "more images than names"),
        ([b"x"], [bytes(8)], "difference_hashes is none of an image"),
        ([None], [bytes(32)], "images is missing for some"),
    ],
)
def test_shards_that_radrep_does_not_write_are_refused(tmp_path, files, hashes, problem):
    writer = ShardWriter(tmp_path / "train-00000.arrow", study_features())
    writer.write(study_row(make_study(1), files, hashes))
    writer.close()
    write_record(tmp_path, [shard_of("train-00000.arrow", 1)])
    with pytest.raises(DataError, match=problem):
        PreparedStudies(tmp_path, "train")


def test_of_a_row_only_the_image_asked_for_is_decoded(tmp_path):
    writer = ShardWriter(tmp_path / "train-00000.arrow", study_features())
    whole = encode_png(film(1))
    study = make_study(1)
    study = replace(study, images=study.images * 2)
    writer.write(study_row(study, [whole[:30], whole], [bytes(32)] * 2))
    writer.close()
    write_record(tmp_path, [shard_of("train-00000.arrow", 1)])
    stored = PreparedStudies(tmp_path, "train").open(0)
    assert np.array_equal(stored.image(1), film(1))
    with pytest.raises(DataError, match="an image of study 1 is damaged"):
        stored.image(0)


@pytest.mark.parametrize(
    ("num_studies", "num_patients", "of"), [(40, 40, 5), (97, 31, 4), (9, 6, 2)]
)
def test_parts_hold_whole_patients_and_every_study_is_held_out_once(num_studies, num_patients, of):
    patients = [f"p{i % num_patients}" for i in range(num_studies)]
    held_out = np.zeros(num_studies, int)
    for number in range(of):
        fold = Fold(number, of)
        parts = {name: fold.part(name, patients) for name in ("train", "val", HELD_OUT)}
        assert np.all(sum(part.astype(int) for part in parts.values()) == 1)
        seen = [{patients[i] for i in np.flatnonzero(part)} for part in parts.values()]
        assert sum(map(len, seen)) == num_patients, "no patient is in two parts"
        sizes = len(seen[2]), num_patients / of
        assert abs(sizes[0] - sizes[1]) < 1, "folds have equal numbers of patients"
        held_out += parts[HELD_OUT]
    assert np.all(held_out == 1)


def test_a_fold_depends_on_no_order_of_the_studies():
    patients = [f"p{i}" for i in range(50)]
    forward = dict(zip(patients, Fold(1, 5).part(HELD_OUT, patients), strict=True))
    backward = dict(zip(patients[::-1], Fold(1, 5).part(HELD_OUT, patients[::-1]), strict=True))
    assert forward == backward


def test_folds_never_open_another_split_and_too_few_patients_are_refused(phantoms):
    with pytest.raises(DataError, match="'test'"):
        PreparedStudies(phantoms, "test", fold=Fold(0, 5))
    with pytest.raises(DataError, match="0 patients of the training split are too few for 5"):
        Fold(0, 5).part("train", [])
    with pytest.raises(DataError, match="too few"):
        Fold(2, 3).part("train", ["a"])


def test_the_parts_of_a_prepared_split_are_its_studies(phantoms):
    whole = PreparedStudies(phantoms, "train")
    parts = [
        PreparedStudies(phantoms, part, fold=Fold(1, 4)) for part in ("train", "val", HELD_OUT)
    ]
    assert sorted(id_ for part in parts for id_ in part.ids) == sorted(whole.ids)
    for part in parts:
        assert [study.id for study in part] == part.ids == [part[i].id for i in range(len(part))]
        assert sum(part.shard_sizes) == len(part)
        assert part.texts("findings") == [study.sections["findings"] for study in part]


@pytest.mark.parametrize("place", [200, 3000, -300])
def test_a_flipped_bit_of_a_shard_is_named_before_it_is_mapped(prepared, place, monkeypatch):
    PreparedStudies(prepared, "train")
    shard = prepared / "train-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[place] ^= 4
    shard.write_bytes(content)
    monkeypatch.setattr("datasets.Dataset.from_file", None)  # it may crash the process
    with pytest.raises(DataError, match=r"train-00000\.arrow .*is not what was prepared"):
        PreparedStudies(prepared, "train")


def test_checksums_of_shards_can_be_turned_off(prepared, monkeypatch):
    write_record(prepared, [shard_of("train-00000.arrow", 20)])
    record = json.loads((prepared / PREPARED).read_text())
    record["shards"][0]["sha256"] = "0" * 64
    (prepared / PREPARED).write_text(json.dumps(record))
    monkeypatch.setenv("RADREP_VERIFY", "0")
    assert len(PreparedStudies(prepared, "train")) == 20


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (np.zeros((8_001, 8_001), np.uint8), "8001 x 8001 pixels of mode L"),
        (np.zeros((13_500, 13_500), np.uint8), "damaged"),  # beyond Pillow's own limit
        (np.zeros((8, 8, 3), np.uint8), "8 x 8 pixels of mode RGB"),
    ],
)
def test_a_picture_that_is_no_prepared_one_is_refused(tmp_path, pixels, told):
    path = tmp_path / "train-00000.arrow"
    writer = ShardWriter(path, study_features())
    writer.write(study_row(make_study(1), [encode_png(pixels)], [bytes(32)]))
    writer.close()
    write_record(tmp_path, [shard_of(path.name, 1)])
    with pytest.raises(DataError, match=told):
        PreparedStudies(tmp_path, "train").open(0).image(0)
