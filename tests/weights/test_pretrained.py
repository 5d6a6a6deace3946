"""Which weights are taken and which are refused."""

from pathlib import Path

import pytest
import torch

from radrep.errors import CheckpointError
from radrep.models.xray_mamba import add_partial_lora, make_xray_mamba
from radrep.weights.pretrained import _weights_file, check_state_dict, hash_base


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
