"""Parameter groups and learning rates."""

import pytest
import torch

from radrep.build import build_model
from radrep.recipe.load import load_recipe
from radrep.training.optim import build_optimizer, check_groups, rate_factor
from tests.whole_way import write_recipe


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = torch.nn.Linear(2, 2)
    named = list(model.named_parameters())
    check_groups(named, [[model.weight], [model.bias]])
    with pytest.raises(AssertionError, match="bias is in 0 parameter groups, expected 1"):
        check_groups(named, [[model.weight]])
    with pytest.raises(AssertionError, match="weight is in 2 parameter groups"):
        check_groups(named, [[model.weight, model.bias], [model.weight]])
    with pytest.raises(AssertionError, match="1 grouped parameters are not the model's"):
        check_groups(named, [[model.weight, model.bias, torch.nn.Parameter(torch.zeros(1))]])


def test_adamw_decays_matrices_but_not_what_mamba_marks(tmp_path) -> None:
    file = write_recipe(tmp_path, tmp_path, optim={"name": "adamw", "weight_decay": 0.5})
    recipe = load_recipe(str(file))
    model = build_model(recipe, ("<unk>", "clear"))
    optimizer = build_optimizer(model, recipe.optim)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    by_name = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert {v for n, v in by_name.items() if n.endswith(("A_log", ".D", "bias"))} == {0.0}
    assert any(name.endswith("A_log") for name in by_name)
    assert by_name["encoder_decoder.words.weight"] == 0.5


def test_rates_warm_up_then_fall_to_the_floor_one_step_after_the_last() -> None:
    rates = [rate_factor(step, warmup_steps=4, total_steps=20, floor=0.1) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[12] == pytest.approx(0.55)  # halfway down the cosine
    assert rates[4:] == sorted(rates[4:], reverse=True)
    # The last step, 19, is 15/16 of the way: 0.1 + 0.9 * (1 + cos(15 pi / 16)) / 2.
    assert rates[19] == pytest.approx(0.10864665)
    assert rates[20] == pytest.approx(0.1)
    assert rate_factor(0, warmup_steps=0, total_steps=1, floor=0.1) == 1.0
