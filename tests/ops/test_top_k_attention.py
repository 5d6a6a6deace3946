import pytest
import torch

from radrep.ops import top_k_attention as module
from radrep.ops.top_k_attention import top_k_attention


def definition(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, k: int) -> torch.Tensor:
    """Gather the rows of the k best keys of each query and sum them, one query at a time."""
    out = torch.zeros_like(query)
    for h, n in torch.cartesian_prod(*(torch.arange(s) for s in query.shape[:2])).tolist():
        best, rows = (key[h] @ query[h, n] / query.shape[-1] ** 0.5).topk(k)
        out[h, n] = best.softmax(0) @ value[h, rows]
    return out


@pytest.mark.parametrize("kernels", [True, False])
def test_top_k_attention_equals_its_definition_with_all_gradients(
    kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(module, "_has_kernels", lambda x: False)
    generator = torch.Generator().manual_seed(0)
    sizes = ((3, 10, 4), (3, 11, 4), (3, 11, 4))
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    actual, expected = top_k_attention(*ours, 4), definition(*theirs, 4)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn(actual.shape, generator=generator, dtype=torch.float64)
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_all_rows_kept_is_plain_attention() -> None:
    query, key, value = torch.randn(3, 5, 4), torch.randn(3, 7, 4), torch.randn(3, 7, 4)
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(top_k_attention(query, key, value, 7), plain)


def test_kernels_keep_what_topk_keeps() -> None:
    scores = torch.randn(2, 50, 700)
    best, rows = module._find_best(scores, 32)
    expected = scores.topk(32)
    assert torch.equal(best, expected.values)
    assert torch.equal(scores.gather(-1, rows), best)


def test_keys_that_are_nan_do_not_go_unseen() -> None:
    query, key = torch.randn(1, 3, 4), torch.full((1, 7, 4), float("nan"))
    assert top_k_attention(query, key, key, 2).isnan().all()
