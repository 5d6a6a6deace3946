import pytest
import torch
from torch import Tensor

from radrep.modules.transformer import (
    DecoderCache,
    MultiHeadAttention,
    SinusoidalPositions,
    StdLayerNorm,
)


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_norm_equals_the_published_definition(scale: float) -> None:
    torch.manual_seed(0)
    norm = StdLayerNorm(64)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (scale * torch.randn(5, 7, 64) + 3).requires_grad_()
    mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)  # unbiased
    published = norm.weight * (x - mean) / (std + 1e-6) + norm.bias
    actual = norm(x)
    torch.testing.assert_close(actual, published, atol=1e-4, rtol=1e-4)
    weight = torch.randn_like(actual)
    (ours,) = torch.autograd.grad((actual * weight).sum(), x, retain_graph=True)
    (theirs,) = torch.autograd.grad((published * weight).sum(), x)
    torch.testing.assert_close(ours, theirs, atol=1e-3 * theirs.abs().max().item(), rtol=0)


def test_a_constant_row_is_not_blown_up() -> None:
    assert StdLayerNorm(8)(torch.full((1, 8), 3.0)).abs().max() == 0


def test_attention_in_training_equals_evaluation_without_dropout() -> None:
    torch.manual_seed(0)
    mask = torch.rand(2, 1, 5, 7) > 0.3
    mask[..., 0] = True
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    attention = MultiHeadAttention(dim=16, num_heads=4, dropout=1e-9)
    trained = attention(x, attention.keys_and_values(memory), mask)
    attention.eval()
    torch.testing.assert_close(trained, attention(x, attention.keys_and_values(memory), mask))


def test_attention_weights_are_those_that_mix_the_values() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(dim=16, num_heads=1, dropout=0.0).eval()
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    key, value = attention.keys_and_values(memory)
    weights = attention.weights(x, key, None)
    expected = attention.out(weights @ value[:, 0])
    torch.testing.assert_close(attention(x, (key, value), None), expected)


def test_positions_start_where_decoding_stands() -> None:
    positions = SinusoidalPositions(8, dropout=0.0)
    whole = positions(torch.zeros(1, 6, 8))
    torch.testing.assert_close(positions(torch.zeros(1, 2, 8), start=4), whole[:, 4:])


@pytest.mark.parametrize(("training", "expected"), [(True, 0.3), (False, 0.0)])
def test_attention_off_the_cpu_is_fused_in_training_too(
    training: bool, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = MultiHeadAttention(dim=8, num_heads=2, dropout=0.3).to("meta").train(training)
    rates = []

    def fused(query: Tensor, *others: Tensor, dropout_p: float, **settings: object) -> Tensor:
        rates.append(dropout_p)
        return query

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
    x = torch.zeros(1, 3, 8, device="meta")
    attention(x, attention.keys_and_values(x), None)
    assert rates == [expected]


def test_greedy_decoding_copies_no_cache_until_a_study_ends() -> None:
    own = torch.randn(3, 2, 4, 5)
    cross = torch.randn(3, 2, 6, 5)
    cache = DecoderCache([(cross, cross)], [(own, own)])
    assert cache.select(torch.arange(3)[:, None]) is cache
    shorter = cache.select(torch.tensor([[0], [2]]))
    assert torch.equal(shorter.own[0][0], own[[0, 2]])
    assert torch.equal(shorter.cross[0][0], cross[[0, 2]])
