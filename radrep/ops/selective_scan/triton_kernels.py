"""The loops of the selective scan on GPUs, written for Triton.

A program is one sequence and one block of WIDTH channels, whose states stay in registers while it
walks the steps. Rows are read where they lie, in their own types, and computed with in float32.
Only the states in front of each chunk are kept; the backward pass recomputes those inside.

A pointer without strides beside it is to a contiguous tensor; _seq and _step are the strides from
sequence to sequence and from step to step. In the loops i is a sequence, t a step, c channels, n
states and k a step of a chunk.
"""

import triton
import triton.language as tl
from triton.language import constexpr, tensor

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _softplus(x: tensor) -> tensor:
    # log(1 + v) is 2 atanh(v / (2 + v)) by its series: a GPU's own logarithm is too coarse near 1.
    v = tl.exp2(-tl.abs(x) * LOG2E)
    ratio = v / (v + 2.0)
    square = ratio * ratio
    p = square * (1 / 15) + 1 / 13
    p = p * square + 1 / 11
    p = p * square + 1 / 9
    p = p * square + 1 / 7
    p = p * square + 1 / 5
    p = p * square + 1 / 3
    p = p * square + 1.0
    return tl.maximum(x, 0.0) + 2.0 * ratio * p


@triton.jit
def _row(
    pointer: tensor, seq: tensor, step: tensor, i: tensor, t: tensor, places: tensor,
    inside: tensor,
) -> tensor:  # fmt: skip
    """Step t of sequence i, in float32; 0 outside."""
    start = pointer + i * seq + tl.cast(t, tl.int64) * step
    return tl.load(start + places, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _step_size(
    dt: tensor, seq: tensor, step: tensor, i: tensor, t: tensor, c: tensor, in_c: tensor,
    bias: tensor, SOFTPLUS: constexpr,
) -> tensor:  # fmt: skip
    """The step before and after softplus."""
    raw = _row(dt, seq, step, i, t, c, in_c) + bias
    taken = raw
    if SOFTPLUS:
        taken = _softplus(raw)
    return raw, taken


@triton.jit
def forward(
    u: tensor, dt: tensor, A: tensor, B: tensor, C: tensor, D: tensor, z: tensor, dt_bias: tensor,
    y: tensor, last: tensor, kept: tensor, steps: tensor, e: tensor, s: tensor,
    u_seq: tensor, u_step: tensor, dt_seq: tensor, dt_step: tensor, B_seq: tensor, B_step: tensor,
    C_seq: tensor, C_step: tensor, z_seq: tensor, z_step: tensor,
    SOFTPLUS: constexpr, CHUNK: constexpr, WIDTH: constexpr, STATES: constexpr,
) -> None:  # fmt: skip
    """Write y, the last states and, unless kept is None, the states in front of each chunk."""
    i = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, STATES)
    in_c, in_n = c < e, n < s
    state = c[:, None] * s + n[None, :]
    in_state = in_c[:, None] & in_n[None, :]
    rates = tl.load(A + state, mask=in_state, other=0.0) * LOG2E
    bias = tl.zeros((WIDTH,), tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + c, mask=in_c, other=0.0)
    skip = tl.zeros((WIDTH,), tl.float32)
    if D is not None:
        skip = tl.load(D + c, mask=in_c, other=0.0)
    h = tl.zeros((WIDTH, STATES), tl.float32)
    for t in range(steps):
        if kept is not None:  # noqa: SIM102  (what is None, Triton decides before it compiles)
            if t % CHUNK == 0:
                at = (i * tl.cdiv(steps, CHUNK) + t // CHUNK) * (e * s)
                tl.store(kept + at + state, h, mask=in_state)
        _, step = _step_size(dt, dt_seq, dt_step, i, t, c, in_c, bias, SOFTPLUS)
        x = _row(u, u_seq, u_step, i, t, c, in_c)
        B_t = _row(B, B_seq, B_step, i, t, n, in_n)
        C_t = _row(C, C_seq, C_step, i, t, n, in_n)
        h = tl.exp2(step[:, None] * rates) * h + (step * x)[:, None] * B_t[None, :]
        out = tl.sum(h * C_t[None, :], axis=1) + skip * x
        if z is not None:
            gate = _row(z, z_seq, z_step, i, t, c, in_c)
            out *= gate * tl.sigmoid(gate)
        tl.store(y + (i * steps + t) * e + c, out, mask=in_c)
    tl.store(last + i * (e * s) + state, h, mask=in_state)


@triton.jit
def backward(
    u: tensor, dt: tensor, A: tensor, B: tensor, C: tensor, D: tensor, z: tensor, dt_bias: tensor,
    kept: tensor, grad_y: tensor, grad_last: tensor, inside: tensor,
    grad_u: tensor, grad_dt: tensor, grad_A: tensor, grad_B: tensor, grad_C: tensor,
    grad_D: tensor, grad_z: tensor, grad_bias: tensor, steps: tensor, e: tensor, s: tensor,
    u_seq: tensor, u_step: tensor, dt_seq: tensor, dt_step: tensor, B_seq: tensor, B_step: tensor,
    C_seq: tensor, C_step: tensor, z_seq: tensor, z_step: tensor,
    SOFTPLUS: constexpr, CHUNK: constexpr, WIDTH: constexpr, STATES: constexpr,
) -> None:  # fmt: skip
    """Write all gradients: of A, D and dt_bias by sequence, of B and C by block of channels.

    `inside`, (b, CHUNK, e, s), holds the states in front of each step of the chunk at hand.
    """
    i = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, STATES)
    in_c, in_n = c < e, n < s
    state = c[:, None] * s + n[None, :]
    in_state = in_c[:, None] & in_n[None, :]
    rates = tl.load(A + state, mask=in_state, other=0.0)
    bias = tl.zeros((WIDTH,), tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + c, mask=in_c, other=0.0)
    skip = tl.zeros((WIDTH,), tl.float32)
    if D is not None:
        skip = tl.load(D + c, mask=in_c, other=0.0)
    sum_A = tl.zeros((WIDTH, STATES), tl.float32)
    sum_D = tl.zeros((WIDTH,), tl.float32)
    sum_bias = tl.zeros((WIDTH,), tl.float32)
    grad_h = tl.load(grad_last + i * (e * s) + state, mask=in_state, other=0.0)
    chunks = tl.cdiv(steps, CHUNK)
    for chunks_done in range(chunks):
        chunk = chunks - 1 - chunks_done
        count = tl.minimum(CHUNK, steps - chunk * CHUNK)
        h = tl.load(kept + (i * chunks + chunk) * (e * s) + state, mask=in_state, other=0.0)
        for k in range(count):
            tl.store(inside + (i * CHUNK + k) * (e * s) + state, h, mask=in_state)
            t = chunk * CHUNK + k
            _, step = _step_size(dt, dt_seq, dt_step, i, t, c, in_c, bias, SOFTPLUS)
            x = _row(u, u_seq, u_step, i, t, c, in_c)
            B_t = _row(B, B_seq, B_step, i, t, n, in_n)
            h = tl.exp2(step[:, None] * rates * LOG2E) * h + (step * x)[:, None] * B_t[None, :]
        tl.debug_barrier()  # a thread may read a state that another one wrote
        for steps_done in range(count):
            k = count - 1 - steps_done
            t = chunk * CHUNK + k
            raw, step = _step_size(dt, dt_seq, dt_step, i, t, c, in_c, bias, SOFTPLUS)
            x = _row(u, u_seq, u_step, i, t, c, in_c)
            B_t = _row(B, B_seq, B_step, i, t, n, in_n)
            C_t = _row(C, C_seq, C_step, i, t, n, in_n)
            at = inside + (i * CHUNK + k) * (e * s) + state
            decay = tl.exp2(step[:, None] * rates * LOG2E)
            decayed = decay * tl.load(at, mask=in_state, other=0.0)
            drive = step * x
            h = decayed + drive[:, None] * B_t[None, :]
            row = (i * steps + t) * e + c
            grad = tl.load(grad_y + row, mask=in_c, other=0.0).to(tl.float32)
            if z is not None:
                gate = _row(z, z_seq, z_step, i, t, c, in_c)
                sigmoid = tl.sigmoid(gate)
                out = tl.sum(h * C_t[None, :], axis=1) + skip * x
                slope = sigmoid * (1.0 + gate * (1.0 - sigmoid))  # of silu
                tl.store(grad_z + row, grad * out * slope, mask=in_c)
                grad *= gate * sigmoid
            grad_h += grad[:, None] * C_t[None, :]
            sums = ((tl.program_id(0) * tl.num_programs(1) + i) * steps + t) * s + n
            tl.store(grad_C + sums, tl.sum(h * grad[:, None], axis=0), mask=in_n)
            tl.store(grad_B + sums, tl.sum(grad_h * drive[:, None], axis=0), mask=in_n)
            grad_drive = tl.sum(grad_h * B_t[None, :], axis=1)
            grad_rate = grad_h * decayed  # of step A
            grad_step = grad_drive * x + tl.sum(grad_rate * rates, axis=1)
            if SOFTPLUS:
                grad_step *= tl.sigmoid(raw)
            tl.store(grad_u + row, grad_drive * step + grad * skip, mask=in_c)
            tl.store(grad_dt + row, grad_step, mask=in_c)
            sum_A += grad_rate * step[:, None]
            sum_D += grad * x
            sum_bias += grad_step
            grad_h *= decay
        tl.debug_barrier()  # before the states of the next chunk take the place of these
    tl.store(grad_A + i * (e * s) + state, sum_A, mask=in_state)
    tl.store(grad_D + i * e + c, sum_D, mask=in_c)
    tl.store(grad_bias + i * e + c, sum_bias, mask=in_c)
