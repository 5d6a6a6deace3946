"""Every backend of the selective scan against its definition, and what each promises beyond."""

import multiprocessing
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radrep.errors import RadrepError
from radrep.ops.selective_scan import (
    choose,
    cuda,
    select_backend,
    selective_scan,
    selective_scan_reference,
)

NAMES = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias")
BACKENDS = ("cpu", "chunked")
# One of everything, primes, around the sizes of the blocks and chunks (16, 32 and 64), wide states.
SHAPES = [
    (1, 1, 1, 1),
    (2, 7, 5, 3),
    (1, 16, 64, 16),
    (3, 17, 65, 4),
    (2, 101, 131, 1),
    (1, 33, 2, 67),
]


def make_inputs(b=2, l=37, e=70, s=5, dtype=torch.float32, seed=0):  # noqa: E741
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    inputs = {
        "u": normal(b, l, e),
        "dt": normal(b, l, e) - 1,
        "A": -torch.exp(normal(e, s)),
        "B": normal(b, l, s),
        "C": normal(b, l, s),
        "D": normal(e),
        "z": normal(b, l, e),
        "dt_bias": normal(e),
    }
    return {name: x.requires_grad_() for name, x in inputs.items()}


def run(function, inputs, **options):
    """Outputs, last state and the gradient of every input through both."""
    y, last = function(**inputs, return_last_state=True, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (y, last)]
    loss = (y.double() * weights[0]).sum() + (last.double() * weights[1]).sum()
    given_inputs = {name: x for name, x in inputs.items() if x is not None}
    grads = torch.autograd.grad(loss, list(given_inputs.values()))
    return {"y": y, "last": last} | dict(zip(given_inputs, grads, strict=True))


