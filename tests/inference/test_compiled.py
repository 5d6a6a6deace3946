"""radrep generate --compile: the same reports by a compiled backbone, or why there is none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.reporting.mixed_films import draw_films
from tests.training.test_emrrg import MODEL
from tests.whole_way import radrep, write_recipe


def reports_of(out: Path) -> dict[str, str]:
    lines = [
        line for path in out.glob("part-*.jsonl") for line in path.read_text().split("\n")[:-1]
    ]
    rows = map(json.loads, lines)
    return {row["study"]: row["report"] for row in rows}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's own
@pytest.mark.parametrize("method", ["greedy", "select"])
def test_a_compiled_backbone_writes_the_same_reports(
    method: str, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    compile_it = torch.compile

    def note(function: Any, *given: Any, **named: Any) -> Any:
        compiled.append(getattr(function, "__name__", ""))
        return compile_it(function, *given, **named)

    films = draw_films(tmp_path / "films", 5)
    words = ("generate", films, "--checkpoint", trained_run, "--method", method, "--out")
    assert radrep(*words, tmp_path / "plain").exit_code == 0
    assert not compiled
    monkeypatch.setattr(torch, "compile", note)
    result = radrep(*words, tmp_path / "compiled", "--compile")
    assert result.exit_code == 0, result.output
    assert {"_map", "stage_maps"} <= {*compiled}
    assert reports_of(tmp_path / "compiled") == reports_of(tmp_path / "plain") != {}
    mixed = radrep(*words, tmp_path / "compiled")
    assert mixed.exit_code == 2
    assert "compiled True, now False" in " ".join(mixed.stderr.split())


def test_without_a_compiler_the_error_says_what_is_missing(
    trained_run: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_nothing(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", compile_nothing)
    result = radrep("generate", films[0], "--checkpoint", trained_run, "--compile")
    assert result.exit_code == 2
    assert "It needs a C++ compiler such as g++" in " ".join(result.stderr.split())


def test_a_model_without_a_convolutional_backbone_is_not_compiled(
    phantoms: Path, films: list[Path], tmp_path: Path
) -> None:
    decode = {"method": "greedy", "max_new_tokens": 2, "select": None}
    recipe = write_recipe(tmp_path, phantoms, train={"epochs": 1}, decode=decode)
    changed = yaml.safe_load(recipe.read_text()) | {"model": MODEL}
    recipe.write_text(yaml.safe_dump(changed))
    assert radrep("train", recipe).exit_code == 0
    result = radrep("generate", films[0], "--checkpoint", tmp_path / "run", "--compile")
    assert result.exit_code == 2
    assert "only convolutional backbones are compiled" in " ".join(result.stderr.split())
