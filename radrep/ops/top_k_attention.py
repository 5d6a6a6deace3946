"""Attention of each query to its best keys alone, without gathering (b, heads, n, k, d) keys.

On CPUs the scores are computed without autograd, Numba kernels find the k best and take the
gradients, and a sum over kept rows is an embedding bag. Elsewhere the kept weights fill a matrix
that is 0 in all other places: two matrix products, whose backward pass repeats to the bit.

Letters: h heads, n queries of the whole batch, d width of a head, m keys, k keys kept.
"""

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from radrep.device import without_autocast
from radrep.ops.dropout import dropout as drop
from radrep.ops.outside_graphs import outside_graphs


def _has_kernels(x: Tensor) -> bool:
    return x.device.type == "cpu" and importlib.util.find_spec("numba") is not None


def _run(kernel: str, tasks: int, inputs: tuple[Tensor, ...], *results: Tensor) -> None:
    from radrep.ops import kernel_threads, top_k_kernels  # with Numba, so not at the top

    given = tuple(x.contiguous().numpy() for x in inputs)
    written = (x.numpy() for x in results)
    kernel_threads.run_kernel(getattr(top_k_kernels, kernel), tasks, given, *written)


def _find_best(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The k highest of scores (h, n, m), falling, and where: two of (h, n, k)."""
    best = scores.new_empty(*scores.shape[:2], top_k)
    rows = torch.empty(best.shape, dtype=torch.long)
    flat = scores.flatten(0, 1)
    _run("best_of_rows", len(flat), (flat,), best.flatten(0, 1), rows.flatten(0, 1))
    return best, rows


def _sum_of_rows(rows: Tensor, weights: Tensor, table: Tensor) -> Tensor:
    """Weighted sums of table rows: (h, n, k), (h, n, k), (h, m, d) -> (h, n, d)."""
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


def _added_to_rows(rows: Tensor, weights: Tensor, addends: Tensor, m: int) -> Tensor:
    """What the queries' addends (h, n, d), weighted, add up to in each table row: (h, m, d)."""
    table = addends.new_zeros(addends.shape[0], m, addends.shape[2])
    _run("add_to_rows", len(table), (weights, addends), rows, table)
    return table


def _dots_with_rows(rows: Tensor, queries: Tensor, table: Tensor) -> Tensor:
    """Products of queries (h, n, d) with the table rows (h, m, d) that they kept: (h, n, k)."""
    dots = queries.new_empty(rows.shape)
    _run("dot_with_rows", len(table), (queries, table), rows, dots)
    return dots


class _BestScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        scores = query @ key.transpose(1, 2)  # (h, n, m)
        best, rows = _find_best(scores.to(_wide(scores.dtype)), top_k)
        ctx.save_for_backward(query, key, rows)
        ctx.mark_non_differentiable(rows)
        return best, rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_best: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, key, rows = ctx.saved_tensors
        wide = grad_best.dtype
        grad_query = _sum_of_rows(rows, grad_best, key.to(wide))
        grad_key = _added_to_rows(rows, grad_best, query.to(wide), key.shape[1])
        return grad_query.to(query.dtype), grad_key.to(key.dtype), None


class _SumOfRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights, table)
        return _sum_of_rows(rows, weights, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights, table = ctx.saved_tensors
        grad_weights = _dots_with_rows(rows, grad, table)
        return None, grad_weights, _added_to_rows(rows, weights, grad, table.shape[1])


def top_k_attention(
    query: Tensor, key: Tensor, value: Tensor, top_k: int, dropout: float = 0.0
) -> Tensor:
    """Attend to the k best keys only: (h, n, d), (h, m, d), (h, m, d) -> (h, n, d), typed as value.

    Scores are divided by sqrt(d). Of equal scores at the edge any may be kept.
    """
    query = query * query.shape[-1] ** -0.5
    if not _has_kernels(query):
        scores = query @ key.transpose(1, 2)
        best, rows = scores.to(_wide(scores.dtype)).topk(top_k, dim=-1)
        weights = drop(best.softmax(dim=-1), dropout)
        dense = weights.new_zeros(scores.shape).scatter(-1, rows, weights)
        with without_autocast(dense.device):
            return (dense @ value.to(dense.dtype)).to(value.dtype)
    return _attend_by_kernels(query, key, value, top_k, dropout)


@outside_graphs
def _attend_by_kernels(
    query: Tensor, key: Tensor, value: Tensor, top_k: int, dropout: float
) -> Tensor:
    best, rows = _BestScores.apply(query, key, top_k)
    weights = drop(best.softmax(dim=-1), dropout)
    return _SumOfRows.apply(rows, weights, value.to(weights.dtype)).to(value.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
