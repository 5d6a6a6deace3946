"""The loops of the selective scan on CPUs, written for Numba.

A task is one sequence and one block of WIDTH channels. It walks the steps in chunks of CHUNK, whose
rows lie in buffers that fit the L1 cache, channels innermost so that LLVM vectorises over them.
Only the states in front of each chunk are kept; the backward pass recomputes those inside.

The arguments `inputs` are (u, dt, A, B, C, D, z, dt_bias) with A as (s, e), all C-contiguous; z is
not read unless `gated`. In the loops i counts sequences, t steps, c and w channels, n states and
k the steps of a chunk; q is an element of C.
"""

import math
from typing import Any

import numba
import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from radrep.ops.kernel_threads import SCALAR_OPTIONS, Arrays

CHUNK = 16
WIDTH = 64
_ROWS = CHUNK * WIDTH  # one number, for Numba takes no product as the size of a buffer
_LOG2E = math.log2(math.e)

_INLINE = SCALAR_OPTIONS | {"inline": "always", "fastmath": {"contract", "reassoc"}}


@intrinsic(prefer_literal=True)
def _buffer(typing_context: Any, dtype: Any, size: Any) -> Any:
    """A pointer to `size` numbers on the stack.

    LLVM knows that these never overlap; with as many plain arrays it would not vectorise.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        with builder.goto_entry_block():
            number = context.get_data_type(dtype.dtype)
            pointer = cgutils.alloca_once(builder, number, size=size.literal_value)
            pointer.align = 64
        return pointer

    return types.CPointer(dtype.dtype)(dtype, size), generate


def _exp2_float32(x: Any) -> Any:
    # Below -126 it stays 2**-126, for a decay as good as 0 and no slow subnormal number. A NaN
    # passes: max and min return their first argument unless the other one is beyond it.
    x = min(max(x, np.float32(-126.0)), np.float32(126.0))
    # Adding 1.5 * 2**23 leaves round(x) in the lowest bits; shifted, they go to the exponent.
    rounded = np.float32(x + np.float32(12582912.0))
    x -= rounded - np.float32(12582912.0)
    p = np.float32(0.00015353362)  # minimax on [-0.5, 0.5], relative error 2e-9
    p = p * x + np.float32(0.0013398875)
    p = p * x + np.float32(0.009618437)
    p = p * x + np.float32(0.055503324)
    p = p * x + np.float32(0.24022648)
    p = p * x + np.float32(0.6931472)
    p = np.float32(p * x + np.float32(1.0))
    return np.int32(p.view(np.int32) + (rounded.view(np.int32) << np.int32(23))).view(np.float32)


def _exp2_float64(x: Any) -> Any:
    return np.exp2(x)


def _log1p_float32(x: Any) -> Any:
    # 2 atanh(x / (2 + x)) by its series; x is in [0, 1], so that 8 terms give every bit.
    ratio = x / (x + np.float32(2.0))
    square = ratio * ratio
    p = np.float32(1 / 15)
    p = p * square + np.float32(1 / 13)
    p = p * square + np.float32(1 / 11)
    p = p * square + np.float32(1 / 9)
    p = p * square + np.float32(1 / 7)
    p = p * square + np.float32(1 / 5)
    p = p * square + np.float32(1 / 3)
    p = p * square + np.float32(1.0)
    return np.float32(2.0) * ratio * p


def _log1p_float64(x: Any) -> Any:
    return math.log1p(x)


def _exp2(x: Any) -> Any:
    """2**x, to one unit in the last place."""


def _log1p(x: Any) -> Any:
    """log(1 + x) for x in [0, 1]."""


# Without "reassoc", which would undo the rounding in _exp2_float32.
@overload(_exp2, jit_options=SCALAR_OPTIONS)
def _exp2_for(x: Any) -> Any:
    return _exp2_float32 if x == types.float32 else _exp2_float64


@overload(_log1p, jit_options=SCALAR_OPTIONS)
def _log1p_for(x: Any) -> Any:
    return _log1p_float32 if x == types.float32 else _log1p_float64


@numba.njit(**SCALAR_OPTIONS)
def _sigmoid(x: Any) -> Any:
    v = _exp2(-abs(x) * type(x)(_LOG2E))
    return (type(x)(1) if x >= 0 else v) / (type(x)(1) + v)


@numba.njit(**SCALAR_OPTIONS)
def _softplus(x: Any) -> Any:
    return max(x, type(x)(0)) + _log1p(_exp2(-abs(x) * type(x)(_LOG2E)))


@numba.njit(**_INLINE)
def _load_steps(
    inputs: Arrays, softplus: bool, i: int, t: int, c: int, steps: np.ndarray, drive: np.ndarray
) -> None:
    """Fill steps with dt / ln 2, for powers of 2, and drive with dt u; channels past e get 0."""
    u, dt, _, _, _, _, _, dt_bias = inputs
    width = min(WIDTH, u.shape[2] - c)
    for k in range(min(CHUNK, u.shape[1] - t)):
        for w in range(width):
            step = dt[i, t + k, c + w] + dt_bias[c + w]
            if softplus:
                step = _softplus(step)
            steps[k, w] = step * u.dtype.type(_LOG2E)
            drive[k, w] = step * u[i, t + k, c + w]
        for w in range(width, WIDTH):
            steps[k, w] = 0
            drive[k, w] = 0


def forward(
    start: int, stop: int, inputs: Arrays, softplus: bool, gated: bool, keep: bool, outputs: Arrays
) -> None:
    """Write y and, if asked to keep them, the states in front of each chunk; carry on `last`."""
    u, _, A, B, C, D, z, _ = inputs
    y, last, states = outputs
    number = u.dtype
    steps = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))
    drive = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))
    sums = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))  # C h, then y
    decay = carray(_buffer(number, WIDTH), WIDTH)
    h = carray(_buffer(number, WIDTH), WIDTH)
    decay[:] = 0
    h[:] = 0
    blocks = -(-u.shape[2] // WIDTH)
    for task in range(start, stop):
        i, c = task // blocks, task % blocks * WIDTH
        width = min(WIDTH, u.shape[2] - c)
        for t in range(0, u.shape[1], CHUNK):
            length = min(CHUNK, u.shape[1] - t)
            _load_steps(inputs, softplus, i, t, c, steps, drive)
            sums[:] = 0
            for n in range(A.shape[0]):
                for w in range(width):
                    decay[w] = A[n, c + w]
                    h[w] = last[i, n, c + w]
                if keep:
                    for w in range(width):
                        states[i, t // CHUNK, n, c + w] = h[w]
                for k in range(length):
                    b, q = B[i, t + k, n], C[i, t + k, n]
                    for w in range(WIDTH):
                        h[w] = _exp2(steps[k, w] * decay[w]) * h[w] + drive[k, w] * b
                        sums[k, w] += h[w] * q
                for w in range(width):
                    last[i, n, c + w] = h[w]
            for k in range(length):
                for w in range(width):
                    value = sums[k, w] + D[c + w] * u[i, t + k, c + w]
                    if gated:
                        gate = z[i, t + k, c + w]
                        value *= gate * _sigmoid(gate)
                    sums[k, w] = value
                for w in range(width):
                    y[i, t + k, c + w] = sums[k, w]


@numba.njit(**_INLINE)
def _load_grads(
    inputs: Arrays, gated: bool, grad_y: np.ndarray, i: int, t: int, c: int, grads: np.ndarray
) -> None:
    """Fill grads with the gradient of y in front of the gate; channels past e get 0."""
    u, _, _, _, _, _, z, _ = inputs
    width = min(WIDTH, u.shape[2] - c)
    grads[:] = 0
    for k in range(min(CHUNK, u.shape[1] - t)):
        for w in range(width):
            value = grad_y[i, t + k, c + w]
            if gated:
                gate = z[i, t + k, c + w]
                value *= gate * _sigmoid(gate)
            grads[k, w] = value


@numba.njit(**_INLINE)
def _store_grads(
    inputs: Arrays,
    softplus: bool,
    gated: bool,
    grad_y: np.ndarray,
    i: int,
    t: int,
    c: int,
    rows: Arrays,
    results: Arrays,
) -> None:
    """Turn what was summed over the states into the gradients of u, dt and z."""
    u, dt, _, _, _, D, z, dt_bias = inputs
    steps, _, sums, grads, grad_steps, grad_drive, grad_skip = rows
    grad_u, grad_dt, grad_z = results
    number = u.dtype
    width = min(WIDTH, u.shape[2] - c)
    for k in range(min(CHUNK, u.shape[1] - t)):
        for w in range(width):
            x = u[i, t + k, c + w]
            slope = grad_steps[k, w] + grad_drive[k, w] * x
            if softplus:
                slope *= _sigmoid(dt[i, t + k, c + w] + dt_bias[c + w])
            grad_steps[k, w] = slope
            step = steps[k, w] * number.type(math.log(2))
            grad_drive[k, w] = grad_drive[k, w] * step + grads[k, w] * D[c + w]
            grad_skip[w] += grads[k, w] * x
            if gated:
                gate = z[i, t + k, c + w]
                opening = _sigmoid(gate)
                one = number.type(1)
                slope = opening * (one + gate * (one - opening))
                sums[k, w] = grad_y[i, t + k, c + w] * (sums[k, w] + D[c + w] * x) * slope
        for w in range(width):
            grad_u[i, t + k, c + w] = grad_drive[k, w]
            grad_dt[i, t + k, c + w] = grad_steps[k, w]
        if gated:
            for w in range(width):
                grad_z[i, t + k, c + w] = sums[k, w]


@numba.njit(**_INLINE)
def _recompute(
    inputs: Arrays, i: int, t: int, n: int, rows: Arrays, state: Arrays, grad_C: np.ndarray
) -> None:
    """Repeat the steps of a chunk for one state, noting what the way back needs."""
    u, _, _, B, C, _, _, _ = inputs
    steps, drive, sums, grads, _, _, _ = rows
    decay, h, decays, before, _, _ = state
    for k in range(min(CHUNK, u.shape[1] - t)):
        b, q = B[i, t + k, n], C[i, t + k, n]
        total = u.dtype.type(0)
        for w in range(WIDTH):
            decays[k, w] = _exp2(steps[k, w] * decay[w])
            before[k, w] = h[w]
            h[w] = decays[k, w] * h[w] + drive[k, w] * b
            sums[k, w] += h[w] * q
            total += h[w] * grads[k, w]
        grad_C[i, t + k, n] = total


@numba.njit(**_INLINE)
def _retrace(
    inputs: Arrays, i: int, t: int, n: int, rows: Arrays, state: Arrays, grad_B: np.ndarray
) -> None:
    """Carry the gradient of one state from the end of a chunk to its start."""
    u, _, _, B, C, _, _, _ = inputs
    steps, drive, _, grads, grad_steps, grad_drive, _ = rows
    decay, _, decays, before, grad, grad_decay = state
    for k in range(min(CHUNK, u.shape[1] - t) - 1, -1, -1):
        b, q = B[i, t + k, n], C[i, t + k, n]
        total = u.dtype.type(0)
        for w in range(WIDTH):
            value = grad[w] + grads[k, w] * q
            total += value * drive[k, w]
            grad_drive[k, w] += value * b
            grad[w] = value * decays[k, w]
            value = grad[w] * before[k, w]
            grad_steps[k, w] += value * decay[w]
            grad_decay[w] += value * steps[k, w]
        grad_B[i, t + k, n] = total


def backward(
    start: int,
    stop: int,
    inputs: Arrays,
    softplus: bool,
    gated: bool,
    states: np.ndarray,
    grad_y: np.ndarray,
    grad_h: np.ndarray,
    results: Arrays,
    task_sums: Arrays,
) -> None:
    """Write the gradients; grad_h goes in as that of the last states and is overwritten."""
    u, _, A, _, _, _, _, _ = inputs
    grad_A, grad_B, grad_C, grad_D = task_sums
    number = u.dtype
    steps = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))
    drive = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))
    sums = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))  # C h
    grads = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))
    grad_steps = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))
    grad_drive = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))
    grad_skip = carray(_buffer(number, WIDTH), WIDTH)
    decay = carray(_buffer(number, WIDTH), WIDTH)
    h = carray(_buffer(number, WIDTH), WIDTH)
    decays = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))  # exp(dt A)
    before = carray(_buffer(number, _ROWS), (CHUNK, WIDTH))  # h in front of each step
    grad = carray(_buffer(number, WIDTH), WIDTH)
    grad_decay = carray(_buffer(number, WIDTH), WIDTH)
    rows = (steps, drive, sums, grads, grad_steps, grad_drive, grad_skip)
    state = (decay, h, decays, before, grad, grad_decay)
    decay[:] = 0
    blocks = -(-u.shape[2] // WIDTH)
    for task in range(start, stop):
        i, block = task // blocks, task % blocks
        c = block * WIDTH
        width = min(WIDTH, u.shape[2] - c)
        h[:] = 0
        grad[:] = 0
        grad_skip[:] = 0
        for t in range((u.shape[1] - 1) // CHUNK * CHUNK, -1, -CHUNK):
            _load_steps(inputs, softplus, i, t, c, steps, drive)
            _load_grads(inputs, gated, grad_y, i, t, c, grads)
            sums[:] = 0
            grad_steps[:] = 0
            grad_drive[:] = 0
            for n in range(A.shape[0]):
                for w in range(width):
                    decay[w] = A[n, c + w]
                    h[w] = states[i, t // CHUNK, n, c + w]
                    grad[w] = grad_h[i, n, c + w]
                    grad_decay[w] = grad_A[i, n, c + w]
                _recompute(inputs, i, t, n, rows, state, grad_C[block])
                _retrace(inputs, i, t, n, rows, state, grad_B[block])
                for w in range(width):
                    grad_h[i, n, c + w] = grad[w]
                    grad_A[i, n, c + w] = grad_decay[w]
            _store_grads(inputs, softplus, gated, grad_y, i, t, c, rows, results)
        for w in range(width):
            grad_D[i, c + w] = grad_skip[w]
