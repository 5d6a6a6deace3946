"""The whole way on phantoms: a short one that must run, and the real one that must see."""

import re
from pathlib import Path

import pytest

from tests.whole_way import TINY, radrep


@pytest.mark.slow
def test_demo_goes_the_whole_way_and_states_what_is_next(tmp_path: Path) -> None:
    model = TINY["model"]
    small = [
        "data.image_size=64",
        "train.epochs=1",
        "model.backbone={name: test_resnet.r160_in1k, weights: none, frozen: true}",
        f"model.transformer={model['transformer']}",
        f"model.memory={model['memory']}",
    ]
    words = [word for change in small for word in ("--set", change)]
    result = radrep("demo", "--out", tmp_path / "demo", "--num-studies", 60, *words)
    assert result.exit_code == 0, result.output
    for text in ("named rightly, with side", "shuffled control", "nearest neighbour", "selection",
                 "radrep generate", "radrep prepare iu", "protocol published"):  # fmt: skip
        assert text in result.stdout
    assert (tmp_path / "demo/run/scores-test.json").is_file()
    again = radrep("demo", "--out", tmp_path / "demo")
    assert again.exit_code == 2
    assert "exists already and is not overwritten" in again.stderr


@pytest.mark.slow
def test_the_demo_model_sees(tmp_path: Path) -> None:
    """Findings and sides on held-out phantoms: F1 of 0.8, and chance in the shuffled control."""
    result = radrep("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    table = result.stdout.split("phantoms it never saw:")[1].split("Written for")[0]
    found = dict(re.findall(r"^(\S.*\S)\s+([0-9.]+)$", table, re.MULTILINE))
    f1 = {name: float(value) for name, value in found.items()}
    assert f1["model"] >= 0.8
    # Each of ten pairs is there in about 12 % of the studies: so is a guess that does not look.
    for name in ("shuffled control", "blank-image control", "constant, best cider"):
        assert f1[name] <= 0.2, name
