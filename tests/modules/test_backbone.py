from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from radrep.errors import CheckpointError
from radrep.modules.backbone import Backbone
from radrep.modules.hub import hub_sources

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
