"""Public checkpoints, written here in their layouts at small sizes, and what they become."""

import argparse
import builtins
import contextlib
import importlib
import json
import os
import platform
import shlex
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from radrep.build import build_model, build_tokenizer
from radrep.data.batch import Batch
from radrep.errors import CheckpointError, DataError, RadrepError, RecipeError
from radrep.models.csr_lmca import CsrLmca
from radrep.models.emrrg import IMAGE, PROMPT, Emrrg
from radrep.models.xray_mamba import (
    XRAY_MAMBA_SIZES,
    make_stage_one_encoder,
    make_xray_mamba,
)
from radrep.modules.language_model import load_language_model
from radrep.recipe.load import load_recipe
from radrep.saliency.masked_split import read_split
from radrep.weights.checkpoint import load_checkpoint
from radrep.weights.import_public import import_public, read_public
from radrep.weights.pretrained import load_encoder
from radrep.weights.public_names import CSR_LMCA, XRAY_MAMBA_EXPORT, rename
from radrep.weights.run_folder import WEIGHTS
from tests.golden import Golden, assert_output, golden_files
from tests.whole_way import radrep, write_recipe

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
EMRRG_MODEL: dict[str, Any] = {
    "name": "emrrg",
    "encoder": {"size": "tiny", "drop_path": 0.0},
    "language_model": {"name": "tiny:llama", "precision": "fp32"},
    "hybrid": {"every_n_layers": 2},
}


