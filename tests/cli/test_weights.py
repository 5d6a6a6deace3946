"""radrep import, export and merge: what they say, and that they end well."""

import re
from pathlib import Path

import pytest
import torch

from radrep.models.xray_mamba import make_xray_mamba
from radrep.weights.import_public import KINDS
from radrep.weights.public_names import XRAY_MAMBA_EXPORT, rename
from tests.whole_way import radrep


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder as a file of stage 2, with a tensor that nobody knows."""
    public, _ = rename(make_xray_mamba("tiny", image_size=32).state_dict(), XRAY_MAMBA_EXPORT)
    patches = public["patch_embed.proj.weight"]
    public["patch_embed.proj.weight"] = patches.unflatten(1, (3, 16, 16))
    state = {f"visual_encoder.{name}": tensor for name, tensor in public.items()}
    state |= {f"text_encoder.layer.{i}.weight": torch.ones(1) for i in range(5)}
    state |= {"logit_scale": torch.ones([]), "visual_encoder.gamma": torch.ones(1)}
    path = tmp_path_factory.mktemp("published") / "x.pth"
    torch.save({"model": state}, path)
    return path


def test_import_reports_every_tensor(published: Path, tmp_path: Path) -> None:
    result = radrep("import", published, "--format", "xray-mamba-tiny", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "mapped      486 tensors" in lines
    assert "  ... and 483 more (--verbose)" in lines
    assert "missing     0 tensors" in lines
    assert "unexpected  1 tensors: unknown, not used" in lines
    assert "  visual_encoder.gamma" in lines
    assert "ignored     5 tensors: of the text tower" in lines
    assert "ignored     1 tensors: of the head that compares the towers" in lines
    assert f"Train on it with:  --set model.encoder.weights={tmp_path / 'out'}" in lines


def test_import_names_every_tensor_when_asked(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = radrep("import", published, "--format", "xray-mamba-tiny", "--out", out, "--verbose")
    names = [line for line in result.stdout.splitlines() if line.startswith("  ")]
    assert len(names) == 486 + 1 + 5 + 1
    assert "  visual_encoder.cls_token -> encoder.class_token" in names
    assert "more" not in result.stdout


def test_export_gives_back_what_was_imported(published: Path, tmp_path: Path) -> None:
    radrep("import", published, "--format", "xray-mamba-tiny", "--out", tmp_path / "out")
    file = tmp_path / "encoder.safetensors"
    result = radrep("export", tmp_path / "out", "--out", file)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(rf"{file}: 486 tensors, [\d,]+ elements\n", result.stdout)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("import", "nothing.pth", "--format", "emrrg2", "--out", "new"),
            "--format must be one of",
        ),
        (("import", "nothing.pth", "--format", "xray-mamba-base", "--out", "new"), "not found"),
        (("export", "nothing", "--out", "x.safetensors"), "neither a run nor a checkpoint"),
        (("export", "me/chest", "--out", "x.safetensors"), "hf download me/chest --local-dir"),
        (("export", "nothing", "--out", "x.safetensors", "--all-learned"), "goes with --adapters"),
        (("merge", "nothing", "--out", "new"), "neither a run nor a checkpoint"),
    ],
)
def test_mistakes_are_one_red_block(
    words: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = radrep(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert not list(tmp_path.iterdir())


def test_merge_refuses_a_model_without_adapters(trained_run: Path, tmp_path: Path) -> None:
    result = radrep("merge", trained_run, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "has no low-rank adapters" in result.stderr


@pytest.mark.parametrize("command", ["import", "export", "merge"])
def test_every_command_shows_an_example(command: str) -> None:
    assert f"Example:  radrep {command} " in radrep(command, "--help").stdout


def test_the_help_names_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = radrep("import", "--help").stdout
    for kind in KINDS:
        assert kind in shown
