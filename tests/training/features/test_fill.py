"""radrep cache fill: features before the training; on Ray the bytes of one process."""

from pathlib import Path

import numpy as np
import pytest

from radrep.parallel import cluster
from radrep.training.features import entry
from radrep.training.features.entry import Entry
from radrep.training.features.image_pass import ImagePass
from tests.parallel.test_cluster import Repeating, contents
from tests.training.test_emrrg import write as write_emrrg
from tests.whole_way import TINY, radrep, write_recipe


def write(folder: Path, prepared: Path, kind: str) -> Path:
    """The tiny recipe with a frozen part."""
    if kind == "emrrg":
        return write_emrrg(folder, prepared, train_encoder="frozen", hybrid=None)
    backbone = TINY["model"]["backbone"] | {"frozen": kind == "frozen"}
    if kind == "frozen_stages":
        backbone["frozen_stages"] = 3
    data = TINY["data"] | {"prepared": str(prepared), "random_crop": False}
    return write_recipe(
        folder, prepared, data=data, train={"epochs": 1}, model={"backbone": backbone}
    )


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two and one of train and val, and a batch each."""
    monkeypatch.setattr(entry, "BLOCK", 16)


def features(cache: Path) -> dict[str, bytes]:
    assert not [path for path in (cache / "features").iterdir() if path.name.startswith(".")]
    return contents(cache / "features")


@pytest.mark.parametrize("kind", ["frozen", "frozen_stages", "emrrg"])
def test_training_reads_what_was_computed_before_it(
    kind: str, phantoms: Path, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(tmp_path, phantoms, kind)
    monkeypatch.setattr(cluster, "Cluster", Repeating)
    made = {}
    for name, engine in (("one", ()), ("workers", ("--engine", "ray"))):
        monkeypatch.setenv("RADREP_CACHE", str(tmp_path / name))
        result = radrep("cache", "fill", recipe, *engine)
        assert result.exit_code == 0, result.output
        assert f"radrep train {recipe}" in result.stdout
        made[name] = features(tmp_path / name)
    assert made["workers"] == made["one"]
    with monkeypatch.context() as patch:
        patch.setattr(ImagePass, "_encode", None)  # nothing is computed any more
        again = radrep("cache", "fill", recipe)
        result = radrep("train", recipe)
    assert result.exit_code == 0, result.output
    for output in (again.stderr, result.stderr):
        for split in ("32 images of train", "8 images of val"):
            assert f"from the cache, {split}" in output
    monkeypatch.setenv("RADREP_CACHE", str(tmp_path / "alone"))
    assert radrep("train", recipe).exit_code == 0
    assert features(tmp_path / "alone") == made["one"], "all that training makes, byte for byte"


RAY = ("--engine", "ray")


@pytest.mark.parametrize(
    ("first", "then", "engine"),
    [
        ("cache fill", "cache fill", ()),
        ("cache fill", "cache fill", RAY),
        ("cache fill", "train", RAY),
        ("train", "train", ()),
    ],
)
def test_blocks_of_a_command_that_was_stopped_are_not_made_again(
    first: str,
    then: str,
    engine: tuple[str, ...],
    phantoms: Path,
    tmp_path: Path,
    small_blocks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "Cluster", Repeating)
    recipe = write(tmp_path, phantoms, "frozen")
    made: list[tuple[str, int]] = []
    write_block = Entry.write

    def note(own: Entry, number: int, rows: np.ndarray, stop_at: int = 0) -> None:
        if len(made) + 1 == stop_at:
            raise KeyboardInterrupt
        made.append((own.folder.name, number))
        write_block(own, number, rows)

    monkeypatch.setattr(Entry, "write", lambda *given: note(*given, stop_at=5))
    stopped = radrep(*first.split(), recipe, *engine)
    assert stopped.exit_code == 130
    assert ("goes on" if first == "cache fill" else "stopped") in stopped.stderr
    assert "unfinished" in radrep("cache").stdout
    monkeypatch.setattr(Entry, "write", note)
    words = (*then.split(), recipe, *(engine if then == "cache fill" else ()))
    result = radrep(*words)
    assert result.exit_code == 0, result.output
    assert [number for _, number in made[:6]] == [0, 0, 0, 1, 1, 1], "of three entries of train"
    assert len({*made}) == len(made), "no block is made twice"
    made_in_two = features(tmp_path / "cache")
    monkeypatch.setenv("RADREP_CACHE", str(tmp_path / "other"))
    assert radrep("cache", "fill", recipe).exit_code == 0
    assert features(tmp_path / "other") == made_in_two


def test_an_encoder_that_is_trained_has_nothing_to_compute(phantoms: Path, tmp_path: Path) -> None:
    result = radrep("cache", "fill", write_recipe(tmp_path, phantoms))
    assert result.exit_code == 2
    assert "its encoder is trained" in result.stderr
    assert "model.backbone.frozen" in result.stderr
    assert not (tmp_path / "cache/features").exists()


def test_a_disk_without_room_is_found_before_the_work(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        free = 10

    monkeypatch.setattr("shutil.disk_usage", lambda _: Full)
    monkeypatch.setattr(ImagePass, "batches", None)
    result = radrep("cache", "fill", write(tmp_path, phantoms, "frozen"))
    assert result.exit_code == 2
    assert "the feature cache needs" in result.stderr
