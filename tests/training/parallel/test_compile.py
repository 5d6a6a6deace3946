"""parallel.compile: the losses and checkpoints of the plain run, or an error before training."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor, nn

from radrep.training.parallel.blocks import compile_blocks
from tests.training import test_emrrg
from tests.training.parallel.test_blocks import csr_lmca, emrrg
from tests.training.parallel.test_processes import agree, curve
from tests.whole_way import radrep, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # torch's own warnings


@pytest.mark.parametrize("make", [csr_lmca, emrrg])
def test_compiled_blocks_give_the_same_gradients(make: Any) -> None:
    found: list[dict[str, Tensor]] = []
    for compiled in (False, True):
        model, batch = make(again=False)
        names = list(model.state_dict())
        if compiled:
            compile_blocks(model)
        assert list(model.state_dict()) == names
        model.train()
        for part in model.modules():
            if isinstance(part, nn.Dropout):  # torch draws other numbers where it compiles
                part.p = 0.0
        torch.manual_seed(3)
        loss = model.loss(batch)["loss"]
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append(grads | {"loss": loss.detach()})
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def write_csr_lmca(folder: Path, prepared: Path) -> Path:
    return write_recipe(folder, prepared, train={"epochs": 1})


def write_emrrg(folder: Path, prepared: Path) -> Path:
    path = test_emrrg.write(folder, prepared)
    recipe = yaml.safe_load(path.read_text())
    recipe["model"]["lora"]["dropout"] = 0.0
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("write", [write_csr_lmca, write_emrrg])
def test_compiled_and_plain_runs_go_on_with_one_another(
    tmp_path: Path,
    phantoms: Path,
    write: Callable[[Path, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One epoch each way and one the other way, beside two plain ones.

    Graphs run here as they are: a C++ compiler, as in the test of the gradients, takes minutes.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    curves, tensors = [], []
    for name, first, second in (("aa", False, False), ("ab", True, False), ("ba", False, True)):
        (tmp_path / name).mkdir()
        recipe = write(tmp_path / name, phantoms)
        run = tmp_path / name / "run"
        result = radrep("train", recipe, "--set", f"parallel.compile={first}".lower())
        assert result.exit_code == 0, result.output
        with safe_open(run / "best/weights.safetensors", "pt") as weights:
            tensors.append(sorted(weights.keys()))
        changes = ("train.epochs=2", f"parallel.compile={second}".lower())
        words = [word for change in changes for word in ("--set", change)]
        result = radrep("train", run, "--resume", *words)
        assert result.exit_code == 0, result.output
        curves.append(curve(run))
    assert tensors[0] == tensors[1] == tensors[2]
    agree(curves[1], curves[0])
    agree(curves[2], curves[0])


def test_without_a_compiler_nothing_is_trained(tmp_path: Path, phantoms: Path) -> None:
    recipe = write_recipe(tmp_path, phantoms, parallel={"compile": True})
    missing = {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "c")}
    done = subprocess.run(
        [sys.executable, "-m", "radrep", "train", str(recipe)],
        env=os.environ | missing,
        capture_output=True,
        text=True,
    )
    text = " ".join(done.stderr.split())
    assert done.returncode == 2, text
    assert "parallel.compile" in text
    assert "C++ compiler such as g++" in text
    assert "no-compiler" in text
    assert not (tmp_path / "run").exists()
