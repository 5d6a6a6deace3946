import pytest
import torch

from radrep.ops.dropout import dropout


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(1,), (7, 3), (401, 503)])
def test_dropout_zeroes_the_wanted_share_and_keeps_the_mean(
    p: float, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(shape), p)
    assert out.shape == torch.Size(shape)
    assert all(min(abs(v), abs(v - 1 / (1 - p))) < 1e-4 for v in out.unique().tolist())
    if out.numel() > 1000:
        assert (out == 0).float().mean().item() == pytest.approx(p, abs=4e-3)
        assert out.mean().item() == pytest.approx(1.0, abs=5e-3)


def test_gradient_passes_where_the_element_was_kept() -> None:
    x = torch.ones(64, requires_grad=True)
    out = dropout(x, 0.5)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, out.detach())


def test_draws_are_independent_of_one_another_and_repeat_with_the_seed() -> None:
    torch.manual_seed(0)
    first = dropout(torch.ones(4, 50_000), 0.5) > 0
    torch.manual_seed(0)
    assert torch.equal(first, dropout(torch.ones(4, 50_000), 0.5) > 0)
    by_lane = first.flatten().view(-1, 4).float()  # four elements share one 64-bit draw
    correlation = torch.corrcoef(by_lane.T) - torch.eye(4)
    assert correlation.abs().max() < 0.02


def test_no_dropout_returns_the_input() -> None:
    x = torch.randn(3)
    assert dropout(x, 0.0) is x
