"""What sections default to, and keys that exclude each other."""

from typing import Any

import pytest
from pydantic import ValidationError

from radrep.recipe.recipe import Recipe
from radrep.recipe.training import Decode, Optim
from tests.whole_way import TINY

MASKED = {"prepared": "x", "images": "views+mask"}


def build(model: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    recipe = {
        "task": "train",
        "out": "runs/x",
        "data": {"prepared": "data/x"},
        "model": {"name": "csr_lmca"} | (model or {}),
        "optim": TINY["optim"],
        "train": {"epochs": 1, "batch_size": 1},
    }
    return Recipe.model_validate(recipe | sections)


def problems_of(**changes: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        build(**changes)
    return dict(caught.value.errors()[0]["ctx"]["problems"])


def test_what_models_differ_in_has_no_default():
    with pytest.raises(ValidationError) as caught:
        Optim.model_validate({})
    missing = {str(problem["loc"][0]) for problem in caught.value.errors()}
    assert missing == {
        "name", "lr", "encoder_lr", "betas", "eps", "weight_decay", "amsgrad", "min_lr"
    }  # fmt: skip
    assert build().optim.clip_norm == 1.0
    unclipped = {key: value for key, value in TINY["optim"].items() if key != "clip_norm"}
    assert build(optim=unclipped).optim.clip_norm is None


@pytest.mark.parametrize("key", ["random_crop", "random_resized_crop", "random_flip"])
@pytest.mark.parametrize(
    ("model", "frozen"),
    [
        ({"backbone": {"frozen": True}}, "model.backbone.frozen: true"),
        ({"name": "emrrg", "train_encoder": "frozen"}, "model.train_encoder: frozen"),
        (
            {"name": "discriminator", "encoder": {}, "train_encoder": "frozen"},
            "model.train_encoder: frozen",
        ),
    ],
)
def test_what_varies_images_is_refused_with_a_frozen_encoder(model, frozen, key):
    problems = problems_of(data={"prepared": "data/x", key: True}, model=model)
    assert list(problems) == [f"data.{key}"]
    assert f"{frozen} computes their features once" in problems[f"data.{key}"]
    same = {"prepared": "data/x", key: False, "equalize_and_sharpen": True}
    assert build(data=same, model=model).data.equalize_and_sharpen


@pytest.mark.parametrize("key", ["random_crop", "random_resized_crop", "random_flip"])
def test_what_cached_maps_cannot_do_is_refused_with_frozen_stages(key):
    model = {"backbone": {"frozen_stages": 3}}
    problems = problems_of(data={"prepared": "data/x", key: True}, model=model)
    assert "the cached maps of model.backbone.frozen_stages" in problems[f"data.{key}"]


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"task": "pretrain"}, "model.name", "takes discriminator or autoregressive or contr"),
        (
            {"task": "pretrain", "model": {"name": "discriminator"}},
            "model.encoder",
            "must describe the X-ray Mamba to pretrain",
        ),
        ({"model": {"name": "contrastive"}}, "model.name", "takes csr_lmca or emrrg or discr"),
        (
            {
                "model": {"name": "discriminator"},
                "data": {
                    "prepared": "x",
                    "images": "views+mask",
                    "saliency": {"discriminator": "d"},
                },
            },
            "data.images",
            "'views+mask' is for models that write reports",
        ),
        ({"data": MASKED}, "data.saliency", "must name a disc"),
        (
            {"train": {"epochs": 1, "batch_size": 1, "monitor": "val/auroc"}},
            "train.monitor",
            "must be one of val/bleu1, val/bleu2",
        ),
        (
            {
                "model": {"name": "discriminator"},
                "train": {"epochs": 1, "batch_size": 1, "monitor": "val/bleu4"},
            },
            "train.monitor",
            "must be one of val/loss, val/auroc, val/average_precision here, got 'val/bleu4'",
        ),
        ({"decode": {"min_new_tokens": 3}}, "decode.min_new_tokens", "is for emrrg alone, got 3"),
        (
            {"model": {"name": "emrrg"}, "decode": {"method": "sample"}},
            "decode.method",
            "emrrg writes by beam, greedy, select or consensus",
        ),
    ],
)
def test_keys_that_exclude_each_other_are_refused(changes, key, text):
    problems = problems_of(**changes)
    assert list(problems) == [key]
    assert text in problems[key]


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("mambaxray_iu", (5, 40, 100)),
        ("mambaxray_mimic", (3, 80, 120)),
        ("mambaxray_chexpert_plus", (3, 80, 120)),
    ],
)
def test_presets_are_the_published_settings_and_written_keys_win(preset, published):
    decode = Decode.model_validate({"preset": preset})
    assert (decode.beam_size, decode.min_new_tokens, decode.max_new_tokens) == published
    assert decode.repetition_penalty == decode.length_penalty == 2.0
    assert Decode.model_validate({"preset": preset, "beam_size": 1}).beam_size == 1


def test_float32_decoding_is_the_default_but_for_language_models_on_gpus():
    assert build().decode.precision == "auto"
    for name in ("csr_lmca", "emrrg"):
        assert build({"name": name}, decode={"precision": "train"}).decode.precision == "train"
