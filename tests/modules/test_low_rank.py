import pytest
import torch
from torch import nn

from radrep.modules.low_rank import LowRankLinear


def filled(layer: LowRankLinear) -> LowRankLinear:
    """The layer with adapters that do something."""
    for name, parameter in layer.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter)
    return layer


def test_state_and_output_without_adapters_are_those_of_a_linear_layer() -> None:
    plain, ours = nn.Linear(5, 7), LowRankLinear(5, 7)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 5)
    assert torch.equal(ours(x), plain(x))
    assert torch.equal(ours.product(x), nn.functional.linear(x, plain.weight))


@pytest.mark.parametrize("rows", [None, slice(0, 3), slice(3, 7)])
def test_an_adapter_starts_without_effect_and_then_acts_on_its_rows(rows: slice | None) -> None:
    layer = LowRankLinear(5, 7).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    before, before_product = layer(x), layer.product(x)
    down, up = layer.add_adapter("a", rank=2, rows=rows, scale=0.5)
    assert torch.equal(layer(x), before)
    nn.init.normal_(up)
    expected = before.clone()
    expected[..., rows or slice(None)] += 0.5 * x @ down.T @ up.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        layer.product(x), before_product + expected - before, rtol=0, atol=1e-12
    )


def test_adapters_lie_under_their_names() -> None:
    layer = LowRankLinear(5, 7)
    layer.add_adapter("a", rank=2, rows=slice(0, 3))
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "weight": (7, 5),
        "bias": (7,),
        "adapters.a.down": (2, 5),
        "adapters.a.up": (3, 2),
    }


def test_merged_weights_give_the_same_output_and_the_names_of_a_linear_layer() -> None:
    owner, borrower = LowRankLinear(5, 7).double(), LowRankLinear(5, 7, bias=False).double()
    owner.add_adapter("a", rank=2, rows=slice(0, 3), scale=0.7)
    owner.add_adapter("b", rank=3)
    borrower.borrow_adapter("b", owner)
    filled(owner)
    assert "adapters.b.up" not in borrower.state_dict(), "one tensor under two names"
    x = torch.randn(4, 5, dtype=torch.float64)
    before, before_borrowed = owner(x), borrower(x)
    assert not torch.equal(before_borrowed, nn.functional.linear(x, borrower.weight))
    owner.merge()
    torch.testing.assert_close(owner(x), before, rtol=0, atol=1e-10)
    torch.testing.assert_close(borrower(x), before_borrowed, rtol=0, atol=1e-10)
    borrower.merge()
    torch.testing.assert_close(borrower(x), before_borrowed, rtol=0, atol=1e-10)
    assert set(owner.state_dict()) == {"weight", "bias"}


def test_dropout_acts_in_training_alone() -> None:
    layer = LowRankLinear(5, 7)
    layer.add_adapter("a", rank=16, dropout=0.5)
    filled(layer)
    x = torch.randn(4, 5)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_an_adapter_takes_type_and_mode_of_its_layer() -> None:
    layer = LowRankLinear(5, 7).double().eval()
    layer.add_adapter("a", rank=2)
    assert layer.adapters["a"].down.dtype == torch.float64
    assert not layer.adapters["a"].training


def test_wrong_adapters_are_refused() -> None:
    layer = LowRankLinear(5, 7)
    layer.add_adapter("a", rank=1)
    with pytest.raises(ValueError, match="there is an adapter 'a' already"):
        layer.add_adapter("a", rank=1)
    with pytest.raises(ValueError, match="rank of adapter 'b' must be at least 1, got 0"):
        layer.add_adapter("b", rank=0)
    for rows in (slice(7, 9), slice(0, 4, 2), slice(4, 0, -1)):
        with pytest.raises(ValueError, match="adapter 'b' needs neighbouring rows, at least one"):
            layer.add_adapter("b", rank=1, rows=rows)
    with pytest.raises(ValueError, match=r"of a layer of \(7, 5\), this one is of \(7, 6\)"):
        LowRankLinear(6, 7).borrow_adapter("a", layer)
