"""Pretraining of the X-ray Mamba by labels, what starts from it, and its linear probe."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.test_pretraining_task import write
from tests.whole_way import TINY, radrep, read_metrics

ENCODER = {"size": "nano", "patch_size": 16}
LABELS: dict[str, Any] = {"name": "discriminator", "encoder": ENCODER, "labels": "reports"}


def pretrain(folder: Path, prepared: Path, **model: Any) -> Path:
    data = TINY["data"] | {"prepared": str(prepared), "random_crop": False}
    recipe = write(folder, prepared, LABELS | model, data=data, train={"monitor": "val/auroc"})
    result = radrep("pretrain", recipe)
    assert result.exit_code == 0, result.output
    assert "--set model.encoder.weights=" in result.output
    return folder / "run"


def encoder_of(run: Path) -> dict[str, Tensor]:
    state = load_file(run / "best/weights.safetensors")
    return {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Path:
    return pretrain(tmp_path_factory.mktemp("supervised"), phantoms)


def test_it_is_validated_and_scored_label_by_label(supervised: Path, tmp_path: Path) -> None:
    assert {"val/loss", "val/auroc", "val/average_precision"} <= set(read_metrics(supervised)[-1])
    result = radrep("eval", supervised, "--split", "val", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Pleural Effusion" in result.output


def test_a_linear_probe_leaves_the_encoder_as_it_was(
    supervised: Path, phantoms: Path, tmp_path: Path
) -> None:
    started = ENCODER | {"weights": str(supervised)}
    run = pretrain(tmp_path, phantoms, encoder=started, train_encoder="frozen")
    before, after = encoder_of(supervised), encoder_of(run)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    name = "classifier.weight"
    files = (folder / "best/weights.safetensors" for folder in (supervised, run))
    assert not torch.equal(*(load_file(file)[name] for file in files))


def test_stage_two_starts_from_it(supervised: Path, phantoms: Path, tmp_path: Path) -> None:
    model = {
        "name": "contrastive",
        "encoder": ENCODER | {"weights": str(supervised)},
        "text_encoder": {"name": "small", "dim": 16, "num_layers": 1, "num_heads": 2},
        "projection_dim": 8,
    }
    recipe = write(tmp_path, phantoms, model)
    slow = ("--set", "optim.lr=1e-12", "--set", "optim.encoder_lr=1e-12", "--set", "optim.min_lr=0")
    result = radrep("pretrain", recipe, *slow)
    assert result.exit_code == 0, result.output
    before, after = encoder_of(supervised), encoder_of(tmp_path / "run")
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=1e-6)


def test_masks_are_refused(supervised: Path, phantoms: Path) -> None:
    result = radrep("prepare", "saliency", "--data", phantoms, "--checkpoint", supervised)
    assert result.exit_code == 2
    assert "classifies by an X-ray Mamba (model.encoder)" in result.stderr
