"""The house holds: imports go one way, and nothing heavy comes in by the front door."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules_after(statement: str) -> set[str]:
    """Top-level names of what is loaded once a fresh Python has run the statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stdout)}


def test_imports_go_one_way():
    linter = Path(sys.executable).with_name("lint-imports")
    assert linter.is_file(), "import-linter is missing: pip install -e '.[dev]'"
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_importing_radrep_imports_no_torch():
    assert not modules_after("import radrep") & {"torch", "numba", "numpy", "pydantic", "typer"}


@pytest.mark.parametrize("module", ["radrep.cli", "radrep.progress", "radrep.recipe.load"])
def test_what_the_terminal_needs_at_once_imports_no_torch(module):
    assert not modules_after(f"import {module}") & {"torch", "numba", "timm", "accelerate"}
