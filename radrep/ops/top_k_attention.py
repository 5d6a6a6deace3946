"""Attention of each query to its best keys alone.

The released R2GenCMN code gathers (b, heads, n, k, d) keys and values, and its backward pass fills
gigabytes. Here the scores are computed without autograd, the k best are kept, and every sum over
them, forward and backward, is an embedding bag: a weighted sum of table rows.

Letters: h heads, n queries of the whole batch, d width of a head, m keys, k keys kept.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from radrep.ops.dropout import dropout as drop


def _bag(rows: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of table rows: (h, n, k), (h, m, d), (h, n, k) -> (h, n, d)."""
    h, n, k = rows.shape
    m, d = table.shape[1:]
    heads = torch.arange(h, device=rows.device).view(h, 1, 1) * m
    sums = F.embedding_bag(
        (rows + heads).view(h * n, k),
        table.reshape(h * m, d),
        per_sample_weights=weights.reshape(h * n, k),
        mode="sum",
    )
    return sums.view(h, n, d)


class _BestScores(torch.autograd.Function):
    """The k highest scores query . key of each query, and where they are."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        best, rows = (query @ key.transpose(1, 2)).topk(top_k, dim=-1)  # of (h, n, m)
        ctx.save_for_backward(query, key, rows)
        ctx.mark_non_differentiable(rows)
        return best if best.dtype == torch.float64 else best.float(), rows

    @staticmethod
    def backward(ctx: Any, grad_best: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, key, rows = ctx.saved_tensors
        # d(best)/d(query) sums keys; d(best)/d(key) is what a bag of keys gives its table.
        with torch.enable_grad():
            table = key.detach().to(grad_best.dtype).requires_grad_()
            sums = _bag(rows, table, grad_best)
        (grad_key,) = torch.autograd.grad(sums, table, query.to(grad_best.dtype))
        return sums.detach().to(query.dtype), grad_key.to(key.dtype), None


def top_k_attention(
    query: Tensor, key: Tensor, value: Tensor, top_k: int, dropout: float = 0.0
) -> Tensor:
    """Attend to the ``top_k`` best keys of each query only.

    Scores are divided by sqrt(d); of equal ones those that `torch.topk` takes are kept.

    Args:
        query: (h, n, d).
        key: (h, m, d).
        value: (h, m, d).
        top_k: Number of keys k that a query sees, at most m.
        dropout: Probability with which a weight is dropped.

    Returns:
        (h, n, d), in the dtype of value.
    """
    best, rows = _BestScores.apply(query * query.shape[-1] ** -0.5, key, top_k)
    weights = drop(best.softmax(dim=-1), dropout)
    return _bag(rows, value.to(weights.dtype), weights).to(value.dtype)
