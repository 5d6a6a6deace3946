"""Time of the selective scan's paths beside two peers, all measured in the same run.

Run: python tests/benchmarks/bench_selective_scan.py [--repeats 20] [--dtype bfloat16]

The peers are the definition in radrep.ops, which is what a plain loop in PyTorch costs, and the
loop as mamba-ssm's selective_scan_ref has it, which first forms everything of (b, e, l, s).
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from radrep.ops.selective_scan import select_backend, selective_scan, selective_scan_reference

Scan = Callable[..., Tensor]


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


def milliseconds(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The best and the median time; the best is the fairer where other programs run too."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return min(times), sorted(times)[len(times) // 2]


def measure(scan: Scan, inputs: list[Tensor], repeats: int) -> list[tuple[float, float]]:
    weights = torch.randn_like(inputs[0])

    def forward() -> None:
        with torch.no_grad():
            scan(*inputs)

    def both() -> None:
        torch.autograd.grad(scan(*inputs), inputs, weights)

    results = []
    for run in (forward, both):
        if repeats > 1:
            run()
        results.append(milliseconds(run, repeats))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, size in (("b", 4), ("l", 197), ("e", 1536), ("s", 16), ("repeats", 20)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--dtype", default="float32", help="of u, dt, B, C and z")
    options = parser.parse_args()
    b, l, e, s = options.b, options.l, options.e, options.s  # noqa: E741
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)
    inputs = [torch.randn(b, l, e, dtype=dtype), torch.randn(b, l, e, dtype=dtype) - 2]
    inputs += [-torch.arange(1.0, s + 1).repeat(e, 1)]
    inputs += [torch.randn(b, l, s, dtype=dtype), torch.randn(b, l, s, dtype=dtype)]
    inputs += [torch.randn(e), torch.randn(b, l, e, dtype=dtype), torch.randn(e)]
    inputs = [x.requires_grad_() for x in inputs]

    choice = select_backend(torch.device("cpu"), dtype)
    print(f"b {b}, l {l}, e {e}, s {s}, {options.dtype}; {choice.name}: {choice.reason}")
    start = time.perf_counter()
    selective_scan(*inputs).sum().backward()
    print(f"first call, with what had to be compiled: {time.perf_counter() - start:.1f} s")
    scans: dict[str, tuple[Scan, int]] = {
        "cpu": (lambda *x: selective_scan(*x, backend="cpu"), options.repeats),
        "chunked": (lambda *x: selective_scan(*x, backend="chunked"), max(1, options.repeats // 4)),
        "reference": (selective_scan_reference, max(1, options.repeats // 4)),
        "mamba-ssm's loop": (materialising_loop, 1),
    }
    print(f"{'best (median) ms':18}{'forward':>18}{'with backward':>20}{'times cpu':>16}")
    ours: list[float] = []
    for name, (scan, repeats) in scans.items():
        times = measure(scan, inputs, repeats)
        ours = ours or [best for best, _ in times]
        ratios = " and ".join(
            f"{best / own:.1f}" for (best, _), own in zip(times, ours, strict=True)
        )
        row = "".join(f"{f'{best:.1f} ({median:.1f})':>19}" for best, median in times)
        print(f"{name:18}{row}{ratios:>16}")


if __name__ == "__main__":
    main()
