"""The loops of the selective scan on CPUs, written for Numba.

A task is one sequence and one block of WIDTH channels, in all directions. It walks the steps in
chunks of CHUNK, whose rows lie in buffers that fit the L1 cache, channels innermost so that LLVM
vectorises over them; channels past e are 0 there. Only the states in front of each chunk are kept;
the backward pass recomputes those inside.

`inputs` are (u, dt, B, C, z, A, D, dt_bias, orders): u and dt of shape (j, b, l, e), B and C of
(j, b, l, s) and z of (b, l, e) as the flat memory of their rows, with bfloat16 as its bits, and how
far these are apart as `spans`, in the same order and behind b; A is (j, s, e), D and dt_bias are
(j, e), orders is (j, l). z is not read unless `gated`. `flags` are softplus and gated.

In the loops d counts directions, i sequences, t steps, p their places in memory, c and w channels,
n states and k the steps of a chunk; q is an element of C.
"""

import math
from typing import Any

import numba
import numpy as np
from numba import carray

from radrep.ops.kernel_numbers import (
    INLINE,
    LOG2E,
    buffer,
    exp2,
    load_row,
    sigmoid,
    softplus,
    store_row,
    widen,
)
from radrep.ops.kernel_threads import SCALAR_OPTIONS

CHUNK = 16
WIDTH = 64
_ROWS = CHUNK * WIDTH  # one number, for Numba takes no product as the size of a buffer


@numba.njit(**INLINE)
def _load_chunk(
    inputs: Any, spans: Any, flags: Any, d: int, i: int, t: int, c: int, rows: Any
) -> None:
    """Fill steps with dt / ln 2, for powers of 2, drive with dt u, sums with D u, and weights."""
    u, dt, B, C, _, A, D, dt_bias, orders = inputs
    b, u_span, dt_span, B_span, C_span, _ = spans
    values, steps, drive, sums, skip, bias, weights = rows
    through_softplus, _ = flags
    length, e = orders.shape[1], D.shape[1]
    width = min(WIDTH, e - c)
    number = A.dtype.type
    for w in range(width):
        skip[w] = D[d, c + w]
        bias[w] = dt_bias[d, c + w]
    for w in range(width, WIDTH):
        skip[w] = 0
        bias[w] = 0
    size = min(CHUNK, length - t)
    for k in range(size):  # on its own: many reads wait for memory at once, none for a softplus
        place = (d * b + i) * length + orders[d, t + k]
        load_row(u, place * u_span + c, width, values[k])
        load_row(dt, place * dt_span + c, width, steps[k])
        B_row = B[place * B_span : place * B_span + A.shape[1]]
        C_row = C[place * C_span : place * C_span + A.shape[1]]
        for n in range(A.shape[1]):
            weights[0, n, k] = widen(B_row[n])
            weights[1, n, k] = widen(C_row[n])
    for k in range(size):
        for w in range(WIDTH):
            step = steps[k, w] + bias[w]
            if through_softplus:
                step = softplus(step)
            sums[k, w] = skip[w] * values[k, w]
            drive[k, w] = step * values[k, w]
            steps[k, w] = step * number(LOG2E)
        for w in range(width, WIDTH):
            steps[k, w] = 0


@numba.njit(**SCALAR_OPTIONS)
def _load_decays(A: np.ndarray, d: int, c: int, decays: np.ndarray) -> None:
    width = min(WIDTH, A.shape[2] - c)
    decays[:] = 0
    for n in range(A.shape[1]):
        for w in range(width):
            decays[n, w] = A[d, n, c + w]


