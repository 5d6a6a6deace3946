import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from datasets import Features, Value

from radrep.data.arrow import ShardWriter
from radrep.data.manifest import PREPARED, ShardRecord, hash_file
from radrep.data.saliency_store import (
    SaliencyImage,
    SaliencyImages,
    saliency_features,
    saliency_row,
)
from radrep.errors import DataError
from radrep.preparation.folder import Shard
from radrep.preparation.make_masks import _describe
from radrep.recipe.data import Saliency


def write(folder: Path, features: Features, *rows: dict) -> SaliencyImages:
    name = "val-00000.arrow"
    writer = ShardWriter(folder / name, features)
    for row in rows:
        writer.write(row)
    writer.close()
    shard = ShardRecord(name, "val", len(rows), len(rows), hash_file(folder / name), 0)
    (folder / PREPARED).write_text(json.dumps({"recipe": {}, "shards": [asdict(shard)]}))
    return SaliencyImages(folder, "val", "ab")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    pixels = np.arange(72, dtype=np.uint8).reshape(8, 9)
    made = SaliencyImage(
        "s", 1, pixels, pixels // 2, {"Edema": 0.75}, False, {"Edema": pixels[::-1]}
    )
    images = write(tmp_path, saliency_features(), saliency_row(made))
    assert len(images) == 1
    assert np.array_equal(images.masked("s"), made.masked)
    read = images.read("s")
    assert (read.study, read.number, read.labels, read.unmasked) == ("s", 1, {"Edema": 0.75}, False)
    assert np.array_equal(read.map, made.map)
    assert np.array_equal(read.label_maps["Edema"], made.label_maps["Edema"])
    with pytest.raises(DataError, match="no masked image of study t; remove it and make it again"):
        images.masked("t")


def test_masks_of_an_older_radrep_are_refused(tmp_path: Path) -> None:
    features = Features({"id": Value("string"), "kept_whole": Value("bool")})
    with pytest.raises(DataError, match="an older radrep. Remove it .* radrep prepare saliency"):
        write(tmp_path, features, {"id": "s", "kept_whole": True})


def test_shards_of_a_stopped_run_are_checked_before_they_are_counted(tmp_path: Path) -> None:
    pixels = np.zeros((8, 9), np.uint8)
    row = saliency_row(SaliencyImage("s", 0, pixels, pixels, {}, True)) | {"unmasked": "yes"}
    shard = Shard("val", 0, studies=1, images=1, planned=1)
    writer = ShardWriter(
        tmp_path / shard.name, Features(saliency_features() | {"unmasked": Value("string")})
    )
    writer.write(row)
    writer.close()
    shard.finish(tmp_path)
    with pytest.raises(DataError, match="unmasked is of the type string"):
        _describe(tmp_path, [shard], {}, Saliency(discriminator=tmp_path))
