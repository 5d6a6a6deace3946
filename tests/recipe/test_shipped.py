"""Shipped recipes against what was published, and against the recipes they build on."""

import re
from pathlib import Path
from typing import Any

import pytest

from radrep.recipe.load import load_recipe, shipped_recipe_text, shipped_recipes
from radrep.recipe.recipe import Recipe
from radrep.recipe.training import Edit, Optim

NAMES = [name for name, _ in shipped_recipes()]
EXTENDING = [name for name in NAMES if "\nextends: " in shipped_recipe_text(name)]
SMALL = ("_cpu", "_phantom", "demo")
GPU = [name for name in NAMES if not name.endswith(SMALL) and name not in EXTENDING]
UNPUBLISHED = ("pretrain_labels", "pretrain_labels_base")

_CSR = {
    "data.image_size": 224, "data.random_crop": True, "data.random_flip": True,
    "data.equalize_and_sharpen": True, "data.tokenizer.min_count": 3,
    "model.backbone.name": "resnet101.tv_in1k", "model.projection_dropout": 0.5,
    "model.enhancer.mode": "pooled", "model.enhancer.dim": 512, "model.enhancer.num_layers": 2,
    "model.enhancer.state_dim": 16, "model.enhancer.conv_width": 4, "model.enhancer.expand": 2,
    "model.enhancer.stride": 10, "model.enhancer.dropout": 0.5, "model.enhancer.pool_dim": 128,
    "model.enhancer.pooled_weight": 0.001, "model.memory.size": 2048, "model.memory.top_k": 32,
    "model.regions.grid": "joined", "model.regions.regions_per_side": (8,),
    "model.regions.num_slots": 3, "model.regions.epeg_kernel": 15, "model.transformer.dim": 512,
    "model.transformer.num_layers": 3, "model.transformer.num_heads": 8,
    "model.transformer.ff_dim": 512, "model.transformer.dropout": 0.1,
    "optim.name": "adam", "optim.lr": 7e-4, "optim.encoder_lr": 5e-5, "optim.betas": (0.9, 0.98),
    "optim.eps": 1e-9, "optim.weight_decay": 5e-5, "optim.amsgrad": True, "optim.min_lr": 1e-6,
    "optim.warmup_steps": 0, "optim.clip_norm": None, "train.epochs": 80, "train.batch_size": 16,
    "train.seed": 9233, "train.monitor": "val/bleu4",
    "train.patience": 51,  # released: 50, with > where radrep has >=
    "decode.method": "beam", "decode.beam_size": 3, "decode.length_penalty": 0.0,
    "decode.block_trigrams": False,
}  # fmt: skip
_ADAMW = {
    "optim.name": "adamw", "optim.lr": 1e-4, "optim.encoder_lr": 1e-4,
    "optim.betas": (0.9, 0.999), "optim.eps": 1e-8, "optim.weight_decay": 0.01,
    "optim.amsgrad": False, "optim.min_lr": 1e-6, "optim.warmup_steps": 0,
    "optim.clip_norm": None, "train.precision": "bf16", "train.seed": 42,
}  # fmt: skip
_STAGE_THREE = _ADAMW | {
    "data.image_size": 224, "data.random_crop": False, "data.random_flip": False,
    "model.encoder.patch_size": 16, "model.encoder.drop_path": 0.1,
    "model.language_model.train": "frozen", "train.monitor": "val/bleu4",
    "decode.method": "beam", "decode.repetition_penalty": 2.0, "decode.length_penalty": 2.0,
}  # fmt: skip
_IU = {
    "data.prepared": Path("data/iu"), "data.max_views": 2, "data.max_tokens": 60,
    "data.tokenizer.cleaner": "r2gen_iu",
}  # fmt: skip
_LONG = {
    "data.max_views": 1, "data.max_tokens": 100, "data.tokenizer.cleaner": "r2gengpt_mimic",
    "decode.beam_size": 3, "decode.min_new_tokens": 80, "decode.max_new_tokens": 120,
}  # fmt: skip
_SHORT = _IU | {
    "decode.beam_size": 5, "decode.min_new_tokens": 40, "decode.max_new_tokens": 100,
}  # fmt: skip
_MIMIC = {"data.prepared": Path("data/mimic")}
_CHEXPERT = {"data.prepared": Path("data/chexpert_plus")}
_LLAMA = {"model.language_model.name": "meta-llama/Llama-2-7b-chat-hf"}
_QWEN = {"model.language_model.name": "Qwen/Qwen1.5-1.8B-Chat"}
_EMRRG = _STAGE_THREE | _LLAMA | {
    "model.encoder.size": "base", "model.train_encoder": "adapters", "model.lora.target": "X",
    "model.lora.rank": 16, "model.lora.scale": 1.0, "model.visual_tokens": "pooled",
    "model.hybrid.every_n_layers": 8,
}  # fmt: skip
_MAMBAXRAY = _STAGE_THREE | {
    "model.encoder.size": "large", "model.train_encoder": "trained",
    "model.visual_tokens": "all", "model.hybrid": None,
}  # fmt: skip
_STAGE_ONE = _MIMIC | {
    "data.image_size": 192, "data.random_resized_crop": True, "data.random_flip": True,
    "data.max_views": 1, "model.encoder.drop_path": 0.0, "model.cluster_size": 4,
    "model.decoder_dim": 512, "optim.name": "adamw", "optim.lr": 7e-6,  # 1.5e-4 * 12 / 256
    "optim.encoder_lr": 7e-6, "optim.betas": (0.9, 0.95),
    "optim.eps": 1e-8, "optim.weight_decay": 0.05, "optim.amsgrad": False, "optim.min_lr": 0.0,
    "optim.clip_norm": 3.0, "train.epochs": 101, "train.batch_size": 12,
    "train.precision": "bf16", "train.seed": 42,
}  # fmt: skip
_STAGE_TWO = _ADAMW | _MIMIC | {
    "data.image_size": 224, "data.random_crop": False, "data.max_tokens": 128,
    "data.tokenizer.cleaner": "r2gengpt_mimic", "model.encoder.drop_path": 0.1,
    "model.text_encoder.name": "emilyalsentzer/Bio_ClinicalBERT", "model.projection_dim": 2048,
    "train.epochs": 51, "train.batch_size": 48,
}  # fmt: skip


