import json
from dataclasses import asdict
from pathlib import Path

import pytest

from radrep.data.manifest import PREPARED, ShardRecord, read_image_size, read_record, read_shards
from radrep.data.store import PreparedStudies
from radrep.errors import DataError

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
