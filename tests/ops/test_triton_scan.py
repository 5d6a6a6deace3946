"""The Triton scan against the definition, in Triton's interpreter; and that it compiles for GPUs.

On a card, look first at `pytest -m gpu tests/ops -n0`: whether the kernels run at all (else the
reason, mostly a C compiler or Python's headers that are missing), then whether results agree, then
at the time beside mamba-ssm's: CHUNK, BLOCK and the number of warps were chosen without a card.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from radrep.ops.selective_scan import choose, cuda, select_backend, selective_scan_reference

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton comes with PyTorch on Linux alone"
)

NAMES = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias")


def make_inputs(b, l, e, s, dtype=torch.float32, absent=()):  # noqa: E741
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    wide = {"A": -torch.exp(normal(e, s)), "D": normal(e), "dt_bias": normal(e)}
    rows = normal(b, l, 3 * e + 2 * s).to(dtype)  # as a projection gives them, one beside the other
    names = ("u", "dt", "z", "B", "C")
    inputs = wide | dict(zip(names, rows.split([e, e, e, s, s], dim=-1), strict=True))
    return [None if name in absent else inputs[name] for name in NAMES]


def case(shape, *, chunk=4, block=8, softplus=True, outputs=("y", "last"), change=None, **options):
    """Three channels and two states a program (block 8), so that few steps cross every border."""
    inputs = make_inputs(*shape, **options)
    if change is not None:
        name, value = change
        inputs[NAMES.index(name)][..., ::2] = value  # beside ordinary values
    if not softplus:
        inputs[1] = inputs[1].abs()
    b, l, e, s = shape  # noqa: E741
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(b, l, e, generator=generator), torch.randn(b, e, s, generator=generator)]
    kept = [w if n in outputs else None for n, w in zip(("y", "last"), weights, strict=True)]
    given = {"chunk": chunk, "block": block, "softplus": softplus, "weights": kept}
    return given | {"inputs": inputs}


CASES = {
    "two sequences": case((2, 9, 3, 3)),
    "sizes of a card": case((1, 34, 5, 16), chunk=32, block=256),
    "one of everything": case((1, 1, 1, 1)),
    "nothing optional": case((1, 5, 3, 2), absent=("D", "z", "dt_bias")),
    "no softplus": case((1, 5, 3, 2), softplus=False, absent=("dt_bias",)),
    "y alone": case((1, 5, 3, 2), outputs=("y",)),
    "last state alone": case((1, 5, 3, 2), outputs=("last",)),
    "bfloat16": case((1, 6, 3, 2), dtype=torch.bfloat16),
    "float16": case((1, 6, 3, 2), dtype=torch.float16),
    "huge steps": case((1, 5, 3, 2), change=("dt", 1e4)),
    "vanishing steps": case((1, 5, 3, 2), change=("dt", -1e4)),
    "fast decay": case((1, 5, 3, 2), change=("A", -1e6)),
    "no decay": case((1, 5, 3, 2), change=("A", -1e-30)),
    "open gate": case((1, 5, 3, 2), change=("z", 1e4)),
    "closed gate": case((1, 5, 3, 2), change=("z", -1e4)),
}
TOLERANCES = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def interpret(cases, folder):
    torch.save(cases, folder / "cases.pt")
    child = Path(__file__).with_name("triton_child.py")
    subprocess.run(
        [sys.executable, child, folder / "cases.pt", folder / "results.pt"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
    )
    return torch.load(folder / "results.pt")


def check(given, found):
    """Outputs, last state and all gradients, against the definition in float64."""
    wide = [None if x is None else x.detach().double().requires_grad_() for x in given["inputs"]]
    outputs = selective_scan_reference(*wide, softplus=given["softplus"], return_last_state=True)
    weighted = zip(outputs, given["weights"], strict=True)
    loss = sum((x * weight).sum() for x, weight in weighted if weight is not None)
    inputs = [x for x in wide if x is not None]
    grads = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    names = ["y", "last", *(n for n, x in zip(NAMES, wide, strict=True) if x is not None)]
    types = [given["inputs"][0].dtype, torch.float32]
    types += [x.dtype for x in given["inputs"] if x is not None]
    tolerance = TOLERANCES[types[0]]
    for name, dtype, one, right in zip(names, types, found, (*outputs, *grads), strict=True):
        assert one.dtype == dtype, name
        assert torch.isfinite(one).all(), name
        scale = max(1e-3, right.abs().max().item())
        error = (one.double() - right).abs().max().item()
        assert error <= tolerance * scale, f"{name} is off by {error / scale:.1e} of its maximum"


def test_scan_in_the_interpreter_matches_the_definition(tmp_path):
    given = case((1, 3, 3, 2), chunk=2)
    (found,) = interpret([given], tmp_path)
    check(given, found)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    results = interpret(list(CASES.values()), tmp_path_factory.mktemp("triton"))
    return dict(zip(CASES, results, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_case_in_the_interpreter_matches_the_definition(interpreted, name):
    check(CASES[name], interpreted[name])


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from radrep.ops.selective_scan import triton_kernels

flags = {"SOFTPLUS": True, "CHUNK": 32, "WIDTH": 16, "STATES": 16}
narrow = {"u", "dt", "B", "C", "z", "y", "grad_y", "grad_u", "grad_dt", "grad_z"}
for kernel in (triton_kernels.forward, triton_kernels.backward):
    for absent in ((), ("D", "z", "dt_bias", "grad_z")):
        constants = flags | dict.fromkeys(absent)
        types = {}
        for name in kernel.arg_names:
            number = name in ("steps", "e", "s") or name.endswith(("_seq", "_step"))
            pointer = "*bf16" if name in narrow else "*fp32"
            types[name] = "constexpr" if name in constants else "i32" if number else pointer
        given = {(kernel.arg_names.index(k),): v for k, v in constants.items() if k in types}
        source = ASTSource(fn=kernel, signature=types, constexprs=given)
        target = GPUTarget("cuda", int(sys.argv[1]), 32)
        code = triton.compile(source, target=target, options={"num_warps": 1}).asm["ptx"]
        assert "ex2.approx" in code and "lg2.approx" not in code
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path, capability):
    script = tmp_path / "compile_kernels.py"  # a file, whose source Triton may read
    script.write_text(COMPILE)
    done = subprocess.run(
        [sys.executable, script, capability],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def without_mamba_ssm(monkeypatch):
    monkeypatch.setattr(cuda, "import_kernel", lambda: (None, "mamba-ssm is not installed"))


def test_cuda_without_mamba_ssm_takes_triton_and_states_why(monkeypatch):
    without_mamba_ssm(monkeypatch)
    monkeypatch.setattr(choose, "_triton_problem", lambda device: None)
    choice = select_backend(torch.device("cuda"))
    assert choice.name == "triton"
    assert choice.reason.startswith("Triton 3")
    assert choice.reason.endswith("; mamba-ssm is not installed")
    assert select_backend(torch.device("cuda"), torch.float64).name == "chunked"


def test_deterministic_and_last_states_take_triton_beside_mamba_ssm(monkeypatch):
    monkeypatch.setattr(cuda, "import_kernel", lambda: (object(), "mamba-ssm 2.3.2"))
    monkeypatch.setattr(choose, "_triton_problem", lambda device: None)
    assert select_backend(torch.device("cuda")).name == "cuda"
    assert select_backend(torch.device("cuda"), last_state_grad=True).name == "triton"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    choice = select_backend(torch.device("cuda"))
    assert choice.name == "triton"
    assert "train.deterministic is set" in choice.reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Failed to find C compiler."), "RuntimeError: Failed to find C compiler."),
        (ModuleNotFoundError("No module named 'triton'", name="triton"), "is not installed"),
        (ImportError("libtriton.so"), "ImportError: libtriton.so"),
    ],
    ids=str,
)
def test_without_either_kernel_the_choice_is_chunked_and_states_both_reasons(
    monkeypatch, error, reason
):
    from radrep.ops.selective_scan import triton

    def fail(device):
        raise error

    without_mamba_ssm(monkeypatch)
    monkeypatch.setattr(triton, "try_kernels", fail)
    choose._triton_problem.__wrapped__.cache_clear()
    choice = select_backend(torch.device("cuda"))
    choose._triton_problem.__wrapped__.cache_clear()
    assert choice.name == "chunked"
    assert choice.reason.startswith("mamba-ssm is not installed. ")
    assert reason in choice.reason


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_every_case_on_a_card_matches_the_definition(name):
    from radrep.ops.selective_scan import selective_scan

    problem = choose._triton_problem(torch.device("cuda"))
    assert problem is None, problem
    given = CASES[name]
    inputs = [None if x is None else x.detach().cuda().requires_grad_() for x in given["inputs"]]
    outputs = selective_scan(
        *inputs, softplus=given["softplus"], return_last_state=True, backend="triton"
    )
    weighted = zip(outputs, given["weights"], strict=True)
    loss = sum((x.double() * weight.cuda()).sum() for x, weight in weighted if weight is not None)
    tensors = [x for x in inputs if x is not None]
    grads = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
    check(given, [x.detach().cpu() for x in (*outputs, *grads)])


@pytest.mark.gpu
def test_the_same_inputs_give_the_same_bits_on_a_card():
    from radrep.ops.selective_scan import selective_scan

    inputs = [x.cuda().requires_grad_() for x in make_inputs(4, 197, 96, 16, torch.bfloat16)]
    results = []
    for _ in range(2):
        y = selective_scan(*inputs, backend="triton")
        results.append([y, *torch.autograd.grad(y.float().square().sum(), inputs)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