def _run(epochs: int, batch_size: int) -> dict[str, Any]:
    return {"train.epochs": epochs, "train.batch_size": batch_size}


# Of the released code and scripts; a recipe's header names what differs from them.
PUBLISHED: dict[str, dict[str, Any]] = {
    "csr_lmca_iu_published": _CSR | _IU | {"data.images": "views", "decode.max_new_tokens": 60},
    "csr_lmca_mimic_published": _CSR | _MIMIC | {
        "data.images": "frontal+mask", "data.tokenizer.cleaner": "r2gen_mimic",
        "data.max_tokens": 100, "decode.max_new_tokens": 100,
    },
    "sdam_discriminator": _MIMIC | {
        "data.image_size": 300, "data.random_flip": False,
        "model.backbone.name": "resnet34.tv_in1k", "optim.clip_norm": None,
    },
    "emrrg_iu_published": _EMRRG | _SHORT | _run(21, 4),
    "emrrg_mimic_published": _EMRRG | _LONG | _MIMIC | _run(5, 6),
    "emrrg_chexpert_plus_published": _EMRRG | _LONG | _CHEXPERT | _run(11, 6),
    "mambaxray_iu": _MAMBAXRAY | _SHORT | _QWEN | _run(31, 6),
    "mambaxray_mimic": _MAMBAXRAY | _LONG | _MIMIC | _LLAMA | _run(5, 6),
    "mambaxray_chexpert_plus": _MAMBAXRAY | _LONG | _CHEXPERT | _LLAMA | _run(11, 6),
    "pretrain_autoregressive": _STAGE_ONE | {"model.encoder.size": "large"},
    "pretrain_autoregressive_base": _STAGE_ONE | {"model.encoder.size": "base"},
    "pretrain_contrastive": _STAGE_TWO | {"model.encoder.size": "large"},
    "pretrain_contrastive_base": _STAGE_TWO | {"model.encoder.size": "base"},
}  # fmt: skip


