"""Defaults that follow other keys, and keys that exclude each other."""

import pytest
from pydantic import ValidationError

from radrep.recipe.schema import Autoregressive, Decode, Recipe


def build(**sections: object) -> Recipe:
    return Recipe.model_validate(
        {
            "task": "train",
            "out": "runs/x",
            "data": {"prepared": "data/x"},
            "train": {"epochs": 1, "batch_size": 1},
            **sections,
        }
    )


def test_defaults_are_those_of_the_published_model_where_ours_do_not_differ_on_purpose():
    recipe = build()
    assert (recipe.optim.lr, recipe.optim.encoder_lr) == (7e-4, 5e-5)
    assert (recipe.model.memory.size, recipe.model.memory.top_k) == (2048, 32)
    assert (recipe.model.enhancer.mode, recipe.model.regions.grid) == ("tokens", "per_view")
    assert (recipe.data.max_tokens, recipe.decode.max_new_tokens) == (60, 60)
    assert recipe.train.seed == 9233


def test_random_crops_are_on_unless_the_backbone_is_frozen():
    assert build().data.random_crop is True
    assert build(model={"backbone": {"frozen": True}}).data.random_crop is False


def test_region_counts_follow_the_grid_unless_typed():
    assert build().model.regions.regions_per_side == (2,)
    assert build(model={"regions": {"grid": "joined"}}).model.regions.regions_per_side == (8,)
    typed = build(model={"regions": {"grid": "joined", "regions_per_side": [4, 8]}})
    assert typed.model.regions.regions_per_side == (4, 8)


@pytest.mark.parametrize("key", ["random_crop", "random_flip"])
def test_what_changes_images_is_refused_behind_a_frozen_backbone(key):
    frozen = {"backbone": {"frozen": True}}
    with pytest.raises(ValidationError) as caught:
        build(data={"prepared": "data/x", key: True}, model=frozen)
    ((told, text),) = caught.value.errors()[0]["ctx"]["problems"]
    assert told == f"data.{key}"
    assert "model.backbone.frozen: true computes their features once" in text
    assert build(data={"prepared": "data/x", key: False}, model=frozen).model.backbone.frozen


def test_the_published_recipe_flips_and_crops_since_its_backbone_learns():
    data = build(data={"prepared": "data/x", "random_flip": True}).data
    assert data.random_crop
    assert data.random_flip


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("mambaxray_iu", (5, 40, 100)),
        ("mambaxray_mimic", (3, 80, 120)),
        ("mambaxray_chexpert_plus", (3, 80, 120)),
    ],
)
def test_presets_are_the_published_settings_and_typed_keys_win(preset, published):
    decode = Decode.model_validate({"preset": preset})
    assert (decode.beam_size, decode.min_new_tokens, decode.max_new_tokens) == published
    assert decode.repetition_penalty == decode.length_penalty == 2.0
    assert Decode.model_validate({"preset": preset, "beam_size": 1}).beam_size == 1


def test_stage_one_drops_no_paths_unless_typed():
    def drop_path(**encoder):
        return Autoregressive.model_validate(
            {"name": "autoregressive", "encoder": encoder}
        ).encoder.drop_path

    assert drop_path() == drop_path(size="tiny") == 0.0
    assert drop_path(drop_path=0.2) == 0.2
    assert Autoregressive(name="autoregressive").encoder.drop_path == 0.0


def test_float32_decoding_is_the_default():
    assert build().decode.precision == "fp32"
    for name in ("csr_lmca", "emrrg"):
        decode = build(model={"name": name}, decode={"precision": "train"}).decode
        assert decode.precision == "train"
