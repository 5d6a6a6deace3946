"""Models with a convolutional backbone, sharded by the command: the curve of one process."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.training.parallel.processes import command, run
from tests.training.parallel.test_processes import GLOBAL_BATCH, agree, curve
from tests.whole_way import TINY, radrep, write_recipe

# Norms of a backbone that is trained whole take the statistics of a process's own images.
BACKBONE: dict[str, Any] = TINY["model"]["backbone"] | {"frozen_stages": 1}
NO_DROPOUT: dict[str, Any] = {
    "backbone": BACKBONE,
    "projection_dropout": 0.0,
    "enhancer": TINY["model"]["enhancer"] | {"dropout": 0.0, "gate": "channel"},
    "transformer": TINY["model"]["transformer"] | {"dropout": 0.0},
}
DISCRIMINATOR: dict[str, Any] = {"name": "discriminator", "labels": "reports", "words": 10}


def write(folder: Path, prepared: Path, processes: int, model: str, **parallel: Any) -> Path:
    """A model's recipe, nothing of it drawn anew by each process."""
    folder.mkdir(exist_ok=True)
    path = write_recipe(folder, prepared, parallel=parallel, model=NO_DROPOUT)
    recipe = yaml.safe_load(path.read_text())
    recipe["data"] |= {"random_crop": False, "target": "both"}
    recipe["train"]["batch_size"] = GLOBAL_BATCH // processes
    recipe["decode"] = {"method": "greedy", "max_new_tokens": 2, "select": None}
    if model == "discriminator":
        recipe["model"] = DISCRIMINATOR | {"backbone": BACKBONE}
        recipe["train"]["monitor"] = "val/auroc"
        del recipe["decode"]
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shards"), [("csr_lmca", ["full", "hybrid"]), ("discriminator", ["full"])]
)
def test_a_model_with_a_backbone_learns_sharded_as_in_one_process(
    tmp_path: Path, phantoms: Path, model: str, shards: list[str]
) -> None:
    done = radrep("train", write(tmp_path / "alone", phantoms, 1, model))
    assert done.exit_code == 0, done.output
    expected = curve(tmp_path / "alone/run")
    for shard in shards:
        folder, processes = tmp_path / shard, 4 if shard == "hybrid" else 2
        recipe = write(folder, phantoms, processes, model, data="fsdp", shard=shard)
        run(folder / "said", processes, command("train", recipe), per_node=2)
        agree(curve(folder / "run"), expected)