def value_of(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("name", sorted(set(GPU) - set(UNPUBLISHED)))
def test_a_published_recipe_has_the_published_values(name):
    recipe = load_recipe(name)
    assert {key: value_of(recipe, key) for key in PUBLISHED[name]} == PUBLISHED[name]
    header = shipped_recipe_text(name).split("\ntask:")[0]
    assert "# Published: " in header
    assert "# Differs:   " in header


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_a_stage_that_nobody_published_is_declared(name):
    assert "# Added:   an offer beside the published stages" in shipped_recipe_text(name)
    assert load_recipe(name).data.random_flip is False, "reports know left from right"


@pytest.mark.parametrize("name", [name for name in EXTENDING if not name.endswith(SMALL)])
def test_additions_to_a_published_recipe_are_declared_and_nothing_else_differs(name):
    recipe, published = load_recipe(name), load_recipe(f"{name}_published")
    assert recipe.decode.edit == Edit()
    decode = recipe.decode.model_copy(update={"edit": None})
    changes: dict[str, object] = {"name": published.name, "out": published.out, "decode": decode}
    if name.startswith("emrrg"):  # warm-up and clipping, declared
        assert (recipe.optim.warmup_steps, recipe.optim.clip_norm) == (200, 1.0)
        changes["optim"] = published.optim
    assert recipe.model_copy(update=changes) == published
    header = shipped_recipe_text(name).split("\nextends:")[0]
    assert f"# Added:     to {name}_published" in header
    assert "(decode.edit)" in header
    assert "\ndata:" not in shipped_recipe_text(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EXTENDING])
def test_a_recipe_writes_its_optimizer_down_and_guesses_no_results(name):
    text = shipped_recipe_text(name)
    section = text.split("\noptim:\n")[1].split("\n\n")[0]
    written = {line.split(":")[0].strip() for line in section.splitlines()}
    assert set(Optim.model_fields) - {"warmup_steps"} <= written
    assert "not measured" not in text


def _built_on(recipe: Recipe) -> dict[str, Path]:
    """Runs that a recipe starts from, by key."""
    encoder = getattr(recipe.model, "encoder", None)
    found = {}
    if encoder is not None and encoder.weights != "none":
        found["model.encoder.weights"] = Path(encoder.weights)
    backbone = getattr(recipe.model, "backbone", None)
    if backbone is not None and backbone.weights.startswith("runs/"):
        found["model.backbone.weights"] = Path(backbone.weights)
    if recipe.data.saliency is not None:
        found["data.saliency.discriminator"] = recipe.data.saliency.discriminator
    return found


def test_every_run_that_a_recipe_builds_on_is_made_by_one_that_fits():
    recipes = {name: load_recipe(name) for name in NAMES}
    makers = {recipe.out: name for name, recipe in recipes.items()}
    assert len(makers) == len(recipes), "no recipe overwrites another's run"
    chains = 0
    for name, recipe in recipes.items():
        for key, folder in _built_on(recipe).items():
            chains += 1
            maker = makers[folder]
            before = recipes[maker]
            header = re.split(r"\n(?:task|extends):", shipped_recipe_text(name))[0]
            assert f" {maker}" in header, f"{name} names what makes its {key}"
            assert all(name.endswith(end) == maker.endswith(end) for end in SMALL)
            if key == "model.encoder.weights":
                ours, theirs = recipe.model.encoder, before.model.encoder
                assert (ours.size, ours.patch_size) == (theirs.size, theirs.patch_size), name
                assert before.task == "pretrain"
            else:
                assert before.model.output == "labels"
                if key == "model.backbone.weights":
                    assert before.model.backbone.name == recipe.model.backbone.name
                    assert before.data.image_size == recipe.data.image_size
                assert before.data.prepared == recipe.data.prepared
                wanted = [line for line in header.splitlines() if "radrep prepare mimic" in line]
                maker_header = shipped_recipe_text(maker).split("\ntask:")[0]
                assert all(line in maker_header for line in wanted), "one preparation for both"
    assert chains == 21
    assert {recipes[name].data.prepared for name in GPU if name.startswith("pretrain")} == {
        Path("data/mimic")
    }