def forward(
    start: int,
    stop: int,
    inputs: Any,
    spans: Any,
    flags: Any,
    scale: float,
    keep: bool,
    outputs: Any,
) -> None:
    """Write y, the last states and, if asked to keep them, the states in front of each chunk."""
    _, _, _, _, z, A, _, _, orders = inputs
    y, last, states = outputs
    number = A.dtype
    directions, state_dim, e = A.shape
    length = orders.shape[1]
    values = carray(buffer(number, _ROWS), (CHUNK, WIDTH))
    steps = carray(buffer(number, _ROWS), (CHUNK, WIDTH))
    drive = carray(buffer(number, _ROWS), (CHUNK, WIDTH))
    sums = carray(buffer(number, _ROWS), (CHUNK, WIDTH))  # D u + C h
    skip = carray(buffer(number, WIDTH), WIDTH)
    bias = carray(buffer(number, WIDTH), WIDTH)
    decay = carray(buffer(number, WIDTH), WIDTH)
    h = carray(buffer(number, WIDTH), WIDTH)
    total = np.empty((length, WIDTH), number)  # over the directions
    decays = np.empty((state_dim, WIDTH), number)
    now = np.empty((state_dim, WIDTH), number)
    weights = np.empty((2, state_dim, CHUNK), number)
    rows = (values, steps, drive, sums, skip, bias, weights)
    blocks = -(-e // WIDTH)
    for task in range(start, stop):
        i, c = task // blocks, task % blocks * WIDTH
        width = min(WIDTH, e - c)
        total[:] = 0
        for d in range(directions):
            _load_decays(A, d, c, decays)
            now[:] = 0
            for t in range(0, length, CHUNK):
                _load_chunk(inputs, spans, flags, d, i, t, c, rows)
                for n in range(state_dim):
                    for w in range(WIDTH):
                        decay[w] = decays[n, w]
                        h[w] = now[n, w]
                    if keep:
                        kept = states[d, i, t // CHUNK, n, c : c + width]
                        for w in range(width):
                            kept[w] = h[w]
                    for k in range(min(CHUNK, length - t)):
                        b, q = weights[0, n, k], weights[1, n, k]
                        for w in range(WIDTH):
                            h[w] = exp2(steps[k, w] * decay[w]) * h[w] + drive[k, w] * b
                            sums[k, w] += h[w] * q
                    for w in range(WIDTH):
                        now[n, w] = h[w]
                for k in range(min(CHUNK, length - t)):
                    row = total[orders[d, t + k]]
                    for w in range(WIDTH):
                        row[w] += sums[k, w]
            for n in range(state_dim):
                for w in range(width):
                    last[d, i, n, c + w] = now[n, w]
        for t in range(0, length, CHUNK):
            size = min(CHUNK, length - t)
            place = i * length + t
            if flags[1]:
                for k in range(size):
                    load_row(z, (place + k) * spans[5] + c, width, values[k])
            for k in range(size):
                row = total[t + k]
                for w in range(WIDTH):
                    row[w] *= number.type(scale)
                    if flags[1]:
                        row[w] *= values[k, w] * sigmoid(values[k, w])
                store_row(row, width, y, (place + k) * e + c)


@numba.njit(**INLINE)
def _load_grads(
    inputs: Any, spans: Any, gated: bool, scale: float, grad_y: Any, i: int, c: int, rows: Any
) -> None:
    """Fill grads with the gradient of the sum of the directions, that is in front of the gate."""
    _, _, _, _, z, A, _, _, orders = inputs
    grads, gates = rows
    flat, span = grad_y
    length = orders.shape[1]
    width = min(WIDTH, A.shape[2] - c)
    for t in range(0, length, CHUNK):
        size = min(CHUNK, length - t)
        place = i * length + t
        for k in range(size):
            load_row(flat, (place + k) * span + c, width, grads[t + k])
            if gated:
                load_row(z, (place + k) * spans[5] + c, width, gates[k])
        for k in range(size):
            row = grads[t + k]
            for w in range(WIDTH):
                row[w] *= A.dtype.type(scale)
                if gated:
                    row[w] *= gates[k, w] * sigmoid(gates[k, w])


@numba.njit(**INLINE)
def _store_gate_grads(
    inputs: Any, spans: Any, scale: float, grad_y: Any, i: int, c: int, rows: Any, grad_z: Any
) -> None:
    """Turn the sum of the directions into the gradient of z."""
    _, _, _, _, z, A, _, _, orders = inputs
    total, gates, grads = rows
    flat, span = grad_y
    length, e = orders.shape[1], A.shape[2]
    width = min(WIDTH, e - c)
    number = A.dtype.type
    for t in range(0, length, CHUNK):
        size = min(CHUNK, length - t)
        place = i * length + t
        for k in range(size):
            load_row(z, (place + k) * spans[5] + c, width, gates[k])
            load_row(flat, (place + k) * span + c, width, grads[k])
        for k in range(size):
            sums = total[t + k]
            for w in range(WIDTH):
                opening = sigmoid(gates[k, w])
                slope = opening * (number(1) + gates[k, w] * (number(1) - opening))
                grads[k, w] *= sums[w] * slope * number(scale)
            store_row(grads[k], width, grad_z, (place + k) * e + c)


@numba.njit(**INLINE)
def _store_grads(
    inputs: Any,
    spans: Any,
    flags: Any,
    d: int,
    i: int,
    t: int,
    c: int,
    rows: Any,
    grad_rows: Any,
    grad_u: np.ndarray,
    grad_dt: np.ndarray,
) -> None:
    """Turn what was summed over the states of a chunk into the gradients of u, dt, D and bias."""
    _, dt, _, _, _, A, _, _, orders = inputs
    values, steps, _, sums, skip, bias, _ = rows
    grads, grad_steps, grad_drive, grad_skip, grad_bias = grad_rows
    length, e = orders.shape[1], A.shape[2]
    width = min(WIDTH, e - c)
    number = A.dtype.type
    size = min(CHUNK, length - t)
    for k in range(size):
        place = (d * spans[0] + i) * length + orders[d, t + k]
        load_row(dt, place * spans[2] + c, width, sums[k])  # whose sums are in the total already
    for k in range(size):
        place = (d * spans[0] + i) * length + orders[d, t + k]
        for w in range(WIDTH):
            slope = grad_steps[k, w] + grad_drive[k, w] * values[k, w]
            if flags[0]:
                slope *= sigmoid(sums[k, w] + bias[w])
            step = steps[k, w] * number(math.log(2))
            grad_drive[k, w] = grad_drive[k, w] * step + grads[k, w] * skip[w]
            grad_steps[k, w] = slope
            grad_skip[w] += grads[k, w] * values[k, w]
            grad_bias[w] += slope
        store_row(grad_drive[k], width, grad_u, place * e + c)
        store_row(grad_steps[k], width, grad_dt, place * e + c)


@numba.njit(**INLINE)
def _recompute(length: int, n: int, rows: Any, grads: np.ndarray, state: Any, grad_C: Any) -> None:
    """Repeat the steps of a chunk for one state, noting what the way back needs."""
    _, steps, drive, sums, _, _, weights = rows
    decay, h, decays, before, _, _ = state
    for k in range(length):
        b, q = weights[0, n, k], weights[1, n, k]
        total = b - b
        for w in range(WIDTH):
            decays[k, w] = exp2(steps[k, w] * decay[w])
            before[k, w] = h[w]
            h[w] = decays[k, w] * h[w] + drive[k, w] * b
            sums[k, w] += h[w] * q
            total += h[w] * grads[k, w]
        grad_C[n, k] = total


@numba.njit(**INLINE)
def _retrace(length: int, n: int, rows: Any, grad_rows: Any, state: Any, grad_B: Any) -> None:
    """Carry the gradient of one state from the end of a chunk to its start."""
    _, steps, drive, _, _, _, weights = rows
    grads, grad_steps, grad_drive, _, _ = grad_rows
    decay, _, decays, before, grad, grad_decay = state
    for k in range(length - 1, -1, -1):
        b, q = weights[0, n, k], weights[1, n, k]
        total = b - b
        for w in range(WIDTH):
            value = grad[w] + grads[k, w] * q
            total += value * drive[k, w]
            grad_drive[k, w] += value * b
            grad[w] = value * decays[k, w]
            value = grad[w] * before[k, w]
            grad_steps[k, w] += value * decay[w]
            grad_decay[w] += value * steps[k, w]
        grad_B[n, k] = total


def backward(
    start: int,
    stop: int,
    inputs: Any,
    spans: Any,
    flags: Any,
    scale: float,
    states: np.ndarray,
    grad_y: Any,
    grad_last: np.ndarray,
    results: Any,
    task_sums: Any,
) -> None:
    """Write the gradients of u, dt and z, and what is to be summed over tasks for the others."""
    _, _, _, _, _, A, _, _, orders = inputs
    grad_u, grad_dt, grad_z = results
    grad_A, grad_BC, grad_D, grad_dt_bias = task_sums
    number = A.dtype
    directions, state_dim, e = A.shape
    length = orders.shape[1]
    values = carray(buffer(number, _ROWS), (CHUNK, WIDTH))
    steps = carray(buffer(number, _ROWS), (CHUNK, WIDTH))
    drive = carray(buffer(number, _ROWS), (CHUNK, WIDTH))
    sums = carray(buffer(number, _ROWS), (CHUNK, WIDTH))  # D u + C h
    skip = carray(buffer(number, WIDTH), WIDTH)
    bias = carray(buffer(number, WIDTH), WIDTH)
    decay = carray(buffer(number, WIDTH), WIDTH)
    h = carray(buffer(number, WIDTH), WIDTH)
    decays = carray(buffer(number, _ROWS), (CHUNK, WIDTH))  # exp(dt A)
    before = carray(buffer(number, _ROWS), (CHUNK, WIDTH))  # h in front of each step
    grads = carray(buffer(number, _ROWS), (CHUNK, WIDTH))
    grad_steps = carray(buffer(number, _ROWS), (CHUNK, WIDTH))
    grad_drive = carray(buffer(number, _ROWS), (CHUNK, WIDTH))
    grad_skip = carray(buffer(number, WIDTH), WIDTH)
    grad_bias = carray(buffer(number, WIDTH), WIDTH)
    grad = carray(buffer(number, WIDTH), WIDTH)
    grad_decay = carray(buffer(number, WIDTH), WIDTH)
    total = np.empty((length, WIDTH), number)  # over the directions
    total_grads = np.empty((length, WIDTH), number)
    rates = np.empty((state_dim, WIDTH), number)
    grad_rates = np.empty((state_dim, WIDTH), number)
    grad_now = np.empty((state_dim, WIDTH), number)
    weights = np.empty((2, state_dim, CHUNK), number)
    grad_weights = np.empty((2, state_dim, CHUNK), number)
    rows = (values, steps, drive, sums, skip, bias, weights)
    grad_rows = (grads, grad_steps, grad_drive, grad_skip, grad_bias)
    state = (decay, h, decays, before, grad, grad_decay)
    h[:] = 0
    blocks = -(-e // WIDTH)
    for task in range(start, stop):
        i, block = task // blocks, task % blocks
        c = block * WIDTH
        width = min(WIDTH, e - c)
        total[:] = 0
        _load_grads(inputs, spans, flags[1], scale, grad_y, i, c, (total_grads, values))
        for d in range(directions):
            _load_decays(A, d, c, rates)
            _load_decays(grad_last[:, i], d, c, grad_now)
            grad_rates[:] = 0
            grad_skip[:] = 0
            grad_bias[:] = 0
            for t in range((length - 1) // CHUNK * CHUNK, -1, -CHUNK):
                size = min(CHUNK, length - t)
                _load_chunk(inputs, spans, flags, d, i, t, c, rows)
                for k in range(size):
                    row = total_grads[orders[d, t + k]]
                    for w in range(WIDTH):
                        grads[k, w] = row[w]
                grad_steps[:] = 0
                grad_drive[:] = 0
                for n in range(state_dim):
                    kept = states[d, i, t // CHUNK, n, c : c + width]
                    for w in range(width):
                        h[w] = kept[w]
                    for w in range(WIDTH):
                        decay[w] = rates[n, w]
                        grad[w] = grad_now[n, w]
                        grad_decay[w] = grad_rates[n, w]
                    _recompute(size, n, rows, grads, state, grad_weights[1])
                    _retrace(size, n, rows, grad_rows, state, grad_weights[0])
                    for w in range(WIDTH):
                        grad_now[n, w] = grad[w]
                        grad_rates[n, w] = grad_decay[w]
                for k in range(size):
                    p = orders[d, t + k]
                    row = total[p]
                    for w in range(WIDTH):
                        row[w] += sums[k, w]
                    for n in range(state_dim):
                        grad_BC[block, d, i, p, n] = grad_weights[0, n, k]
                        grad_BC[block, d, i, p, state_dim + n] = grad_weights[1, n, k]
                _store_grads(inputs, spans, flags, d, i, t, c, rows, grad_rows, grad_u, grad_dt)
            for n in range(state_dim):
                for w in range(width):
                    grad_A[d, i, n, c + w] = grad_rates[n, w]
            for w in range(width):
                grad_D[d, i, c + w] = grad_skip[w]
                grad_dt_bias[d, i, c + w] = grad_bias[w]
        if flags[1]:
            rows_of_gate = (total, values, grads)
            _store_gate_grads(inputs, spans, scale, grad_y, i, c, rows_of_gate, grad_z)