def in_float64(inputs):
    return {
        name: None if x is None else x.detach().double().requires_grad_()
        for name, x in inputs.items()
    }


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1e-3, value.abs().max().item())
        error = (found[name].double() - value.double()).abs().max().item()
        assert error <= tolerance * scale, f"{name} is off by {error / scale:.1e} of its maximum"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_matches_reference_and_gradients(backend, shape):
    inputs = make_inputs(*shape)
    found = run(selective_scan, inputs, backend=backend)
    assert_close(found, run(selective_scan_reference, in_float64(inputs)), 3e-6)
    assert found["y"].dtype == found["last"].dtype == torch.float32


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*(st.integers(1, top) for top in (3, 40, 80, 6))),
    backend=st.sampled_from(BACKENDS),
    softplus=st.booleans(),
    absent=st.sets(st.sampled_from(["D", "z", "dt_bias"])),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_any_absent_argument_match_the_reference(
    shape, backend, softplus, absent, seed
):
    inputs = make_inputs(*shape, seed=seed) | dict.fromkeys(absent)
    if not softplus:
        with torch.no_grad():
            inputs["dt"].abs_()
            inputs["dt_bias"] = (
                inputs["dt_bias"] if "dt_bias" in absent else inputs["dt_bias"].abs()
            )
    if inputs["dt_bias"] is not None:
        inputs["dt_bias"] = inputs["dt_bias"].detach().requires_grad_()
    found = run(selective_scan, inputs, backend=backend, softplus=softplus)
    expected = run(selective_scan_reference, in_float64(inputs), softplus=softplus)
    # Sums over channels may cancel to a hundredth of their terms: more than rounding of the result.
    assert_close(found, expected, 1e-3)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)],
    ids=str,
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_types_match_the_reference_up_to_their_rounding(backend, dtype, tolerance):
    inputs = make_inputs(dtype=dtype)
    found = run(selective_scan, inputs, backend=backend)
    assert_close(found, run(selective_scan_reference, in_float64(inputs)), tolerance)
    assert found["y"].dtype == dtype
    assert found["last"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for name in NAMES:
        assert found[name].dtype == dtype


@pytest.mark.parametrize("backend", BACKENDS)
def test_types_may_differ_and_autocast_changes_nothing(backend):
    inputs = make_inputs()
    for name in ("u", "B", "z"):
        inputs[name] = inputs[name].detach().bfloat16().requires_grad_()
    expected = run(selective_scan_reference, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(selective_scan, inputs, backend=backend)
    assert {name: x.dtype for name, x in found.items()} == {
        name: x.dtype for name, x in expected.items()
    }
    assert_close(found, expected, 8e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_give_what_their_copies_give(backend):
    inputs = make_inputs(2, 21, 66, 3)
    expected = run(selective_scan, inputs, backend=backend)
    wide = torch.cat([inputs["u"], inputs["z"]], -1).detach()  # as an input projection gives them
    views = {
        "u": wide[..., :66],
        "z": wide[..., 66:],
        "dt": inputs["dt"].detach().permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "A": inputs["A"].detach().t().contiguous().t(),
        "B": torch.stack([inputs["B"].detach()] * 2, -1)[..., 1],
        "C": inputs["C"].detach().transpose(1, 2).contiguous().transpose(1, 2),
        "D": torch.stack([inputs["D"].detach()] * 2, -1)[:, 0],
        "dt_bias": torch.stack([inputs["dt_bias"].detach()] * 2, -1)[:, 0],
    }
    for view in views.values():
        assert not view.is_contiguous()
    views = {name: view.requires_grad_() for name, view in views.items()}
    assert_close(run(selective_scan, views, backend=backend), expected, 1e-6)


def test_expanded_gradient_is_read_rightly():
    inputs = make_inputs(2, 19, 5, 2)
    y = selective_scan(**inputs, backend="cpu")
    found = torch.autograd.grad(y.sum(), inputs["C"])[0]  # the gradient of sum() has stride 0
    expected = torch.autograd.grad(selective_scan_reference(**inputs).sum(), inputs["C"])[0]
    assert_close({"C": found}, {"C": expected}, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_output_alone_and_last_state_alone_have_their_gradients(backend):
    inputs = make_inputs(2, 19, 5, 2)
    for index in (0, 1):
        found, expected = (
            torch.autograd.grad(
                function(**inputs, return_last_state=True, **options)[index].square().sum(),
                list(inputs.values()),
                allow_unused=True,
                materialize_grads=True,
            )
            for function, options in (
                (selective_scan, {"backend": backend}),
                (selective_scan_reference, {}),
            )
        )
        assert_close(dict(enumerate(found)), dict(enumerate(expected)), 1e-5)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_gradcheck_in_float64(backend):
    inputs = make_inputs(1, 18, 2, 2, dtype=torch.float64)

    def function(*tensors):
        return selective_scan(*tensors, return_last_state=True, backend=backend)

    assert torch.autograd.gradcheck(function, tuple(inputs.values()), fast_mode=True)


EXTREMES = {
    "huge steps": ("dt", 1e4),
    "vanishing steps": ("dt", -1e4),
    "fast decay": ("A", -1e6),
    "no decay": ("A", -1e-30),
    "open gate": ("z", 1e4),
    "closed gate": ("z", -1e4),
}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_values_stay_finite_and_right(backend, extreme):
    name, value = EXTREMES[extreme]
    inputs = make_inputs(2, 35, 66, 3)
    with torch.no_grad():
        inputs[name][..., ::2] = value  # beside channels, or states, with ordinary values
        if name == "A":
            inputs["dt"][:, ::5] = 1e4
    found = run(selective_scan, inputs, backend=backend)
    for tensor in found.values():
        assert torch.isfinite(tensor).all()
    assert_close(found, run(selective_scan_reference, in_float64(inputs)), 2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_shows_in_the_output(backend, name):
    inputs = {key: x.detach() for key, x in make_inputs(1, 20, 3, 2).items()}
    inputs[name].view(-1)[0] = float("nan")
    assert selective_scan(**inputs, backend=backend).isnan().any()


def test_result_has_the_same_bits_on_any_number_of_threads():
    inputs = make_inputs(2, 40, 700, 4)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 3):
            torch.set_num_threads(count)
            results.append(run(selective_scan, inputs, backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(result[name], value), name


def test_several_threads_may_scan_at_once():
    inputs = [make_inputs(1, 30, 130, 4, seed=seed) for seed in range(6)]
    expected = [run(selective_scan, x, backend="cpu") for x in inputs]
    found = [None] * len(inputs)

    def work(index):
        for _ in range(5):
            found[index] = run(selective_scan, inputs[index], backend="cpu")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 0.0)


def test_states_that_die_away_become_zero():
    u = torch.zeros(1, 40, 1)
    u[0, 0] = 1e-20
    ones = torch.ones(1, 40, 1)
    y = selective_scan(u, ones, -ones[0, :1] * 4, ones, ones, softplus=False, backend="cpu")
    # After 11 steps the state is below 1e-38, where every operation takes many times as long.
    assert (y[0, :10] > 0).all()
    assert (y[0, 12:] == 0).all()


def test_subnormal_numbers_of_the_caller_are_left_alone():
    run(selective_scan, make_inputs(), backend="cpu")  # whose own threads flush them to 0
    assert (torch.tensor([1e-38]) * 1e-3).item() > 0


def _scan_in_child(connection):
    # As a DataLoader does in its workers: with more, torch's own operations hang in a fork, for the
    # threads of OpenMP are gone.
    torch.set_num_threads(1)
    results = run(selective_scan, make_inputs(2, 30, 200, 4), backend="cpu")
    connection.send({name: x.detach().numpy() for name, x in results.items()})


def test_forked_child_scans_like_its_parent():
    expected = run(selective_scan, make_inputs(2, 30, 200, 4), backend="cpu")  # threads exist now
    context = multiprocessing.get_context("fork")
    parent_end, child_end = context.Pipe()
    child = context.Process(target=_scan_in_child, args=(child_end,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads: the very point
        child.start()
    try:
        assert parent_end.poll(60), "the child hangs"
        found = parent_end.recv()
    finally:
        child.kill()
        child.join()
    for name, value in expected.items():
        assert np.array_equal(found[name], value.detach().numpy()), name


@pytest.mark.slow
def test_import_does_not_take_numba_along():
    code = "import sys, radrep.ops.selective_scan; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cpu_choice_names_numba_and_threads():
    choice = select_backend(torch.device("cpu"), torch.float32)
    threads = torch.get_num_threads()
    assert choice.name == "cpu"
    assert choice.reason.startswith(f"Numba {numba.__version__} on {threads} thread")


def test_without_numba_the_choice_is_chunked_and_states_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # as if its import failed
    for module in ("kernel_threads", "selective_scan.cpu", "selective_scan.cpu_kernels"):
        monkeypatch.delitem(sys.modules, f"radrep.ops.{module}", raising=False)
    choice = select_backend(torch.device("cpu"), torch.float32)
    assert choice.name == "chunked"
    assert "Numba cannot be imported" in choice.reason
    with pytest.raises(RadrepError, match=r"backend='cpu'.*Numba cannot be imported"):
        selective_scan(**make_inputs(1, 2, 2, 1), backend="cpu")
    assert selective_scan(**make_inputs(1, 2, 2, 1)).shape == (1, 2, 2)


def test_device_without_kernel_takes_chunked():
    choice = select_backend(torch.device("mps"), torch.float32)
    assert (choice.name, choice.reason) == ("chunked", "there is no kernel for mps")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(2, 3)}, r"u has shape \(2, 3\), expected \(b, l, e\)"),
        ({"u": torch.zeros(2, 0, 4)}, r"u has shape \(2, 0, 4\), expected \(b, l, e\), none of"),
        ({"A": torch.zeros(4)}, r"A has shape \(4,\), expected \(e, s\)"),
        ({"A": torch.zeros(5, 2)}, r"A has shape \(5, 2\), expected \(4, 2\)"),
        ({"dt": torch.zeros(2, 3, 1)}, r"dt has shape \(2, 3, 1\), expected \(2, 3, 4\)"),
        ({"B": torch.zeros(2, 2, 3)}, r"B has shape \(2, 2, 3\), expected \(2, 3, 2\)"),
        ({"C": torch.zeros(2, 3, 3)}, r"C has shape \(2, 3, 3\), expected \(2, 3, 2\)"),
        ({"D": torch.zeros(1)}, r"D has shape \(1,\), expected \(4,\)"),
        ({"z": torch.zeros(3, 4)}, r"z has shape \(3, 4\), expected \(2, 3, 4\)"),
        ({"dt_bias": torch.zeros(4, 1)}, r"dt_bias has shape \(4, 1\), expected \(4,\)"),
        ({"A": torch.zeros(4, 2, dtype=torch.complex64)}, r"A is of type torch.complex64"),
        ({"B": torch.zeros(2, 3, 2, device="meta")}, r"B is on meta, but u is on cpu"),
        (
            {"backend": "fastest"},
            r"backend is 'fastest', expected 'auto' or one of \('cpu', 'cuda'",
        ),
    ],
    ids=str,
)
def test_wrong_argument_is_named_with_what_was_expected(change, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**(make_inputs(2, 3, 4, 2) | change))


def stand_in_for_mamba_ssm(seen):
    """A module with the public signature of mamba-ssm, computing by the definition."""

    def selective_scan_fn(
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
        return_last_state=False,
    ):  # fmt: skip
        seen.update(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
        turn = [None if x is None else x.transpose(1, 2) for x in (u, delta, B, C, z)]
        y, last = selective_scan_reference(
            turn[0], turn[1], A, turn[2], turn[3], D, turn[4], delta_bias,
            softplus=delta_softplus, return_last_state=True,
        )  # fmt: skip
        y = y.transpose(1, 2)
        return (y, last.detach()) if return_last_state else y

    package = types.ModuleType("mamba_ssm")
    package.__version__ = "2.3.2"
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    interface.selective_scan_cuda = types.ModuleType("selective_scan_cuda")
    return {
        "mamba_ssm": package,
        "mamba_ssm.ops": types.ModuleType("mamba_ssm.ops"),
        "mamba_ssm.ops.selective_scan_interface": interface,
    }


@pytest.fixture
def mamba_ssm(monkeypatch):
    """What the kernel of a stand-in for mamba-ssm was called with."""
    seen = {}
    for name, module in stand_in_for_mamba_ssm(seen).items():
        monkeypatch.setitem(sys.modules, name, module)
    cuda.import_kernel.cache_clear()
    yield seen
    cuda.import_kernel.cache_clear()


@pytest.mark.parametrize("absent", [(), ("D", "z", "dt_bias")], ids=str)
def test_cuda_backend_hands_the_kernel_what_it_expects(mamba_ssm, absent):
    inputs = make_inputs(2, 19, 5, 3) | dict.fromkeys(absent)
    inputs["B"] = inputs["B"].detach().bfloat16().requires_grad_()

    def scan(return_last_state, **tensors):
        y, last = cuda.scan(*(tensors[name] for name in NAMES), softplus=True)
        return y, last + 0 * y.sum()

    def expect(return_last_state, **tensors):
        y, last = selective_scan_reference(**tensors, return_last_state=True)
        return y, last.detach() + 0 * y.sum()

    assert_close(run(scan, inputs), run(expect, inputs), 1e-5)
    assert mamba_ssm["u"].shape == mamba_ssm["delta"].shape == (2, 5, 19)
    assert mamba_ssm["B"].shape == mamba_ssm["C"].shape == (2, 3, 19)
    assert mamba_ssm["B"].dtype == mamba_ssm["u"].dtype == torch.float32


def test_cuda_backend_keeps_narrow_types_and_gives_the_kernel_wide_weights(mamba_ssm):
    inputs = make_inputs(1, 8, 4, 2, dtype=torch.float16)
    y, last = cuda.scan(*inputs.values(), softplus=True)
    assert (y.dtype, last.dtype) == (torch.float16, torch.float32)
    assert {mamba_ssm[name].dtype for name in ("u", "delta", "B", "C", "z")} == {torch.float16}
    assert {mamba_ssm[name].dtype for name in ("A", "D", "delta_bias")} == {torch.float32}


def test_cuda_choice_is_mamba_ssm_unless_it_cannot(mamba_ssm):
    device = torch.device("cuda")
    assert select_backend(device, torch.bfloat16).name == "cuda"
    assert select_backend(device, torch.bfloat16).reason == "mamba-ssm 2.3.2"
    for choice, reason in (
        (select_backend(device, torch.float64), "no kernel for float64"),
        (select_backend(device, torch.float32, state_dim=257), "at most 256 states, got 257"),
        (
            select_backend(device, torch.float32, last_state_grad=True),
            "no gradient through the last",
        ),
    ):
        assert choice.name == "chunked"
        assert reason in choice.reason


@pytest.fixture(autouse=True)
def _without_triton(monkeypatch):
    """Without it, as on a machine without a C compiler; test_triton_scan.py has the other."""
    monkeypatch.setattr(choose, "_triton_problem", lambda device: "Triton is not installed")


def test_cuda_without_mamba_ssm_or_triton_takes_chunked_and_states_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    cuda.import_kernel.cache_clear()
    choice = select_backend(torch.device("cuda"), torch.float32)
    assert choice.name == "chunked"
    assert choice.reason.startswith(f"mamba-ssm is not installed; install it with: {cuda.INSTALL}")
    assert choice.reason.endswith(". Triton is not installed")


def test_mamba_ssm_without_its_cuda_extension_takes_chunked(monkeypatch):
    """Sources after 2.3.2 import without the extension, and fail only when the kernel is called."""
    modules = stand_in_for_mamba_ssm({})
    modules["mamba_ssm.ops.selective_scan_interface"].selective_scan_cuda = None
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    cuda.import_kernel.cache_clear()
    choice = select_backend(torch.device("cuda"), torch.float32)
    cuda.import_kernel.cache_clear()
    assert choice.name == "chunked"
    assert choice.reason.startswith("mamba-ssm 2.3.2 was built without its CUDA extension")
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation" in choice.reason


def test_a_failed_import_of_mamba_ssm_is_not_repeated(monkeypatch):
    attempts = []

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "mamba_ssm":
                attempts.append(name)

    monkeypatch.delitem(sys.modules, "mamba_ssm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    cuda.import_kernel.cache_clear()
    choices = {select_backend(torch.device("cuda")) for _ in range(3)}
    assert len(choices) == len(attempts) == 1


def test_broken_mamba_ssm_is_not_called_missing(monkeypatch):
    broken = types.ModuleType("mamba_ssm")  # without the module that has the kernel
    monkeypatch.setitem(sys.modules, "mamba_ssm", broken)
    cuda.import_kernel.cache_clear()
    choice = select_backend(torch.device("cuda"), torch.float32)
    assert choice.name == "chunked"
    assert choice.reason.startswith("mamba-ssm cannot be imported (")


def test_insisting_on_cuda_without_a_gpu_is_refused(mamba_ssm):
    with pytest.raises(RadrepError, match=r"backend='cuda'\) cannot run: the tensors are on cpu"):
        selective_scan(**make_inputs(1, 2, 2, 1), backend="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_mamba_ssm_matches_the_reference_on_a_gpu(dtype):
    inputs = {
        name: x.detach().cuda().requires_grad_()
        for name, x in make_inputs(2, 197, 96, 16, dtype=dtype).items()
    }
    y = selective_scan(**inputs, backend="cuda")
    expected = selective_scan_reference(**in_float64(inputs))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert_close({"y": y}, {"y": expected}, tolerance)
    weights = torch.randn(y.shape, device="cuda")
    found = torch.autograd.grad((y * weights).sum(), list(inputs.values()))
    wide = in_float64(inputs)
    right = torch.autograd.grad(
        (selective_scan_reference(**wide) * weights).sum(), list(wide.values())
    )
    assert_close(dict(enumerate(found)), dict(enumerate(right)), 10 * tolerance)


@pytest.mark.gpu
def test_chunked_matches_the_reference_on_a_gpu():
    inputs = {name: x.detach().cuda() for name, x in make_inputs(2, 197, 96, 16).items()}
    y = selective_scan(**inputs, backend="chunked")
    assert_close({"y": y}, {"y": selective_scan_reference(**in_float64(inputs))}, 1e-5)


PEAK = """
import resource, sys, torch
from radrep.ops.selective_scan import selective_scan
b, l, e, s = 1, 2048, 512, 64
def scan(l):
    tensors = [torch.randn(b, l, e), torch.randn(b, l, e), -torch.rand(e, s)]
    tensors += [torch.randn(b, l, s), torch.randn(b, l, s)]
    tensors = [x.requires_grad_() for x in tensors]
    selective_scan(*tensors, backend=sys.argv[1]).square().sum().backward()
scan(16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scan(l)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
assert grown < b * l * e * s * 4 / 4, grown
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_stays_far_below_all_states(backend, tmp_path):
    script = tmp_path / "peak.py"
    script.write_text(PEAK)
    done = subprocess.run(
        [sys.executable, script, backend], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_kernels_compile_with_no_folder_to_write_to(tmp_path):
    script = tmp_path / "scan.py"
    script.write_text(
        "import tempfile\n"
        "def refuse(*arguments, **options): raise OSError(30, 'Read-only file system')\n"
        "import torch\n"
        "from radrep.ops.selective_scan import selective_scan\n"
        "tempfile.TemporaryFile = refuse\n"
        "u = torch.ones(1, 3, 2, requires_grad=True)\n"
        "weights = torch.ones(1, 3, 1)\n"
        "A = -torch.ones(2, 1)\n"
        "selective_scan(u, u, A, weights, weights, backend='cpu').sum().backward()\n"
        "print(u.grad.isfinite().all().item())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr
    assert not list(Path(tmp_path).rglob("*.nbc"))
