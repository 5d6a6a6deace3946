"""The causal depthwise convolution of Mamba and its SiLU on CPUs, over several orders at once.

Letters: j orders, b sequences, l steps, e channels. Sums over tasks are taken here, in a fixed
order: the same bits on any number of threads.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from radrep.ops import causal_conv_kernels as kernels
from radrep.ops.kernel_rows import as_array, as_rows
from radrep.ops.kernel_threads import run_kernel
from radrep.ops.selective_scan.reference import compute_dtype


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, orders: Tensor) -> Tensor:
        b, length, e = x.shape
        weight = weight.transpose(1, 2).contiguous()  # (j, taps, e)
        y = x.new_empty(len(orders), b, length, e)
        flat, span = as_rows(x)
        inputs = (flat, *(as_array(given) for given in (weight, bias, orders)))
        tasks = b * -(-e // kernels.WIDTH)
        run_kernel(kernels.forward, tasks, inputs, b, span, as_array(y).reshape(-1))
        ctx.save_for_backward(x, weight, bias, orders)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, orders = ctx.saved_tensors
        b, length, e = x.shape
        flat, span = as_rows(x)
        inputs = (flat, *(as_array(given) for given in (weight, bias, orders)))
        grad_x = x.new_empty(x.shape)
        grads = weight.new_empty(len(orders), b, 1 + weight.shape[1], e)
        run_kernel(
            kernels.backward,
            b * -(-e // kernels.WIDTH),
            inputs,
            b,
            span,
            as_rows(grad_y),
            as_array(grad_x).reshape(-1),
            as_array(grads),
        )
        grads = grads.sum(1)
        return grad_x, grads[:, 1:].transpose(1, 2), grads[:, 0], None


def causal_conv_silu(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], orders: Tensor
) -> Tensor:
    """Convolve x, (b, l, e), in each of j orders, then take silu: (j, b, l, e), ordered as x.

    A weight is (e, 1, taps), as of nn.Conv1d, a bias (e,). Step t of order j is x[:, orders[j, t]],
    (j, l), and has before it those of the steps before t. Computes in float32 whatever x is, or in
    float64.
    """
    wide = compute_dtype(x)
    weight = torch.stack(tuple(weights)).squeeze(2).to(wide)
    y: Tensor = _CausalConv.apply(x, weight, torch.stack(tuple(biases)).to(wide), orders)
    return y
