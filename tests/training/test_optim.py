"""Parameter groups and learning rates."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from radrep.build import build_model
from radrep.errors import CheckpointError
from radrep.recipe.load import load_recipe
from radrep.training.optim import build_optimizer, check_groups, rate_factor, restore_optimizer
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


def _spoiled(state: dict[str, Any], change: str) -> object:
    if change == "shape":
        state["state"][0]["exp_avg"] = torch.zeros(7)
    elif change == "rate":
        state["param_groups"][0]["lr"] = "fast"
    elif change == "name":
        del state["param_groups"][0]["name"]
    elif change == "groups":
        state["param_groups"] = []
    return "text" if change == "text" else state


@pytest.mark.parametrize("change", ["shape", "rate", "name", "groups", "text"])
def test_the_state_of_another_optimizer_is_refused(change: str, tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path, tmp_path)))

    def make() -> torch.optim.Optimizer:
        model = torch.nn.Linear(3, 2)
        groups = [{"params": list(model.parameters()), "name": "rest", "top_lr": 0.5}]
        optimizer = torch.optim.Adam(groups, lr=0.1)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return optimizer

    state = make().state_dict()
    restore_optimizer(make(), {"optimizer": copy.deepcopy(state)}, recipe.optim, Path("last"))
    spoiled = {"optimizer": _spoiled(state, change)}
    with pytest.raises(CheckpointError, match="last holds the state of another optimizer"):
        restore_optimizer(make(), spoiled, recipe.optim, Path("last"))


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
