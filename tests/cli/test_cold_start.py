"""What one report costs beside the work: the libraries that are imported for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.whole_way import TINY, radrep, write_recipe

# Seconds each, and none is needed to write a report of CSR-LMCA behind its EfficientNet-Lite.
HEAVY = {
    "timm", "torchvision", "torch._dynamo", "torch._inductor", "sympy", "transformers",
    "accelerate", "datasets", "sklearn", "pandas", "matplotlib", "pydicom", "huggingface_hub",
}  # fmt: skip


@pytest.mark.slow
def test_a_report_of_csr_lmca_imports_what_the_model_needs(
    tmp_path: Path, phantoms: Path, films: list[Path]
) -> None:
    backbone = {"name": "tf_efficientnet_lite0", "weights": "none", "frozen": True}
    decode = {"method": "select", "edit": {}}
    recipe = write_recipe(
        tmp_path,
        phantoms,
        model=TINY["model"] | {"backbone": backbone},
        data=TINY["data"] | {"random_crop": False, "prepared": str(phantoms)},
        train={"epochs": 1},
        decode=decode,
    )
    assert radrep("train", recipe).exit_code == 0
    command = ["generate", films[0], "--checkpoint", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "radrep", *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.stdout.strip()
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in times}
    assert "torch" in imported
    assert not HEAVY & imported
