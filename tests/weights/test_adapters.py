"""Adapters folded in or taken out of a checkpoint, and encoders under their public names."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from radrep.build import build_model, build_tokenizer
from radrep.errors import CheckpointError, RadrepError
from radrep.inference.generator import ReportGenerator
from radrep.models.emrrg import Emrrg
from radrep.models.xray_mamba import add_partial_lora, make_xray_mamba
from radrep.modules.low_rank import LowRankUpdate
from radrep.recipe.load import change_section, load_recipe
from radrep.saliency.masked_split import read_split
from radrep.weights.adapters import (
    adapter_state,
    export_adapters,
    export_encoder,
    merge_adapters,
    merge_checkpoint,
)
from radrep.weights.checkpoint import load_checkpoint, save_checkpoint
from radrep.weights.folds import learned_reports_of
from radrep.weights.import_public import import_public
from radrep.weights.pretrained import load_encoder, load_pretrained
from radrep.weights.run_folder import WEIGHTS
from tests.whole_way import radrep, write_recipe

MODEL: dict[str, Any] = {
    "name": "emrrg",
    "encoder": {"size": "tiny", "drop_path": 0.0},
    "language_model": {"name": "tiny:llama", "precision": "fp32"},
}


def write_checkpoint(folder: Path, prepared: Path, draw: bool = True, **changes: Any) -> Path:
    """A checkpoint whose adapters have learned much (if drawn anew), and the rest nothing."""
    recipe_file = write_recipe(folder, prepared)
    typed = yaml.safe_load(recipe_file.read_text())
    typed["model"] = MODEL | changes
    recipe_file.write_text(yaml.safe_dump(typed))
    recipe = load_recipe(str(recipe_file))
    tokenizer = build_tokenizer(recipe.data, read_split(recipe.data, "train"))
    torch.manual_seed(0)
    model = build_model(recipe, tokenizer.vocabulary)
    load_pretrained(model, recipe)
    for part in model.modules():
        if draw and isinstance(part, LowRankUpdate):
            torch.nn.init.normal_(part.up, std=0.3)
    out = folder / "checkpoint"
    save_checkpoint(
        out, model=model, recipe=recipe, tokenizer=tokenizer, prepared_size=64, training={}
    )
    return out


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("adapted"), phantoms, lora={"target": "X", "scale": 0.5}
    )


@pytest.mark.parametrize(
    "lora", [{"target": "X"}, {"target": "x_proj", "per_direction": False}], ids=["X", "shared"]
)
def test_a_merged_checkpoint_writes_equal_reports(
    lora: dict[str, Any], phantoms: Path, films: list[Path], tmp_path: Path
) -> None:
    checkpoint, out = write_checkpoint(tmp_path, phantoms, lora=lora), tmp_path / "merged"
    merge_checkpoint(checkpoint, out)
    before, after = load_checkpoint(checkpoint), load_checkpoint(out)
    assert isinstance(before.model, Emrrg)
    assert isinstance(after.model, Emrrg)
    assert after.recipe.model.name == "emrrg"
    assert after.recipe.model.train_encoder == "trained"
    assert after.recipe.data == before.recipe.data
    assert (after.tokenizer, after.prepared_size) == (before.tokenizer, 64)
    assert not any("adapters" in name for name in after.model.state_dict())
    assert all(parameter.requires_grad for parameter in after.model.encoder.parameters())
    images = torch.randn(2, 3, 64, 64)
    tokens = before.model.encoder(images)
    torch.testing.assert_close(after.model.encoder(images), tokens, atol=1e-4, rtol=1e-4)
    bare = make_xray_mamba("tiny", image_size=64).eval()
    names = bare.state_dict().keys()
    bare.load_state_dict({k: v for k, v in before.model.encoder.state_dict().items() if k in names})
    assert (bare(images) - tokens).abs().max() > 0.01, "adapters without effect prove nothing"
    writers = ReportGenerator(checkpoint), ReportGenerator(out)
    for film in films[:2]:
        assert writers[0].write(film).text == writers[1].write(film).text


def test_merging_without_adapters_or_onto_something_is_refused(
    adapted: Path, phantoms: Path, tmp_path: Path
) -> None:
    trained = write_checkpoint(tmp_path, phantoms, train_encoder="trained")
    with pytest.raises(CheckpointError, match="has no low-rank adapters"):
        merge_checkpoint(trained, tmp_path / "merged")
    before = {file.name: file.read_bytes() for file in trained.iterdir()}
    with pytest.raises(RadrepError, match="checkpoint exists already"):
        merge_checkpoint(adapted, trained)
    assert {file.name: file.read_bytes() for file in trained.iterdir()} == before


def test_adapters_alone_are_one_small_file(adapted: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "adapters.safetensors"
    exported = export_adapters(adapted, out)
    state = load_file(out)
    assert exported.num_elements == sum(t.numel() for t in state.values()) == 2 * 192 * 16 * 12
    assert exported.num_tensors == len(state) == 2 * 12
    with safe_open(out, "pt") as file:
        about = file.metadata()
        assert len(about.pop("base_sha256")) == 64
        assert about.pop("learned").startswith("phantom ")
        assert about == {
            "image_size": "64",
            "patch_size": "16",
            "base": "none",
            "size": "tiny",
            "target": "X",
            "rank": "16",
            "scale": "0.5",
            "per_direction": "true",
        }
    whole = load_file(adapted / "weights.safetensors")
    for name, tensor in state.items():
        assert ".adapters.X." in name
        assert torch.equal(tensor, whole[name])
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("target", "count"), [("X", 294_912), ("in_proj", 442_368), ("x_proj", 651_264)]
)
def test_adapters_of_the_base_size_are_as_many_as_published(target: str, count: int) -> None:
    with torch.device("meta"):
        encoder = make_xray_mamba("base")
        add_partial_lora(encoder, target, rank=16)
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {"projector.0.weight": torch.ones(3)}
    assert sum(tensor.numel() for tensor in adapter_state(state).values()) == count


def test_all_that_was_learned_comes_with_the_adapters(phantoms: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, phantoms, hybrid={"every_n_layers": 2})
    export_adapters(checkpoint, tmp_path / "all.safetensors", all_learned=True)
    export_adapters(checkpoint, tmp_path / "adapters.safetensors")
    state = load_file(tmp_path / "all.safetensors")
    adapters = load_file(tmp_path / "adapters.safetensors")
    others = state.keys() - adapters.keys()
    assert adapters.keys() < state.keys()
    assert {"projector.0.weight", "projector.1.bias"} < others
    assert {name for name in others if "cross" in name} == others - {
        f"projector.{i}.{part}" for i in range(2) for part in ("weight", "bias")
    }


def test_a_model_starts_from_exported_adapters(
    adapted: Path, phantoms: Path, tmp_path: Path
) -> None:
    file = tmp_path / "adapters.safetensors"
    export_adapters(adapted, file)
    recipe = load_checkpoint(adapted).recipe
    lora = {"target": "X", "scale": 0.5, "weights": str(file)}
    started = write_checkpoint(tmp_path, phantoms, draw=False, lora=lora)
    images = torch.randn(2, 3, 64, 64)
    wanted, found = (load_checkpoint(folder).model for folder in (adapted, started))
    assert isinstance(wanted, Emrrg)
    assert isinstance(found, Emrrg)
    torch.testing.assert_close(found.encoder(images), wanted.encoder(images))

    def refused(match: str, **changes: Any) -> None:
        other = recipe.model_dump()["model"] | {"lora": lora | changes}
        changed = change_section(recipe, {"model": other}, title="test")
        model = build_model(changed, ("<unk>",))
        with pytest.raises(CheckpointError, match=match):
            load_pretrained(model, changed)

    torch.manual_seed(0)
    refused(r"model\.lora\.weights.*other adapters", target="Z")
    torch.manual_seed(0)
    refused(r"trained with the scale 0\.5 and model\.lora\.scale is 1\.0", scale=1.0)
    refused(r"another encoder than this one: theirs was model\.encoder\.weights: none")
    unknown = tmp_path / "unknown.safetensors"
    save_file(load_file(file), unknown)
    refused("was not written by radrep export --adapters", weights=str(unknown))


def test_adapters_are_folded_into_the_encoder_they_were_trained_on(
    phantoms: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    base = tmp_path / "base"
    base.mkdir()
    encoder = make_xray_mamba("tiny", image_size=32)  # at 64 pixels below
    save_file({f"encoder.{n}": t for n, t in encoder.state_dict().items()}, base / WEIGHTS)
    section = {"size": "tiny", "drop_path": 0.0, "weights": str(base)}
    lora = {"target": "x_proj", "rank": 3, "scale": 0.5, "per_direction": False}
    checkpoint = write_checkpoint(tmp_path, phantoms, encoder=section, lora=lora)
    file, out = tmp_path / "adapters.safetensors", tmp_path / "merged"
    export_adapters(checkpoint, file, all_learned=True)
    result = radrep("merge", base, "--adapters", file, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"model.encoder.weights={out}" in result.stdout
    assert learned_reports_of(file, phantoms)
    assert learned_reports_of(out, phantoms)
    merged = make_xray_mamba("tiny", image_size=64).eval()
    load_encoder(merged, out)
    adapted = load_checkpoint(checkpoint).model
    assert isinstance(adapted, Emrrg)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(merged(images), adapted.encoder(images), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        encoder.class_token += 1
    (base / WEIGHTS).unlink()
    save_file({f"encoder.{n}": t for n, t in encoder.state_dict().items()}, base / WEIGHTS)
    with pytest.raises(CheckpointError, match="were trained on another encoder"):
        merge_adapters(file, base, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(RadrepError, match="merged exists already"):
        merge_adapters(file, base, out)


def test_an_encoder_exported_and_imported_is_the_same(phantoms: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, phantoms, train_encoder="trained")
    file = tmp_path / "encoder.safetensors"
    export_encoder(checkpoint, file)
    (tmp_path / "other").touch()
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode
    public = load_file(file)
    assert public["visual_encoder.patch_embed.proj.weight"].shape == (192, 3, 16, 16)
    assert public["visual_encoder.layers.11.mixer.A_c_b_log"].shape == (192, 16)
    assert len(public) == 40 * 12 + 6
    result = import_public(file, "xray-mamba-tiny", out=tmp_path / "imported")
    keys = result.keys
    assert (keys.missing, keys.unexpected, dict(keys.ignored)) == ((), (), {})
    back = load_file(tmp_path / "imported/weights.safetensors")
    whole = load_file(checkpoint / "weights.safetensors")
    assert back.keys() == {name for name in whole if name.startswith("encoder.")}
    assert all(torch.equal(back[name], whole[name]) for name in back)
    again = tmp_path / "again.safetensors"
    export_encoder(tmp_path / "imported", again)
    assert again.read_bytes() == file.read_bytes()
    load_encoder(make_xray_mamba("tiny", image_size=64), tmp_path / "imported")


def test_exports_that_cannot_be_are_refused(adapted: Path, phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="merge them first: radrep merge"):
        export_encoder(adapted, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors"):
        export_adapters(adapted, tmp_path / "x.pth")
    (tmp_path / "there.safetensors").write_text("kept")
    for export in (export_adapters, export_encoder):
        with pytest.raises(RadrepError, match="exists already"):
            export(adapted, tmp_path / "there.safetensors")
    assert (tmp_path / "there.safetensors").read_text() == "kept"
    with pytest.raises(CheckpointError, match="has no low-rank adapters"):
        export_adapters(
            write_checkpoint(tmp_path, phantoms, train_encoder="trained"),
            tmp_path / "x.safetensors",
        )
    assert not list(tmp_path.glob("*x.safetensors*"))
