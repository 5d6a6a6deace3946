import torch

from radrep.modules.backbone import Backbone


def test_a_frozen_backbone_keeps_its_precision_under_autocast() -> None:
    """Cached features are made without autocast, and eval and generate run under it."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    for frozen in (True, False):
        backbone = Backbone(
            name="test_resnet.r160_in1k", weights="none", image_size=64, frozen=frozen
        ).eval()
        plain = backbone(images)
        with torch.autocast("cpu", torch.bfloat16):
            under_autocast = backbone(images)
        assert plain.dtype == torch.float32
        assert torch.equal(under_autocast, plain) == frozen
