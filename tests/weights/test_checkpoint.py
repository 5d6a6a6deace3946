"""Checkpoints: failed writes, recipes of older versions."""

import errno
import json
import shutil
from pathlib import Path
from typing import cast

import psutil
import pytest
import torch
from safetensors import SafetensorError, safe_open

from radrep.data.manifest import source_of
from radrep.errors import CheckpointError
from radrep.hub import hub_sources
from radrep.recipe.load import load_recipe
from radrep.weights import checkpoint, files
from radrep.weights.checkpoint import load_checkpoint, save_checkpoint
from radrep.weights.files import read_header, read_weights, write_checksums, write_weights


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (SafetensorError("I/O error: No space left on device (os error 28)"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
    ],
    ids=["full", "full, by safetensors", "not permitted"],
)
def test_a_failed_write_names_its_cause_and_blames_the_disk_only_if_full(
    error: Exception,
    is_full: bool,
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(CheckpointError) as raised:
        save_again(trained_run, tmp_path / "new")
    assert str(error) in str(raised.value)
    assert ("GB free" in str(raised.value)) == is_full
    assert not list(tmp_path.iterdir())


def test_a_model_is_the_same_without_its_optimizer(tmp_path: Path) -> None:
    """In one file, and in the parts of a sharded one."""
    for name in ("weights.safetensors", "training.pt", "__0_0.distcp", "__1_0.distcp", ".metadata"):
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path)
    whole = files.fingerprint(tmp_path, without="training.pt")
    for name in ("training.pt", "__0_0.distcp", "__1_0.distcp", ".metadata"):
        (tmp_path / name).unlink()
    write_checksums(tmp_path)
    assert files.fingerprint(tmp_path, without="training.pt") == whole
    (tmp_path / "weights.safetensors").write_text("others")
    write_checksums(tmp_path)
    assert files.fingerprint(tmp_path, without="training.pt") != whole


def test_an_error_that_is_no_failed_write_is_raised_as_it_is(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(torch.OutOfMemoryError):
        save_again(trained_run, tmp_path / "new")


def test_the_hub_commit_of_its_initial_weights_is_in_a_checkpoint(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "hub_sources", lambda model: {"backbone": "timm/x@abc"})
    save_again(trained_run, tmp_path / "new")
    with safe_open(tmp_path / "new/weights.safetensors", "pt") as file:
        assert json.loads(file.metadata()["hub"]) == {"backbone": "timm/x@abc"}
    resumed = cast(torch.nn.Module, load_checkpoint(tmp_path / "new").model)
    assert hub_sources(resumed) == {"backbone": "timm/x@abc"}


def save_again(run: Path, out: Path) -> None:
    loaded = load_checkpoint(run / "best")
    save_checkpoint(
        out,
        model=loaded.model,
        recipe=loaded.recipe,
        tokenizer=loaded.tokenizer,
        prepared_size=loaded.prepared_size,
        training=None,
    )


def test_the_recipe_of_an_older_radrep_names_the_new_key(trained_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    for name in ("weights.safetensors", "vocabulary.json", "recipe.yaml"):
        (folder / name).write_bytes((trained_run / "best" / name).read_bytes())
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(" images: ", " pair: "))
    write_checksums(folder)
    with pytest.raises(CheckpointError, match="old was made by an older radrep") as raised:
        load_checkpoint(folder)
    assert "data.images" in str(raised.value)


def test_a_run_goes_on_from_one_whose_visual_tokens_started_at_another_scale() -> None:
    published = load_recipe("emrrg_iu_published")
    words = load_recipe("emrrg_iu", ["model.projector_scale=words"])
    assert checkpoint._other_model(published, words) == ""
    pooled = load_recipe("emrrg_iu", ["model.visual_tokens=all"])
    assert checkpoint._other_model(published, pooled).startswith(
        "its model.visual_tokens is pooled"
    )


@pytest.mark.parametrize(
    ("old", "new"), [(" size: 16", " size: 65536"), (" ff_dim: 16", " ff_dim: 65536")]
)
def test_a_recipe_of_a_larger_model_than_its_weights_is_refused_before_it_is_built(
    trained_run: Path, tmp_path: Path, old: str, new: str
) -> None:
    folder = shutil.copytree(trained_run / "best", tmp_path / "new")
    text = (folder / "recipe.yaml").read_text()
    assert old in text
    text = text.replace(old, new).replace(" dim: 16", " dim: 65536")
    (folder / "recipe.yaml").write_text(text)
    write_checksums(folder)
    before = psutil.Process().memory_info().rss
    with pytest.raises(CheckpointError, match="describes a model of more than"):
        load_checkpoint(folder)
    assert psutil.Process().memory_info().rss - before < 5e8


def test_weights_name_what_they_learned_from(trained_run: Path, phantoms: Path) -> None:
    about = read_header(trained_run / "best/weights.safetensors")
    assert about["source"] == source_of(phantoms)
    assert about["source"].startswith("phantom ")


def test_equal_weights_make_equal_bytes(tmp_path: Path) -> None:
    about = {"prepared_size": "256", "source": "é\n", "hub": '{"a": "b"}', "saliency": "x"}
    for number in range(8):
        write_weights(tmp_path / f"{number}.safetensors", {"w": torch.arange(3.0)}, about)
    state, read = read_weights(tmp_path / "0.safetensors")
    assert read == about
    assert state["w"].tolist() == [0, 1, 2]
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
