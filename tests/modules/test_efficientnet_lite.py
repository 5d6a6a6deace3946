"""EfficientNet-Lite without timm is timm's: names, initial weights, maps."""

import pytest
import timm
import torch
from torch import nn

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


@pytest.mark.parametrize("size", [(64, 64), (75, 75), (64, 75), (70, 96), (33, 226)])
def test_in_inference_norms_lie_in_the_weights_and_maps_are_timms_but_for_rounding(
    size: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    ours = EfficientNetLite("tf_efficientnet_lite0").eval().double()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    for norm in (each for each in ours.modules() if isinstance(each, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.2, 2)
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="").eval()
    theirs.double().load_state_dict(ours.state_dict())
    with torch.no_grad():
        for memory in (torch.contiguous_format, torch.channels_last):
            found = ours(images.to(memory_format=memory))
            expected = theirs.forward_features(images)
            torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)
    assert torch.equal(ours(images), theirs.forward_features(images)), "with gradients as it was"


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
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
