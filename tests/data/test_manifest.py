import json
from dataclasses import asdict
from pathlib import Path

import pytest

from radrep.data.manifest import (
    PREPARED,
    ShardRecord,
    hash_record,
    read_image_size,
    read_record,
    read_shards,
)
from radrep.data.store import PreparedStudies
from radrep.errors import DataError
from tests.whole_way import radrep

SHARDS = [ShardRecord(f"{split}-00000.arrow", split, 3, 4, "ab", 5) for split in ("train", "test")]


def test_the_shards_of_a_split_are_read_from_the_record(tmp_path: Path) -> None:
    record = {"recipe": {"image_size": 64}, "shards": [asdict(shard) for shard in SHARDS]}
    (tmp_path / PREPARED).write_text(json.dumps(record))
    assert read_record(tmp_path) == record
    assert read_shards(tmp_path) == SHARDS
    assert read_shards(tmp_path, "test") == SHARDS[1:]
    assert read_image_size(tmp_path) == 64


@pytest.mark.parametrize("read", [read_record, read_shards, lambda p: PreparedStudies(p, "train")])
@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, f"not a prepared folder: .*{PREPARED} not found. Make one with radrep prepare"),
        ("{", f"{PREPARED} cannot be read"),
        ("[]", "not the record of a prepared folder"),
        ('{"shards": []}', "not the record of a prepared folder"),
        ('{"recipe": {}}', "by an older radrep .* prepare it again"),
        ('{"recipe": {}, "shards": [{"name": "a"}]}', "by an older radrep"),
    ],
)
def test_whoever_reads_it_a_broken_record_is_one_error(tmp_path, read, text, error) -> None:
    if text is not None:
        (tmp_path / PREPARED).write_text(text)
    with pytest.raises(DataError, match=error):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r["shards"][0].update(name="../../x.arrow"), "a shard is named '../../x.arrow'"),
        (lambda r: r["shards"][0].update(name="/etc/passwd"), "a shard is named"),
        (lambda r: r["shards"][0].update(name=3), "name of a shard is 3"),
        (lambda r: r["shards"][0].update(studies="9"), "studies of a shard is '9'"),
        (lambda r: r["shards"][0].update(studies=-1), "studies of a shard is -1"),
        (lambda r: r["shards"][0].update(sha256=None), "sha256 of a shard is None"),
        (lambda r: r.update(shards=[3]), "by an older radrep"),
        (lambda r: r.update(shards={"a": 1}), "by an older radrep"),
        (lambda r: r["recipe"].update(image_size="big"), "recipe.image_size is 'big'"),
        (lambda r: r["recipe"].update(image_size=None), "recipe.image_size is None"),
        (lambda r: r.update(counts=[]), "counts is"),
        (lambda r: r.update(leaks=None), "leaks is"),
        (lambda r: r.update(notes="x"), "notes is 'x'"),
        (lambda r: r.update(leaks={"x": 1}), "other leaks"),
        (lambda r: r.pop("layout"), "is a part of a prepared folder"),
    ],
)
@pytest.mark.parametrize("command", ["show", "check"])
def test_a_record_that_radrep_did_not_write_is_one_error(
    change, told, command, phantoms: Path, tmp_path: Path
) -> None:
    record = json.loads((phantoms / PREPARED).read_text())
    change(record)
    record["sha256"] = hash_record(record)
    (tmp_path / PREPARED).write_text(json.dumps(record))
    result = radrep("data", command, tmp_path)
    assert result.exit_code == 2, result.output
    assert told in result.stderr


def test_a_changed_record_is_named(phantoms: Path, tmp_path: Path) -> None:
    text = (phantoms / PREPARED).read_text()
    (tmp_path / PREPARED).write_text(text.replace('"studies": 32', '"studies": 33'))
    with pytest.raises(DataError, match=r"prepared\.json was changed after it was prepared"):
        PreparedStudies(tmp_path, "train")
