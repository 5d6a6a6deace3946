"""The loops of the causal convolution on CPUs, written for Numba.

A task is one sequence and one block of WIDTH channels, in all directions. `inputs` are (x, weight,
bias, orders): x, of shape (b, l, e), as the flat memory of its rows, bfloat16 as its bits, which
are `span` apart; weight is (j, taps, e), bias (j, e), orders (j, l). In the loops d counts
directions, i sequences, t steps, p their places in memory, c and w channels.
"""

from typing import Any

import numba
import numpy as np
from numba import carray

from radrep.ops.kernel_numbers import INLINE, buffer, load_row, sigmoid, store_row

WIDTH = 64


@numba.njit(**INLINE)
def _load_sequence(inputs: Any, span: int, i: int, c: int, source: np.ndarray) -> None:
    x, _, bias, orders = inputs
    width = min(WIDTH, bias.shape[1] - c)
    for p in range(orders.shape[1]):
        load_row(x, (i * orders.shape[1] + p) * span + c, width, source[p])


@numba.njit(**INLINE)
def _load_direction(
    inputs: Any, d: int, c: int, source: np.ndarray, steps: np.ndarray, weights: np.ndarray
) -> None:
    """Fill steps, behind zeros for what is before the first, and weights, behind the bias."""
    _, weight, bias, orders = inputs
    taps = weight.shape[1]
    width = min(WIDTH, bias.shape[1] - c)
    steps[: taps - 1] = 0
    for t in range(orders.shape[1]):
        row, target = source[orders[d, t]], steps[taps - 1 + t]
        for w in range(WIDTH):
            target[w] = row[w]
    weights[:] = 0
    for w in range(width):
        weights[0, w] = bias[d, c + w]
    for tap in range(taps):
        for w in range(width):
            weights[1 + tap, w] = weight[d, tap, c + w]


@numba.njit(**INLINE)
def _convolve(steps: np.ndarray, weights: np.ndarray, t: int, sums: np.ndarray) -> None:
    for w in range(WIDTH):
        sums[w] = weights[0, w]
    for tap in range(weights.shape[0] - 1):
        row, tap_weights = steps[t + tap], weights[1 + tap]
        for w in range(WIDTH):
            sums[w] += row[w] * tap_weights[w]


def forward(start: int, stop: int, inputs: Any, b: int, span: int, y: np.ndarray) -> None:
    """Write y, (j, b, l, e)."""
    _, weight, bias, orders = inputs
    number = weight.dtype
    directions, taps, e = weight.shape
    length = orders.shape[1]
    source = np.empty((length, WIDTH), number)
    steps = np.empty((taps - 1 + length, WIDTH), number)
    weights = np.empty((1 + taps, WIDTH), number)
    sums = carray(buffer(number, WIDTH), WIDTH)
    blocks = -(-e // WIDTH)
    for task in range(start, stop):
        i, c = task // blocks, task % blocks * WIDTH
        width = min(WIDTH, e - c)
        _load_sequence(inputs, span, i, c, source)
        for d in range(directions):
            _load_direction(inputs, d, c, source, steps, weights)
            for t in range(length):
                _convolve(steps, weights, t, sums)
                for w in range(WIDTH):
                    sums[w] *= sigmoid(sums[w])
                store_row(sums, width, y, ((d * b + i) * length + orders[d, t]) * e + c)


def backward(
    start: int,
    stop: int,
    inputs: Any,
    b: int,
    span: int,
    grad_y: Any,
    grad_x: np.ndarray,
    grad_weights: np.ndarray,
) -> None:
    """Write the gradient of x, and those of bias and weights, (j, b, 1 + taps, e)."""
    _, weight, bias, orders = inputs
    grad_rows, grad_span = grad_y
    number = weight.dtype
    directions, taps, e = weight.shape
    length = orders.shape[1]
    source = np.empty((length, WIDTH), number)
    grads = np.empty((length, WIDTH), number)
    total = np.empty((length, WIDTH), number)  # over the directions
    steps = np.empty((taps - 1 + length, WIDTH), number)
    grad_steps = np.empty((taps - 1 + length, WIDTH), number)
    weights = np.empty((1 + taps, WIDTH), number)
    sums = carray(buffer(number, WIDTH), WIDTH)
    grad = carray(buffer(number, WIDTH), WIDTH)
    grad_bias = carray(buffer(number, WIDTH), WIDTH)
    task_grads = np.empty((taps, WIDTH), number)
    blocks = -(-e // WIDTH)
    for task in range(start, stop):
        i, c = task // blocks, task % blocks * WIDTH
        width = min(WIDTH, e - c)
        _load_sequence(inputs, span, i, c, source)
        total[:] = 0
        for d in range(directions):
            _load_direction(inputs, d, c, source, steps, weights)
            grad_steps[:] = 0
            grad_bias[:] = 0
            task_grads[:] = 0
            for p in range(length):
                place = (d * b + i) * length + p
                load_row(grad_rows, place * grad_span + c, width, grads[p])
            for t in range(length):
                _convolve(steps, weights, t, sums)
                row = grads[orders[d, t]]
                for w in range(WIDTH):
                    opening = sigmoid(sums[w])
                    one = number.type(1)
                    grad[w] = row[w] * opening * (one + sums[w] * (one - opening))
                    grad_bias[w] += grad[w]
                for tap in range(taps):
                    before, grad_before = steps[t + tap], grad_steps[t + tap]
                    tap_weights, tap_grads = weights[1 + tap], task_grads[tap]
                    for w in range(WIDTH):
                        tap_grads[w] += grad[w] * before[w]
                        grad_before[w] += grad[w] * tap_weights[w]
            for t in range(length):
                row, grad_step = total[orders[d, t]], grad_steps[taps - 1 + t]
                for w in range(WIDTH):
                    row[w] += grad_step[w]
            for w in range(width):
                grad_weights[d, i, 0, c + w] = grad_bias[w]
            for tap in range(taps):
                for w in range(width):
                    grad_weights[d, i, 1 + tap, c + w] = task_grads[tap, w]
        for p in range(length):
            store_row(total[p], width, grad_x, (i * length + p) * e + c)