def save(path: Path, content: object, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


class Reduced:
    """Pickles as whatever call it is given."""

    def __init__(self, *reduced: object) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


# Reading


@FORMATS
def test_tensors_are_read_as_torch_reads_them(zipped: bool, tmp_path: Path) -> None:
    shared = torch.arange(12.0).reshape(3, 4)
    state = {
        "whole": shared,
        "view": shared[1:, ::2],
        "turned": shared.T,
        "parameter": nn.Parameter(torch.randn(2)),
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
    }
    read = read_public(save(tmp_path / "x.pth", {"model": state}, zipped=zipped))
    assert list(read) == list(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
    assert read["view"].untyped_storage().data_ptr() == read["whole"].untyped_storage().data_ptr()


def test_what_a_file_would_run_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, folder, name = tmp_path / "trace", tmp_path / "modules", "planted"
    folder.mkdir()
    (folder / f"{name}.py").write_text(
        f"open({str(trace)!r}, 'a').close()\nclass Thing(dict): ...\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    planted = importlib.import_module(name)
    content = {
        "model": {"x": torch.ones(2)},
        "a": Reduced(subprocess.getoutput, (f"touch {trace}",)),
        "b": Reduced(builtins.eval, (f"open({str(trace)!r}, 'a').close()",)),
        "c": Reduced(getattr, (Reduced(builtins.__import__, ("os",)), "system")),
        "d": planted.Thing(),
        "e": Reduced(planted.Thing, (), {"a": 1}, None, iter([("k", 1)])),
    }
    path = save(tmp_path / "x.pth", content)
    trace.unlink()
    del sys.modules[name]
    assert torch.equal(read_public(path)["x"], torch.ones(2))
    assert not trace.exists()
    assert name not in sys.modules
    torch.load(path, weights_only=False)
    assert trace.exists(), "a file that does no harm proves nothing"


@FORMATS
def test_a_file_that_calls_the_system_is_refused(zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = {"model": {"x": torch.ones(2)}, "a": Reduced(os.system, (f"touch {trace}",))}
    with pytest.raises(CheckpointError, match=r"posix\.system" if zipped else "before PyTorch 1.6"):
        read_public(save(tmp_path / "x.pth", content, zipped=zipped))
    assert not trace.exists()


def test_a_stand_in_in_place_of_weights_is_no_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", Reduced(platform.node, ()))
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_public(path)


def test_settings_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    content = {
        "model": {"x": torch.ones(2)},
        "config": argparse.Namespace(lr=1e-4, path=Path("a"), names={"b"}),
        "history": defaultdict(list, loss=[1.0, 0.5]),
        "best": np.float64(0.17),
        "random": np.random.default_rng(0).integers(0, 9, 3),
        "epoch": 3,
    }
    assert list(read_public(save(tmp_path / "x.pth", content))) == ["x"]


def test_an_old_file_with_settings_is_converted_by_the_command_in_its_error(tmp_path: Path) -> None:
    content = {"model": {"x": torch.ones(2)}, "config": argparse.Namespace(lr=1e-4)}
    path = save(tmp_path / "it's old.pth", content, zipped=False)
    with pytest.raises(CheckpointError, match="format from before PyTorch 1.6") as refused:
        read_public(path)
    code = shlex.split(str(refused.value).partition("convert it with: ")[2].rstrip(")"))[2]
    with contextlib.chdir(tmp_path):
        exec(code)  # no second process: the import of torch takes seconds
    assert list(read_public(tmp_path / "converted.pth")) == ["x"]


@pytest.mark.parametrize("under", ["model", "state_dict", None])
def test_weights_are_found_where_they_lie(under: str | None, tmp_path: Path) -> None:
    state = nn.Linear(2, 2).state_dict()
    content = state if under is None else {"epoch": 1, under: state, "optimizer": {"lr": 1.0}}
    assert list(read_public(save(tmp_path / "x.pth", content))) == ["weight", "bias"]


def test_weights_of_several_devices_lose_their_prefix(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", {"module.a": torch.ones(1), "module.b": torch.ones(1)})
    assert list(read_public(path)) == ["a", "b"]


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    assert list(read_public(tmp_path / "x.safetensors")) == ["x"]


@FORMATS
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_told(zipped: bool, share: float, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", {"model": {"x": torch.ones(5000)}}, zipped=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"x\.pth is broken or cut off"):
        read_public(path)


def test_a_zip_file_with_changed_numbers_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", {"model": {"x": torch.full((5000,), 2.0)}})
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"\0\0\0\x40" * 100) + 40] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="broken"):
        read_public(path)


@pytest.mark.parametrize("name", ["x.txt", "x.zip", "x.safetensors"])
def test_what_is_no_checkpoint_is_told(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "x.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/code.py", "1")
    else:
        path.write_text("some text, long enough to have a header of eight bytes")
    with pytest.raises(CheckpointError, match=rf"{name} is (not a checkpoint|broken)"):
        read_public(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing not found"):
        read_public(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is a folder, not a file"):
        read_public(tmp_path)


# The X-ray Mamba


def both_towers(encoder: dict[str, Tensor]) -> dict[str, Any]:
    """What stage 2 saves, around the public names of an encoder."""
    state = {f"visual_encoder.{name}": tensor for name, tensor in encoder.items()}
    state |= {
        "text_encoder.embeddings.word_embeddings.weight": torch.ones(3, 2),
        "text_encoder.pooler.dense.bias": torch.ones(2),
        "vision_proj.weight": torch.ones(2, 2),
        "text_proj.bias": torch.ones(2),
        "logit_scale": torch.ones([]),
    }
    return {"model": state, "config": argparse.Namespace(model="x"), "epoch": 50, "step": 1}


def public_encoder(image_size: int = 32) -> tuple[nn.Module, dict[str, Tensor]]:
    """A tiny encoder, and its weights under the public names."""
    torch.manual_seed(3)
    encoder = make_xray_mamba("tiny", image_size=image_size).eval()
    public, _ = rename(encoder.state_dict(), XRAY_MAMBA_EXPORT)
    patches = public["patch_embed.proj.weight"]
    public["patch_embed.proj.weight"] = patches.unflatten(1, (3, 16, 16))
    return encoder, public


def test_published_encoder_starts_ours_with_equal_outputs(
    golden_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, golden in enumerate(golden_files(golden_dir, "xray_mamba_encoder")):
        sizes = golden.sizes
        size = (sizes["dim"], sizes["depth"])
        monkeypatch.setitem(XRAY_MAMBA_SIZES, "base", size)
        path = save(tmp_path / f"{number}.pth", both_towers(golden.weights))
        out = tmp_path / f"out-{number}"
        result = import_public(path, "xray-mamba-base", out=out)
        assert len(result.keys.mapped) == len(golden.weights)
        assert result.keys.mapped["visual_encoder.pos_embed"] == "encoder.positions"
        assert (result.keys.missing, result.keys.unexpected) == ((), ())
        assert set(result.keys.ignored) == {
            name for name in both_towers({})["model"] if not name.startswith("visual_encoder")
        }
        encoder = make_xray_mamba(
            "base", image_size=sizes["image"], patch_size=sizes["patch"], drop_path=0.0
        ).eval()
        load_encoder(encoder, out)
        assert_output(encoder(golden["pixels"]), golden["tokens"])


def test_an_imported_encoder_says_where_it_is_from(tmp_path: Path) -> None:
    _, public = public_encoder()
    path = save(tmp_path / "x.pth", both_towers(public))
    import_public(path, "xray-mamba-tiny", out=tmp_path / "out")
    about = json.loads((tmp_path / "out/about.json").read_text())
    assert about["kind"] == "xray-mamba-tiny"
    assert about["file"] == "x.pth"
    assert len(about["sha256"]) == 64
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "about.json",
        "checksums.json",
        "weights.safetensors",
    ]


def test_an_unknown_tensor_is_reported(tmp_path: Path) -> None:
    _, public = public_encoder()
    public["layers.3.mixer.gamma"] = torch.ones(1)
    path = save(tmp_path / "x.pth", both_towers(public))
    result = import_public(path, "xray-mamba-tiny", out=tmp_path / "out")
    assert result.keys.unexpected == ("visual_encoder.layers.3.mixer.gamma",)


def test_an_encoder_with_a_hole_is_refused(tmp_path: Path) -> None:
    _, public = public_encoder()
    del public["layers.3.mixer.D_c_b"]
    path = save(tmp_path / "x.pth", both_towers(public))
    name = "layers.3.mixer.branches.columns_reversed.D"
    with pytest.raises(CheckpointError, match=f"1 tensors are missing, the first: {name}"):
        import_public(path, "xray-mamba-tiny", out=tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_an_encoder_of_another_size_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", both_towers(public_encoder()[1]))
    with pytest.raises(CheckpointError, match="768 wide and 12 blocks deep: it is 192 wide and 12"):
        import_public(path, "xray-mamba-base", out=tmp_path / "out")
    with pytest.raises(CheckpointError, match="it has no visual_encoder"):
        import_public(
            save(tmp_path / "y.pth", {"x": torch.ones(1)}),
            "xray-mamba-base",
            out=tmp_path / "out",
        )


def test_an_import_overwrites_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(RadrepError, match="out exists already"):
        import_public(tmp_path / "x.pth", "xray-mamba-tiny", out=out)
    with pytest.raises(CheckpointError, match="must be one of xray-mamba-nano"):
        import_public(tmp_path / "x.pth", "vim", out=tmp_path / "new")
    with pytest.raises(CheckpointError, match="--recipe and --set do not go with"):
        import_public(tmp_path / "x", "xray-mamba-tiny", out=tmp_path / "new", recipe="demo")


def test_a_file_of_stage_one_starts_four_directions(
    golden_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, golden in enumerate(golden_files(golden_dir, "autoregressive_pretraining")):
        sizes = golden.sizes
        size = (sizes["dim"], sizes["depth"])
        monkeypatch.setitem(XRAY_MAMBA_SIZES, "base", size)
        path = save(tmp_path / f"{number}.pth", {"model": golden.weights})
        out = tmp_path / f"out-{number}"
        result = import_public(path, "xray-mamba-base", out=out)
        assert (result.keys.missing, result.keys.unexpected) == ((), ())
        assert set(result.keys.ignored.values()) == {"of the decoder of stage 1"}
        assert {"ar_token", "enc2dec.weight"} < result.keys.ignored.keys()
        assert len(result.keys.mapped) + len(result.keys.ignored) == len(golden.weights)
        stage_one = make_stage_one_encoder(
            "base", image_size=sizes["image"], patch_size=sizes["patch"]
        ).eval()
        stage_one.load_state_dict(
            {n.removeprefix("encoder."): t for n, t in load_file(out / WEIGHTS).items()}
        )
        encoder = make_xray_mamba("base", image_size=2 * sizes["image"], patch_size=sizes["patch"])
        load_encoder(encoder, out)
        for direction in ("rows", "columns_reversed"):
            ours = encoder.layers[0].mixer.branches[direction].A_log  # type: ignore[index]
            assert torch.equal(ours, golden.weights["layers.0.mixer.A_log"])
        with pytest.raises(CheckpointError, match="it is .* wide and .* deep"):
            import_public(path, "xray-mamba-tiny", out=tmp_path / "other")


def test_an_encoder_of_a_report_model_says_why_its_adapters_stay_out(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", stage_three(public_encoder()[1]))
    result = import_public(path, "xray-mamba-tiny", out=tmp_path / "out")
    assert result.keys.unexpected == ()
    reasons = {
        name.split(".")[-3]: reason
        for name, reason in result.keys.ignored.items()
        if "lora" in name
    }
    assert "to the output of the mixer by mistake" in reasons["lora_X"]


# EMRRG


def write_emrrg(folder: Path, prepared: Path, **changes: Any) -> Path:
    recipe = write_recipe(folder, prepared)
    typed = yaml.safe_load(recipe.read_text())
    typed["model"] = EMRRG_MODEL | changes
    recipe.write_text(yaml.safe_dump(typed))
    return recipe


def stage_three(encoder: dict[str, Tensor], *, dim: int = 192) -> dict[str, Any]:
    """What stage 3 saves: what was trained of an encoder, projector, norm, the wrong adapters."""
    torch.manual_seed(5)
    width = build_width()
    state = {f"visual_encoder.{name}": tensor for name, tensor in encoder.items()}
    state |= {
        f"visual_encoder.layers.{i}.mixer.lora_X.adapter_{way}.weight": torch.randn(4, 4)
        for i in range(2)
        for way in ("down", "up")
    }
    state |= {
        "llama_proj.weight": torch.randn(width, dim),
        "llama_proj.bias": torch.randn(width),
        "layer_norm.weight": torch.randn(width),
        "layer_norm.bias": torch.randn(width),
    }
    return {"model": state, "config": argparse.Namespace(lora_X=True), "epoch": 1, "step": 2}


def build_width() -> int:
    config: Any = load_language_model("tiny:llama", cache_folder=Path()).model.config
    return int(config.hidden_size)


def test_a_stage_three_file_becomes_a_checkpoint_that_writes_reports(
    phantoms: Path, films: list[Path], tmp_path: Path
) -> None:
    encoder, public = public_encoder(image_size=64)
    path = save(tmp_path / "x.pth", stage_three(public))
    recipe = write_emrrg(tmp_path, phantoms)
    out = tmp_path / "out"
    result = import_public(path, "emrrg", recipe=str(recipe), out=out)
    assert set(result.keys.ignored.values()) == {
        "the released code adds it to the output of the mixer by mistake, where no low-rank "
        "update of the weights can be"
    }
    assert len(result.keys.ignored) == 4
    assert result.keys.unexpected == ()
    assert all(".adapters." in name for name in result.keys.missing)
    assert result.changed == {"model.hybrid": "null"}
    assert result.unprepared is None
    loaded = load_checkpoint(out)
    assert isinstance(loaded.model, Emrrg)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded.model.encoder(images), encoder(images))
    state = torch.load(path, weights_only=False)["model"]
    assert torch.equal(loaded.model.projector[0].weight, state["llama_proj.weight"])
    assert torch.equal(loaded.model.projector[1].bias, state["layer_norm.bias"])
    assert not (out / "training.pt").exists()
    written = radrep("generate", films[0], "--checkpoint", out)
    assert written.exit_code == 0, written.output


SHIPPED: dict[str, Any] = {
    "emrrg_iu_published": {"model.visual_tokens": "all", "model.hybrid": "null"},
    "emrrg_chexpert_plus_published": {"model.visual_tokens": "all", "model.hybrid": "null"},
    "mambaxray_iu": {},
    "mambaxray_mimic": {},
}


@pytest.mark.parametrize(
    ("recipe", "family"),
    [
        ("emrrg_iu_published", "llama"), ("emrrg_chexpert_plus_published", "qwen2"),
        ("mambaxray_iu", "qwen2"),
        ("mambaxray_mimic", "llama"),
    ],
)  # fmt: skip
def test_shipped_recipes_give_the_network_that_was_trained_without_any_data(
    recipe: str,
    family: str,
    tmp_path: Path,
    films: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder, public = public_encoder(image_size=224)
    content = stage_three(public)
    path = save(tmp_path / "x.pth", content)
    changes = [f"model.language_model.name=tiny:{family}", "model.language_model.precision=fp32"]
    changes += ["decode.min_new_tokens=0", "decode.max_new_tokens=4"]
    words = [word for change in changes for word in ("--set", change)]
    chosen = [] if recipe == "emrrg_iu_published" else ["--recipe", recipe]
    told = radrep("import", path, "--format", "emrrg", "--out", "out", *chosen, *words)
    assert told.exit_code == 0, told.output
    expected = SHIPPED[recipe] | {"model.encoder.size": "tiny"}
    if family == "qwen2":
        expected |= {"model.language_model.bos_token_id": "0"}
        expected |= {"model.language_model.eos_text": "</s>"}
    for key, value in expected.items():
        assert f"  {key}: {value}\n" in told.stdout
    assert told.stdout.count("  model.") == len(expected)
    assert "is not prepared" in told.stdout
    assert f"radrep generate IMAGE --checkpoint {Path('out')}" in told.stdout
    loaded = load_checkpoint(tmp_path / "out")
    model = loaded.model
    assert isinstance(model, Emrrg)
    assert (model.visual_tokens, model._context) == ("all", None)
    language = model.language
    report = "lungs are clear ."
    if family == "qwen2":
        assert language.bos_id == 0
        assert language.encode_report(report, 99) == language.encode(f"{report}</s>")
        assert loaded.codec.decode(language.encode(f"{report}</s> and so on")) == report
    else:
        assert (language.bos_id, language.eos_text) == (1, "")
    # The prompt by hand, of what is in the file.
    state, images = content["model"], torch.randn(1, 3, 224, 224)
    tokens = nn.functional.linear(
        encoder(images), state["llama_proj.weight"], state["llama_proj.bias"]
    )
    visual = nn.functional.layer_norm(
        tokens, tokens.shape[-1:], state["layer_norm.weight"], state["layer_norm.bias"]
    )
    words_of = model.language_model.get_input_embeddings()
    first, second = map(language.encode, PROMPT.split(IMAGE))
    before = words_of(torch.tensor([language.bos_id, *first]))
    after = words_of(torch.tensor(second))
    batch = Batch(ids=("a",), num_views=torch.tensor([1]), images=images)
    with torch.no_grad(), model._shown(batch) as prompt:
        torch.testing.assert_close(
            prompt.embedded, torch.cat([before, visual[0], after])[None], atol=1e-4, rtol=1e-4
        )
    if family == "qwen2" and recipe == "mambaxray_iu":
        fast = ["--method", "greedy", "--json"]
        written = radrep("generate", films[0], "--checkpoint", tmp_path / "out", *fast)
        assert written.exit_code == 0, written.output


def test_the_recipe_of_another_language_model_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", stage_three(public_encoder(image_size=224)[1]))
    content = torch.load(path, weights_only=False)
    for name in ("llama_proj.weight", "llama_proj.bias", "layer_norm.weight", "layer_norm.bias"):
        content["model"][name] = content["model"][name][:64]
    changes = ["model.language_model.name=tiny:llama"]
    with pytest.raises(CheckpointError, match=r"is \(64, 192\) and should be.*mambaxray_mimic"):
        import_public(save(path, content), "emrrg", overrides=changes, out=tmp_path / "out")


def test_a_frozen_encoder_comes_from_the_recipe(phantoms: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", stage_three({}))
    recipe = str(write_emrrg(tmp_path, phantoms))
    with pytest.raises(CheckpointError, match="trained with a frozen encoder, which it does not"):
        import_public(path, "emrrg", recipe=recipe, out=tmp_path / "out")
    encoder, public = public_encoder(image_size=64)
    towers = save(tmp_path / "towers.pth", both_towers(public))
    import_public(towers, "xray-mamba-tiny", out=tmp_path / "towers")
    changes = [f"model.encoder.weights={tmp_path / 'towers'}"]
    result = import_public(path, "emrrg", recipe=recipe, overrides=changes, out=tmp_path / "out")
    assert "encoder.positions" in result.keys.missing
    loaded = load_checkpoint(tmp_path / "out")
    assert isinstance(loaded.model, Emrrg)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded.model.encoder(images), encoder(images))


def test_stage_three_files_that_do_not_fit_are_refused(phantoms: Path, tmp_path: Path) -> None:
    _, public = public_encoder(image_size=64)
    recipe = str(write_emrrg(tmp_path, phantoms))

    def refused(content: dict[str, Any], match: str) -> None:
        path = save(tmp_path / "x.pth", content)
        with pytest.raises(CheckpointError, match=match):
            import_public(path, "emrrg", recipe=recipe, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused(both_towers(public), "it has no llama_proj.weight")
    refused(stage_three(public, dim=64), r"projector.0.weight is \(\d+, 64\) and should be")
    refused(stage_three({"pos_embed": public["pos_embed"]}), "tensors are missing, the first: enc")


# CSR-LMCA


POOLED: dict[str, Any] = {
    "backbone": {"name": "test_resnet.r160_in1k", "weights": "none"},
    "enhancer": {"mode": "pooled", "dim": 16, "num_layers": 2, "state_dim": 4, "pool_dim": 8},
    "memory": {"size": 16, "top_k": 4},
}


def write_csr_lmca(folder: Path, prepared: Path, golden_dir: Path) -> Path:
    """A recipe as deep as the golden files are."""
    layers = golden(golden_dir, "encoder_decoder").sizes["layers"]
    enhancer = POOLED["enhancer"] | {
        "num_layers": golden(golden_dir, "enhancer_pooled").sizes["layers"]
    }
    transformer = {"dim": 16, "num_layers": layers, "num_heads": 2, "ff_dim": 16}
    model = POOLED | {"enhancer": enhancer, "transformer": transformer}
    return write_recipe(folder, prepared, model=model)


def golden(golden_dir: Path, kind: str) -> Golden:
    return golden_files(golden_dir, kind)[0]


def public_csr_lmca(model: CsrLmca, golden_dir: Path) -> dict[str, Tensor]:
    """The weights of a model under the public names that the golden files have."""
    names = [f"encoder_decoder.{name}" for name in golden(golden_dir, "encoder_decoder").weights]
    enhancer = [*golden(golden_dir, "enhancer_pooled").weights]
    names += [
        f"{part}.{name}" for part in ("feature_enhancer", "enhanced_feats") for name in enhancer
    ]
    ours = model.state_dict()
    dummies = {name: torch.empty(0) for name in names}
    _, report = rename(dummies, CSR_LMCA)
    state = {}
    for name in names:
        fixed = name in report.ignored
        target = report.mapped.get(name, "")
        state[name] = torch.zeros(3) if fixed else ours[target].clone()
    children = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    for name, tensor in ours.items():
        if name.startswith("backbone.model."):
            child, _, rest = name.removeprefix("backbone.model.").partition(".")
            state[f"visual_extractor.model.{children[child]}.{rest}"] = tensor.clone()
    for name in (
        *("feature_enhancer.classifier.0.weight", "enhanced_feats.classifier.0.weight"),
        *("linear_1.weight", "linear_2.bias"),
    ):
        state[name] = torch.ones(2)
    return state


def published_csr_lmca(
    recipe: Path, golden_dir: Path, num_words: int
) -> tuple[CsrLmca, dict[str, Any]]:
    torch.manual_seed(7)
    model = build_model(load_recipe(str(recipe)), [str(word) for word in range(num_words)])
    assert isinstance(model, CsrLmca)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    content = {
        "epoch": 12,
        "state_dict": public_csr_lmca(model, golden_dir),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
        "lr_scheduler": {"last_epoch": 3},
        "monitor_best": 0.17,
        "step": 9,
    }
    return model, content


def count_words(phantoms: Path, recipe: Path) -> int:
    data = load_recipe(str(recipe)).data
    return len(build_tokenizer(data, read_split(data, "train")).vocabulary)


def test_a_csr_lmca_file_becomes_a_checkpoint_that_writes_reports(
    phantoms: Path, films: list[Path], golden_dir: Path, tmp_path: Path
) -> None:
    recipe = write_csr_lmca(tmp_path, phantoms, golden_dir)
    model, content = published_csr_lmca(recipe, golden_dir, count_words(phantoms, recipe))
    path, out = save(tmp_path / "x.pth", content), tmp_path / "out"
    result = import_public(path, "csr-lmca", recipe=str(recipe), out=out)
    assert (result.keys.missing, result.keys.unexpected) == ((), ())
    assert "linear_1.weight" in result.keys.ignored
    assert "enhanced_feats.classifier.0.weight" in result.keys.ignored
    loaded = load_file(out / "weights.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    written = radrep("generate", films[0], "--checkpoint", out)
    assert written.exit_code == 0, written.output


def test_csr_lmca_files_that_do_not_fit_are_refused(
    phantoms: Path, films: list[Path], golden_dir: Path, tmp_path: Path
) -> None:
    recipe = write_csr_lmca(tmp_path, phantoms, golden_dir)
    num_words = count_words(phantoms, recipe)

    def refused(content: dict[str, Any], match: str) -> None:
        path = save(tmp_path / "x.pth", content)
        with pytest.raises(CheckpointError, match=match):
            import_public(path, "csr-lmca", recipe=str(recipe), out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    _, content = published_csr_lmca(recipe, golden_dir, 11)
    refused(content, f"made for 11 words and the training reports of .* give {num_words}")
    _, content = published_csr_lmca(recipe, golden_dir, num_words)
    content["state_dict"]["enhanced_feats.norm.weight"] += 1
    refused(content, "norm.weight differs from another tensor that is also enhancer.stack.norm")
    del content["state_dict"]["enhanced_feats.norm.weight"]
    del content["state_dict"]["encoder_decoder.logit.bias"]
    refused(content, "1 tensors are missing, the first: encoder_decoder.to_words.bias")


def test_a_recipe_of_another_model_is_refused(phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="must be emrrg for --format emrrg, got csr_lmca"):
        import_public(
            tmp_path / "x",
            "emrrg",
            recipe=str(write_recipe(tmp_path, phantoms)),
            out=tmp_path / "out",
        )


def test_data_that_is_not_prepared_is_told(
    golden_dir: Path, phantoms: Path, tmp_path: Path
) -> None:
    recipe = write_csr_lmca(tmp_path, phantoms, golden_dir)
    _, content = published_csr_lmca(recipe, golden_dir, 5)
    changes = [f"data.prepared={tmp_path / 'nowhere'}"]
    with pytest.raises(DataError, match="nowhere"):
        import_public(
            save(tmp_path / "x.pth", content),
            "csr-lmca",
            recipe=str(recipe),
            overrides=changes,
            out=tmp_path / "out",
        )
