"""The wheel holds every module of the package, the recipes and the licence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LICENSE = ".github/LICENSE"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The files of the wheel, built from a copy so that the checkout stays clean."""
    pytest.importorskip("setuptools", reason="the wheel is built with setuptools")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("radrep", "recipes"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", LICENSE):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    setup = "from setuptools import setup; setup()"
    command = [sys.executable, "-c", setup, "-q", "bdist_wheel", "--dist-dir", str(source)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    shutil.unpack_archive(wheel, target, "zip")
    return target


def test_every_module_is_installed(built):
    def modules(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*.py")}

    assert modules(built / "radrep") == modules(ROOT / "radrep")
    for name in ("py.typed", "viz/html/page.html"):
        assert (built / "radrep" / name).is_file()


def test_an_installed_radrep_finds_the_recipes_by_name(built, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "radrep", "recipes", "copy", "demo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(built)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "demo.yaml").read_text() == (ROOT / "recipes" / "demo.yaml").read_text()
    assert done.stderr == ""


def test_the_licence_and_its_text_are_in_the_wheel(built):
    (info,) = built.glob("*.dist-info")
    assert "License-Expression: Apache-2.0\n" in (info / "METADATA").read_text()
    text = (info / "licenses" / LICENSE).read_text()
    assert text == (ROOT / LICENSE).read_text()
    assert "Apache License\n                           Version 2.0" in text
