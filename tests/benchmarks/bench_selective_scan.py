"""Time of the selective scan beside its peers, forward and with backward.

Run: python -m tests.benchmarks.bench_selective_scan [--repeats 5] [--dtype bfloat16]

Peers: mamba.py's parallel scan and loop (pip install mambapy), what transformers computes without
mamba-ssm, the loop as mamba-ssm's selective_scan_ref has it, which first forms everything of
(b, e, l, s), and radrep's own chunked scan, for machines without Numba.
"""

import argparse
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

from radrep.ops.selective_scan import select_backend, selective_scan
from tests.benchmarks.rows import Row, compare, show

Scan = Callable[..., Tensor]
# Their backward passes fill gradients of full length at every step.
LOOPS = (
    "mamba.py's loop",
    "transformers without mamba-ssm",
    "the loop of mamba-ssm's selective_scan_ref",
)
LONG = 1000  # positions, from which on a loop's backward pass takes minutes


def materialising_loop(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor
) -> Tensor:
    u, dt, B, C, z = (x.transpose(1, 2).float() for x in (u, dt, B, C, z))  # (b, e, l), (b, s, l)
    dt = F.softplus(dt + dt_bias[:, None])
    decay = torch.exp(torch.einsum("bel,es->bels", dt, A))
    drive = torch.einsum("bel,bsl,bel->bels", dt, B, u)
    h = A.new_zeros(len(u), *A.shape)
    outputs = []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + drive[:, :, t]
        outputs.append(torch.einsum("bes,bs->be", h, C[:, :, t]))
    y = torch.stack(outputs, 2) + u * D[:, None]
    return (y * F.silu(z)).transpose(1, 2)


def of_transformers(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor
) -> Tensor:
    u, dt, B, C, z = (x.transpose(1, 2) for x in (u, dt, B, C, z))
    y: Tensor = mamba_selective_scan(u, dt, A, B, C, D, z, dt_bias, delta_softplus=True)
    return y.transpose(1, 2)


def of_mamba_py(loop: bool) -> Scan:
    from mambapy.mamba import MambaBlock

    def scan(
        u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor
    ) -> Tensor:
        sizes = SimpleNamespace(config=SimpleNamespace(d_inner=A.shape[0], d_state=A.shape[1]))
        run = MambaBlock.selective_scan_seq if loop else MambaBlock.selective_scan
        u, dt, B, C, z = (x.float() for x in (u, dt, B, C, z))  # it takes one dtype alone
        y: Tensor = run(sizes, u, F.softplus(dt + bias), A, B, C, D)
        return y * F.silu(z)

    return scan


def peers() -> dict[str, Scan | str]:
    """The function of each, or why it is not there."""
    found: dict[str, Scan | str] = {}
    for name, loop in (("mamba.py's parallel scan", False), (LOOPS[0], True)):
        try:
            found[name] = of_mamba_py(loop)
        except ImportError as error:
            found[name] = f"{error}; pip install mambapy"
    return found | {
        LOOPS[1]: of_transformers,
        LOOPS[2]: materialising_loop,
        "radrep's chunked scan": lambda *x: selective_scan(*x, backend="chunked"),
    }


def draw(b: int, l: int, e: int, s: int, dtype: torch.dtype) -> list[Tensor]:  # noqa: E741
    torch.manual_seed(0)
    inputs = [torch.randn(b, l, e, dtype=dtype), torch.randn(b, l, e, dtype=dtype) - 2]
    inputs += [-torch.arange(1.0, s + 1).repeat(e, 1)]
    inputs += [torch.randn(b, l, s, dtype=dtype), torch.randn(b, l, s, dtype=dtype)]
    inputs += [torch.randn(e), torch.randn(b, l, e, dtype=dtype), torch.randn(e)]
    return [x.requires_grad_() for x in inputs]


def compare_all(
    shape: tuple[int, int, int, int], dtype: torch.dtype, repeats: int
) -> Iterator[Row]:
    """Every peer at one shape, (b, l, e, s); the best of ours is what it is compared with."""
    inputs = draw(*shape, dtype)
    weights = torch.randn_like(inputs[0])

    def forward(scan: Scan) -> Callable[[], object]:
        return lambda: torch.no_grad()(scan)(*inputs)

    def both(scan: Scan) -> Callable[[], object]:
        return lambda: torch.autograd.grad(scan(*inputs), inputs, weights)

    for what, make in (("forward", forward), ("with backward", both)):
        b, l, e, s = shape  # noqa: E741
        work = f"selective scan (b {b}, l {l}, e {e}, s {s}), {str(dtype)[6:]}, {what}"
        for name, scan in peers().items():
            if isinstance(scan, str):
                yield Row(work, name, why_not=scan)
            elif what == "with backward" and l > LONG and name in LOOPS:
                yield Row(work, name, why_not="takes minutes, by the square of the length")
            else:
                yield compare(work, make(selective_scan), name, make(scan), repeats)


def rows(repeats: int, tiny: bool) -> Iterator[Row]:
    """At the sizes of the X-ray Mamba base, SR-Mamba and a large image."""
    shapes = (
        [(1, 5, 6, 2)] if tiny else [(4, 197, 1536, 16), (16, 49, 1024, 16), (1, 3137, 768, 16)]
    )
    for shape in shapes:
        yield from compare_all(shape, torch.float32, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, size in (("b", 4), ("l", 197), ("e", 1536), ("s", 16), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--dtype", default="float32", help="of u, dt, B, C and z")
    options = parser.parse_args()
    print(select_backend(torch.device("cpu")))
    shape = (options.b, options.l, options.e, options.s)
    show(compare_all(shape, getattr(torch, options.dtype), options.repeats))


if __name__ == "__main__":
    main()
