"""Mamba mixers on the CPU's fused kernels, against their definition written out step by step."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.modules.low_rank import LowRankLinear
from radrep.modules.mamba import MambaBranch
from radrep.modules.mamba_block import DIRECTIONS, MambaMixer
from radrep.modules.sr_mamba import SrMambaMixer
from radrep.ops.causal_conv import causal_conv_silu
from radrep.ops.scan_order import inverse_order, stride_rearrange, stride_restore
from radrep.ops.selective_scan import BackendChoice, choose, selective_scan_reference
from radrep.ops.selective_scan.cpu import scan_directions

DIM = 70  # no multiple of the block of channels that a kernel takes at once


def mixer(**options: object) -> MambaMixer:
    torch.manual_seed(0)
    sizes = {"dim": DIM, "grid": (3, 7), "class_index": 10, "state_dim": 5}
    return MambaMixer(**{**sizes, **options})


def branch_definition(branch: MambaBranch, xz: Tensor) -> Tensor:
    x, z = xz.chunk(2, dim=-1)
    x = F.silu(branch.conv1d(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
    dt, B, C = branch.x_proj(x).split([branch.dt_rank, branch.state_dim, branch.state_dim], -1)
    bias = branch.dt_proj.bias
    return selective_scan_reference(
        x, branch.dt_proj(dt) - bias, -torch.exp(branch.A_log), B, C, branch.D, z, bias
    )


def definition(module: nn.Module, tokens: Tensor) -> Tensor:
    xz = module.in_proj(tokens)
    if isinstance(module, SrMambaMixer):
        strided = branch_definition(module.strided, stride_rearrange(xz, module.stride))
        y = stride_restore(strided, module.stride, tokens.shape[1])
        return module.out_proj(y + branch_definition(module.in_order, xz))
    scanned = []
    for direction, branch in module.branches.items():
        order = torch.arange(tokens.shape[1])
        if direction != "rows":
            order = module.get_buffer(f"{direction}_order")
        scanned.append(branch_definition(branch, xz[:, order])[:, inverse_order(order)])
    return module.out_proj(torch.stack(scanned).mean(0))


def run(function: Callable[..., Tensor], module: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """Outputs and all gradients for an uneven gradient of the outputs."""
    tokens = tokens.clone().requires_grad_()
    y = function(module, tokens) if function is definition else function(tokens)
    generator = torch.Generator().manual_seed(2)
    y.backward(torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype))
    grads = {name: x.grad for name, x in module.named_parameters()}
    module.zero_grad()
    return {"y": y.detach(), "tokens": tokens.grad} | grads


def assert_as_defined(module: nn.Module, tokens: Tensor, tolerance: float, cast: object) -> None:
    with cast:
        found = run(module.__call__, module, tokens)
    expected = run(definition, copy.deepcopy(module).double(), tokens.double())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1e-6, value.abs().max().item())  # one step alone gives A no gradient
        error = (found[name].double() - value).abs().max().item() / scale
        assert error <= tolerance, f"{name} is off by {error:.1e} of its maximum"


KINDS = {
    "float32": (torch.float32, 5e-6, nullcontext),
    "float64": (torch.float64, 1e-12, nullcontext),
    "autocast": (torch.float32, 5e-2, lambda: torch.autocast("cpu", torch.bfloat16)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("directions", "class_index"),
    [(DIRECTIONS, 10), (DIRECTIONS, None), (("rows",), 10), (("columns_reversed", "rows"), 0)],
    ids=str,
)
def test_a_mixer_is_as_defined(
    directions: Sequence[str], class_index: int | None, kind: str
) -> None:
    dtype, tolerance, cast = KINDS[kind]
    module = mixer(directions=directions, class_index=class_index).to(dtype)
    tokens = torch.randn(3, 21 + (class_index is not None), DIM).to(dtype)
    assert_as_defined(module, tokens, tolerance, cast())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 10, 7])
def test_an_sr_mamba_mixer_is_as_defined(stride: int, kind: str) -> None:
    dtype, tolerance, cast = KINDS[kind]
    torch.manual_seed(0)
    module = SrMambaMixer(dim=DIM // 2, state_dim=5, stride=stride).to(dtype)
    assert_as_defined(module, torch.randn(2, 49, DIM // 2).to(dtype), tolerance, cast())


@pytest.mark.parametrize("length", [1, 2, 17])
def test_rows_alone_take_any_length(length: int) -> None:
    module = mixer(directions=("rows",), conv_width=3)
    assert_as_defined(module, torch.randn(2, length, DIM), 5e-6, nullcontext())


def test_adapters_act_on_each_direction_and_learn() -> None:
    module = mixer()
    layers = [m for m in module.modules() if isinstance(m, LowRankLinear)]
    for layer in layers[1:-1:2]:  # some of those between the projections in and out
        for parameter in layer.add_adapter("part", rank=2, rows=slice(1, 4), scale=0.5):
            nn.init.normal_(parameter, std=0.3)
    for parameter in layers[2].add_adapter("own", rank=1):
        nn.init.normal_(parameter, std=0.3)
    layers[4].borrow_adapter("own", layers[2])
    assert_as_defined(module, torch.randn(2, 22, DIM), 5e-6, nullcontext())


def test_gradcheck_in_float64() -> None:
    torch.manual_seed(0)
    module = MambaMixer(dim=2, grid=(2, 9), directions=DIRECTIONS[1:3], state_dim=2).double()
    names, parameters = zip(*module.named_parameters(), strict=True)

    def function(tokens: Tensor, *given: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, given, strict=True)), (tokens,))

    tokens = torch.randn(2, 18, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (tokens, *parameters), fast_mode=True)


def test_without_kernels_a_mixer_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = (mixer(), SrMambaMixer(dim=DIM, state_dim=5))
    tokens = torch.randn(2, 22, DIM)
    found = [run(module.__call__, module, tokens) for module in modules]
    asked = []

    def refuse(*arguments: object, **options: object) -> BackendChoice:
        asked.append(arguments)
        return BackendChoice("chunked", "for a test")

    monkeypatch.setattr(choose, "select_backend", refuse)
    for module, own in zip(modules, found, strict=True):
        expected = run(module.__call__, module, tokens)
        for name, value in expected.items():
            torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-5)
    assert len(asked) == len(modules)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def scan_inputs(b: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = {"x": normal(b, 19, 150), "z": normal(b, 19, 150), "dt": normal(2, b, 19, 150)}
    inputs |= {"B": normal(2, b, 19, 5), "C": normal(2, b, 19, 5)}
    inputs = {name: x.to(dtype) for name, x in inputs.items()}
    inputs |= {"A": -torch.exp(normal(2, 150, 5)), "D": normal(2, 150), "bias": normal(2, 150)}
    return inputs | {"weight": normal(2, 150, 1, 4)}


def scan(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    orders = torch.stack([torch.arange(19).flip(0), torch.randperm(19)])
    u = causal_conv_silu(inputs["x"], inputs["weight"].unbind(), inputs["bias"].unbind(), orders)
    rest = (inputs[name] for name in ("dt", "A", "B", "C", "D", "z", "bias"))
    return u, scan_directions(u, *rest, orders, scale=0.5)


def test_results_have_the_same_bits_on_any_number_of_threads(
    threads: Callable[[int], None],
) -> None:
    inputs = {name: x.requires_grad_() for name, x in scan_inputs(3).items()}
    results = []
    for count in (1, 2, 3):
        threads(count)
        torch.manual_seed(0)
        _, y = scan(inputs)
        results.append((y, *torch.autograd.grad(y.square().sum(), list(inputs.values()))))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sequence_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    inputs = scan_inputs(3, dtype)
    torch.manual_seed(0)
    u, y = scan(inputs)
    assert u.dtype == y.dtype == dtype
    for i in range(3):
        own = {name: x[i : i + 1] if name in "xz" else x for name, x in inputs.items()}
        own |= {name: inputs[name][:, i : i + 1] for name in ("dt", "B", "C")}
        torch.manual_seed(0)
        own_u, own_y = scan(own)
        assert torch.equal(own_u[:, 0], u[:, i])
        assert torch.equal(own_y[0], y[i])


def test_bfloat16_is_rounded_as_torch_rounds_it_and_keeps_a_nan() -> None:
    x = torch.randn(1, 40, 70).bfloat16()
    x[0, 30, 5] = float("nan")
    x[0, 20, 6] = float("inf")
    weights, biases = [torch.randn(70, 1, 4)], [torch.randn(70)]
    orders = torch.arange(40)[None]
    wide = causal_conv_silu(x.float(), weights, biases, orders)
    narrow = causal_conv_silu(x, weights, biases, orders)
    assert wide.isnan().any()
    assert wide.isinf().any()
    torch.testing.assert_close(narrow, wide.bfloat16(), rtol=0, atol=0, equal_nan=True)
