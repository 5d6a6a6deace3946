"""Numbers in Numba kernels: fast exponentials, bfloat16 as its bits, buffers on the stack.

Whoever changes this file should touch those of the kernels, too: Numba's cache on disk knows a
kernel by the file that it is written in.
"""

import math
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from radrep.ops.kernel_threads import SCALAR_OPTIONS

LOG2E = math.log2(math.e)

INLINE = SCALAR_OPTIONS | {"inline": "always", "fastmath": {"contract", "reassoc"}}


@intrinsic(prefer_literal=True)
def buffer(typing_context: Any, dtype: Any, size: Any) -> Any:
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


def exp2(x: Any) -> Any:
    """2**x, to one unit in the last place."""


def log1p(x: Any) -> Any:
    """log(1 + x) for x in [0, 1]."""


def widen(x: Any) -> Any:
    """A number to compute with: the float32 of the bits of a bfloat16, any other as it is."""


def _store(row: Any, place: Any, x: Any) -> None:
    """Put a number into a row, rounded to the nearest, ties to even, where that has bfloat16."""


# Without "reassoc", which would undo the rounding in _exp2_float32.
@overload(exp2, jit_options=SCALAR_OPTIONS)
def _exp2_for(x: Any) -> Any:
    return _exp2_float32 if x == types.float32 else _exp2_float64


@overload(log1p, jit_options=SCALAR_OPTIONS)
def _log1p_for(x: Any) -> Any:
    return _log1p_float32 if x == types.float32 else _log1p_float64


def _widen_bfloat16(x: Any) -> Any:
    return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


def _widen_none(x: Any) -> Any:
    return x


@overload(widen, jit_options=SCALAR_OPTIONS)
def _widen_for(x: Any) -> Any:
    return _widen_bfloat16 if x == types.uint16 else _widen_none


def _store_bfloat16(row: Any, place: Any, x: Any) -> None:
    bits = np.float32(x).view(np.uint32)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    row[place] = np.uint16(rounded if x == x else np.uint32(0x7FC0))  # a NaN would overflow


def _store_as_it_is(row: Any, place: Any, x: Any) -> None:
    row[place] = x


@overload(_store, jit_options=SCALAR_OPTIONS)
def _store_for(row: Any, place: Any, x: Any) -> Any:
    return _store_bfloat16 if row.dtype == types.uint16 else _store_as_it_is


@numba.njit(**SCALAR_OPTIONS)
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    v = exp2(-abs(x) * type(x)(LOG2E))
    return (type(x)(1) if x >= 0 else v) / (type(x)(1) + v)


@numba.njit(**SCALAR_OPTIONS)
def softplus(x: Any) -> Any:
    """log(1 + exp(x))."""
    return max(x, type(x)(0)) + log1p(exp2(-abs(x) * type(x)(LOG2E)))


@numba.njit(**SCALAR_OPTIONS)
def load_row(flat: np.ndarray, start: int, width: int, row: np.ndarray) -> None:
    """Fill a row with `width` numbers from the place start of flat memory, and zeros."""
    source = flat[start : start + width]
    for w in range(width):
        row[w] = widen(source[w])
    for w in range(width, row.shape[0]):
        row[w] = 0


@numba.njit(**SCALAR_OPTIONS)
def store_row(row: np.ndarray, width: int, flat: np.ndarray, start: int) -> None:
    """Put the first `width` numbers of a row to the place start of flat memory."""
    target = flat[start : start + width]
    for w in range(width):
        _store(target, w, row[w])
