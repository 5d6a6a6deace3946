"""The stages of the X-ray Mamba through the command, one on the other."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from radrep.preparation.pipeline import prepare
from radrep.preparation.sources.phantom.source import PhantomSource
from tests.whole_way import TINY, draw_prepared, radrep, read_metrics, stop_midway, write_recipe

ENCODER = {"size": "tiny", "patch_size": 16, "drop_path": 0.0}
STAGE_ONE: dict[str, Any] = {
    "name": "autoregressive",
    "encoder": ENCODER,
    "cluster_size": 2,
    "decoder_dim": 64,
}
STAGE_TWO: dict[str, Any] = {
    "name": "contrastive",
    "encoder": ENCODER,
    "text_encoder": {"name": "small", "dim": 16, "num_layers": 1, "num_heads": 2},
    "projection_dim": 8,
}


def write(folder: Path, prepared: Path, model: dict[str, Any], **sections: Any) -> Path:
    folder.mkdir(exist_ok=True)
    recipe = write_recipe(folder, prepared, **sections)
    typed = yaml.safe_load(recipe.read_text())
    typed |= {"task": "pretrain", "model": model}
    typed["train"] |= {"epochs": 1, "save_every_steps": 2}
    typed["optim"] |= {"name": "adamw", "lr": 1e-3, "encoder_lr": 1e-3, "amsgrad": False}
    recipe.write_text(yaml.safe_dump(typed))
    return recipe


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Path:
    folder = tmp_path_factory.mktemp("stage_one")
    data = TINY["data"] | {
        "random_resized_crop": True,
        "random_flip": True,
        "prepared": str(phantoms),
    }
    recipe = write(folder, phantoms, STAGE_ONE, data=data)
    result = radrep("pretrain", recipe)
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_stage_one_is_validated_by_its_loss(stage_one: Path) -> None:
    rows = read_metrics(stage_one)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert all(loss == loss for loss in losses)
    assert {name for row in rows for name in row if name.startswith("val/")} == {"val/loss"}


@pytest.mark.slow
def test_stage_two_starts_from_stage_one_and_is_validated_by_retrieval(
    stage_one: Path, phantoms: Path, tmp_path: Path
) -> None:
    model = STAGE_TWO | {"encoder": ENCODER | {"weights": str(stage_one)}}
    recipe = write(tmp_path, phantoms, model)
    result = radrep(
        "pretrain", recipe, "--set", "optim.lr=1e-12", "--set", "optim.encoder_lr=1e-12"
    )
    assert result.exit_code == 0, result.output
    row = read_metrics(tmp_path / "run")[-1]
    assert row["val/loss"] > 0
    assert 0 <= row["val/image_to_text_r1"] <= row["val/image_to_text_r10"] <= 1
    before = load_file(stage_one / "best/weights.safetensors")
    after = load_file(tmp_path / "run/best/weights.safetensors")
    name = "encoder.layers.3.mixer.branches.{}.conv1d.weight"
    for direction in ("rows", "columns_reversed"):
        torch.testing.assert_close(
            after[name.format(direction)], before[name.format("rows")], atol=1e-6, rtol=1e-6
        )


@pytest.fixture(scope="module")
def stage_two(tmp_path_factory: pytest.TempPathFactory, stage_one: Path, phantoms: Path) -> Path:
    folder = tmp_path_factory.mktemp("stage_two")
    model = STAGE_TWO | {"encoder": ENCODER | {"weights": str(stage_one)}}
    result = radrep("pretrain", write(folder, phantoms, model))
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage_one", "stage_two"])
def test_stage_three_starts_from_either(
    stage: str,
    request: pytest.FixtureRequest,
    phantoms: Path,
    films: list[Path],
    tmp_path: Path,
) -> None:
    before = request.getfixturevalue(stage)
    recipe = write_recipe(tmp_path, phantoms)
    typed = yaml.safe_load(recipe.read_text())
    typed["model"] = {
        "name": "emrrg",
        "encoder": ENCODER | {"weights": str(before)},
        "lora": {"rank": 2},
        "language_model": {"name": "tiny:llama", "precision": "fp32"},
    }
    typed["data"] |= {"random_crop": False, "max_tokens": 20}
    typed["train"] |= {"epochs": 1}
    typed["decode"] = {"method": "greedy", "max_new_tokens": 4}
    recipe.write_text(yaml.safe_dump(typed))
    result = radrep("train", recipe)
    assert result.exit_code == 0, result.output
    old = load_file(before / "best/weights.safetensors")
    new = load_file(tmp_path / "run/best/weights.safetensors")
    # The encoder below its adapters is frozen; stage 1 knows one direction, and no class token.
    name = "encoder.layers.3.mixer.branches.{}.conv1d.weight"
    for direction in ("rows", "columns_reversed"):
        source = "rows" if stage == "stage_one" else direction
        assert torch.equal(new[name.format(direction)], old[name.format(source)])
    assert torch.equal(new["encoder.patch_embed.weight"], old["encoder.patch_embed.weight"])
    if stage == "stage_two":
        assert torch.equal(new["encoder.class_token"], old["encoder.class_token"])
    up = "encoder.layers.3.mixer.in_proj.adapters.X.up"
    assert new[up].abs().max() > 0, "adapters learn"
    written = radrep("generate", films[0], "--checkpoint", tmp_path / "run")
    assert written.exit_code == 0, written.output


@pytest.mark.slow
@pytest.mark.parametrize("model", [STAGE_ONE, STAGE_TWO], ids=lambda model: model["name"])
def test_a_killed_stage_resumes_to_the_same_curve(
    model: dict[str, Any], phantoms: Path, tmp_path: Path
) -> None:
    for name in ("whole", "killed"):
        recipe = write(tmp_path / name, phantoms, model)
        if name == "killed":
            stop_midway("pretrain", recipe, lines=3)
        result = radrep("pretrain", recipe, *["--resume"] * (name == "killed"))
        assert result.exit_code == 0, result.output
    assert read_metrics(tmp_path / "killed/run") == read_metrics(tmp_path / "whole/run")


def test_a_run_of_pretraining_writes_no_reports(stage_one: Path) -> None:
    result = radrep("eval", stage_one)
    assert result.exit_code == 2
    assert "is of pretraining and writes no reports" in result.stderr


def test_commands_refuse_the_recipes_of_the_other(phantoms: Path, tmp_path: Path) -> None:
    result = radrep("train", write(tmp_path, phantoms, STAGE_ONE))
    assert result.exit_code == 2
    assert "radrep pretrain" in result.stderr
    result = radrep("pretrain", "demo")
    assert result.exit_code == 2
    assert "radrep train" in result.stderr


def test_weights_that_are_not_there_are_told(phantoms: Path, tmp_path: Path) -> None:
    model = STAGE_TWO | {"encoder": ENCODER | {"weights": str(tmp_path / "nothing")}}
    result = radrep("pretrain", write(tmp_path, phantoms, model))
    assert result.exit_code == 2
    assert "model.encoder.weights" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_test_studies_are_refused(phantoms: Path, tmp_path: Path) -> None:
    held_out = draw_prepared(tmp_path / "held_out", num=120)
    data = TINY["data"] | {"random_crop": True, "prepared": str(held_out)}
    recipe = write(tmp_path, held_out, STAGE_ONE, data=data | {"exclude_test_of": [str(held_out)]})
    result = radrep("pretrain", recipe)
    assert result.exit_code == 0, "its own test studies are not in train"
    assert f"the 20 test studies of {held_out} are not read" in result.stderr
    assert "data.exclude_test_of is empty" not in result.stderr
    # The first phantoms are the same in a short set and a long one: its train holds others' test.
    recipe = write(tmp_path, held_out, STAGE_ONE, data=data | {"exclude_test_of": [str(phantoms)]})
    result = radrep("pretrain", recipe)
    assert result.exit_code == 2
    assert "share 8 studies, 8 patients and 8 images with the test split" in result.stderr
    small = prepare(
        PhantomSource(48, image_size=64, splits=(0, 0, 1)), tmp_path / "s", image_size=32
    )
    recipe = write(tmp_path, phantoms, STAGE_ONE, data=data | {"exclude_test_of": [str(small.out)]})
    recipe.write_text(recipe.read_text().replace(f"prepared: {held_out}", f"prepared: {phantoms}"))
    result = radrep("pretrain", recipe)
    assert result.exit_code == 2
    assert re.search(r"and \d+ near-duplicate images .*, 12 bits", result.stderr)
    assert "of one size they compare exactly" in result.stderr


def test_without_exclude_test_of_it_is_told_what_was_not_checked(
    phantoms: Path, tmp_path: Path
) -> None:
    result = radrep("pretrain", write(tmp_path, phantoms, STAGE_ONE))
    assert result.exit_code == 0, result.output
    assert f"the 8 test studies of {phantoms} are not read" in result.stderr
    assert "data.exclude_test_of is empty" in result.stderr
