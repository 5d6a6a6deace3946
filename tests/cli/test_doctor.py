"""radrep doctor: what is there, what is missing and how to get it; never a failure itself."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from radrep.cli import app, doctor
from radrep.ops.selective_scan import cuda


def report() -> dict[str, tuple[str, str]]:
    """Run the command and return name -> (state, text)."""
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    names = ["selective scan", "CPU backbone"]
    lines = {}
    for line in result.stdout.splitlines():
        state, rest = line.split(maxsplit=1)
        name = next((known for known in names if rest.startswith(known)), rest.split()[0])
        lines[name] = (state, rest.removeprefix(name).strip())
    return lines


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Make a script the only java on the PATH, or take every java away."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def install(script: str) -> None:
        file = tmp_path / "java"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    return install


def test_installed_packages_are_listed_with_their_versions():
    lines = report()
    for package in doctor.REQUIRED:
        assert lines[package] == ("ok", metadata.version(package))


def test_missing_packages_are_listed_with_the_pip_command(monkeypatch):
    def nothing_is_installed(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", nothing_is_installed)
    lines = report()
    assert lines["timm"] == ("missing", "required: pip install timm")
    assert lines["mamba-ssm"][0] == "missing"
    assert lines["mamba-ssm"][1].endswith(cuda.INSTALL)
    clinical = "optional, for eval --clinical: pip install 'radrep[clinical]'"
    assert lines["radeval"] == ("missing", clinical)


def test_the_selective_scan_is_the_one_that_the_models_would_take():
    import torch

    from radrep.ops.selective_scan import select_backend

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    choice = select_backend(device, torch.float32)
    assert report()["selective scan"] == ("ok", f"{choice.name}: {choice.reason}")


def test_device_disk_and_packaged_weights_are_listed():
    lines = report()
    assert f"{os.cpu_count()} CPU cores" in lines["device"][1]
    assert lines["disk"][1].endswith(f"GiB free in {Path.cwd()}")
    assert lines["CPU backbone"][0] == "ok"
    assert lines["bf16"] in (
        ("ok", "native"),
        ("missing", "emulated on this cpu, slower than train.precision: fp32"),
        ("missing", "emulated on this cuda, slower than train.precision: fp32"),
    )


def test_gpus_are_counted_and_named_and_the_scan_is_theirs(monkeypatch):
    import torch

    from radrep.ops.selective_scan import select_backend

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    lines = report()
    assert lines["device"][1].startswith("2 x H100, ")
    assert lines["bf16"][0] == "missing"
    choice = select_backend(torch.device("cuda"), torch.float32)
    assert lines["selective scan"] == ("ok", f"{choice.name}: {choice.reason}")


@pytest.mark.parametrize(
    ("features", "native"),
    [
        ({"avx512bf16": True}, True),
        ({"amx-bf16": True, "avx512bf16": False}, True),
        ({"avx512f": True, "avx512bf16": False}, False),  # where torch emulates it
        ({}, False),
    ],
    ids=str,
)
def test_bf16_on_cpus_is_native_where_the_cpu_has_instructions(monkeypatch, features, native):
    import llvmlite.binding
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: features)
    assert report()["bf16"][0] == ("ok" if native else "missing")


def test_a_full_disk_is_pointed_out(monkeypatch):
    half_a_gib = SimpleNamespace(free=2**29)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: half_a_gib)
    assert report()["disk"][0] == "missing"
    assert "0.5 GiB free" in report()["disk"][1]


def test_java_is_shown_by_its_first_line(java):
    java("echo 'openjdk version \"99\"' >&2")
    assert report()["java"] == ("ok", 'openjdk version "99"')


def test_without_java_meteor_is_reported_as_skipped(java):
    state, text = report()["java"]
    assert state == "missing"
    assert text.startswith("METEOR is skipped without Java 8 or newer: apt install")


def test_the_java_stub_of_macos_counts_as_missing(java):
    java("echo 'The operation could not be completed' >&2; exit 1")
    assert report()["java"][0] == "missing"
    assert "does not run. METEOR is skipped" in report()["java"][1]


def test_a_torch_that_does_not_load_is_reported_and_the_rest_goes_on(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libgomp.so.1: cannot open')")
    done = subprocess.run(
        [sys.executable, "-m", "radrep", "doctor"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "torch does not load (libgomp.so.1: cannot open): reinstall it" in done.stdout
    assert "disk" in done.stdout
