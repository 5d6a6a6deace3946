"""Golden files: tensors of the public reference implementation, with sizes and tolerances."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from radrep.weights.public_names import Rules, load_public

OUTPUTS = "max|d| <= 1e-4 * max(1, max|y|)"
GRADIENTS = "max|d| <= 1e-3 * max|g|"


class Golden:
    """One golden file: sizes, tensors, weights."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self.sizes: dict[str, Any] = {k: json.loads(v) for k, v in file.metadata().items()}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.weights = {
            key.removeprefix("weights."): value
            for key, value in tensors.items()
            if key.startswith("weights.")
        }
        self.tensors = {k: v for k, v in tensors.items() if not k.startswith("weights.")}
        assert self.sizes["tolerance_outputs"] == OUTPUTS
        assert self.sizes["tolerance_gradients"] == GRADIENTS

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


def golden_files(folder: Path, kind: str) -> list[Golden]:
    paths = sorted(folder.glob(f"{kind}*.safetensors"))
    assert paths, f"{folder} has no golden file of the kind {kind}"
    return [Golden(path) for path in paths]


def load_published(module: nn.Module, weights: dict[str, Tensor], rules: Rules) -> None:
    """Load public weights, which must be all that the module has."""
    report = load_public(module, weights, rules)
    assert (report.missing, report.unexpected) == ((), ())


def assert_output(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    bound = 1e-4 * max(1.0, expected.abs().max().item())
    assert (actual - expected).abs().max().item() <= bound


def assert_gradient(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max().item() <= 1e-3 * expected.abs().max().item()
