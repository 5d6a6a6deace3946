"""EfficientNet-Lite without timm is timm's: names, initial weights, maps."""

import pytest
import timm
import torch

from radrep.modules.backbone import Backbone, split_stages
from radrep.modules.efficientnet_lite import MEAN, SIZES, STD, EfficientNetLite


@pytest.mark.parametrize(("name", "stride"), [(n, 32) for n in SIZES] + [(min(SIZES), 16)])
def test_a_seed_gives_timms_parameters_and_leaves_as_many_random_numbers(
    name: str, stride: int
) -> None:
    torch.manual_seed(0)
    finer = {"features_only": True, "out_indices": (3,)}
    theirs = timm.create_model(
        name, **({"num_classes": 0, "global_pool": ""} if stride == 32 else finer)
    )
    after = torch.rand(1)
    torch.manual_seed(0)
    ours = EfficientNetLite(name, stride)
    assert torch.equal(torch.rand(1), after), "other parts of a model start from the same weights"
    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    config = timm.data.resolve_model_data_config(theirs)
    assert (config["mean"], config["std"]) == (MEAN, STD)


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("size", [64, 75])
def test_maps_and_gradients_are_timms(stride: int, size: int) -> None:
    name, images = "tf_efficientnet_lite0", torch.randn(2, 3, size, size)
    ours = EfficientNetLite(name, stride)
    if stride == 32:
        theirs = timm.create_model(name, num_classes=0, global_pool="")
    else:
        theirs = timm.create_model(name, features_only=True, out_indices=({16: 3, 8: 2}[stride],))
    theirs.load_state_dict(ours.state_dict())
    for model in (ours, theirs):
        model.train(stride == 32)  # batch statistics; running ones
    found = ours(images)
    expected = theirs.forward_features(images) if stride == 32 else theirs(images)[0]
    assert torch.equal(found, expected)
    for maps in (found, expected):
        maps.square().sum().backward()
    gradients = [model.conv_stem.weight.grad for model in (ours, theirs)]
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)
    for (key, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert not mine.requires_grad or other.grad is not None, key
    assert ours.state_dict()["bn1.running_mean"].equal(theirs.state_dict()["bn1.running_mean"])


def test_its_stages_are_those_of_timms() -> None:
    backbone = Backbone(name="tf_efficientnet_lite0", weights="none", image_size=64, frozen=True)
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="").eval()
    theirs.load_state_dict(backbone.model.state_dict())
    images = torch.randn(1, 3, 64, 64)
    maps = backbone.stage_maps(images)
    assert len(maps) == 9
    expected = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for stage, found in zip(split_stages(theirs), maps, strict=True):
            expected = stage(expected)
            assert torch.equal(found, expected)
