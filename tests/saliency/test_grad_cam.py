"""Grad-CAM in closed form beside its definition by gradients, and the masks made of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.models.discriminator import Discriminator, spread_labels
from radrep.modules.backbone import Backbone
from radrep.saliency.grad_cam import enlarge, grad_cam
from radrep.saliency.masks import aggregate_maps, make_mask, mask_image


def make_discriminator(stride: int = 32) -> Discriminator:
    torch.manual_seed(0)
    backbone = Backbone(
        name="test_resnet.r160_in1k", weights="none", image_size=64, stride=stride
    )  # fmt: skip
    model = Discriminator(backbone, num_labels=14, dropout=0.5).eval()
    nn.init.normal_(model.classifier.weight)
    return model


def defined_grad_cam(model: Discriminator, image: Tensor, label: int) -> Tensor:
    """By the definition: weights are gradients of the sigmoid at the last map, then min and max."""
    patches = model.backbone(image[None]).detach().requires_grad_()
    output = model.logits(patches)[0, label].sigmoid()
    (gradient,) = torch.autograd.grad(output, patches)  # (1, n, c)
    weights = gradient[0].mean(dim=0)
    map_ = (patches[0] @ weights).clamp(min=0)
    low, high = map_.min(), map_.max()
    scaled = (map_ - low) / (high - low) if high > low else torch.zeros_like(map_)
    return scaled.view(model.backbone.grid).detach()


@pytest.mark.parametrize("stride", [32, 8])
def test_the_closed_form_is_grad_cam(stride: int) -> None:
    model = make_discriminator(stride)
    image = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))
    patches = model.backbone(image[None])[0]
    maps = grad_cam(patches, model.classifier.weight, model.backbone.grid)
    assert maps.shape == (14, *model.backbone.grid)
    for label in range(14):
        expected = defined_grad_cam(model, image, label)
        torch.testing.assert_close(maps[label], expected, atol=1e-4, rtol=1e-3)


def test_a_flat_sigmoid_does_not_hide_where_it_attends() -> None:
    patches = torch.tensor([[1.0], [3.0], [2.0], [1.0]]) * 1e4
    maps = grad_cam(patches, torch.tensor([[1.0]]), (2, 2))
    assert maps[0].tolist() == [[0.0, 1.0], [0.5, 0.0]]


def test_maps_change_with_the_weights() -> None:
    """Sanity check of Adebayo et al., 2018: a map that survives random weights explains nothing."""
    model = make_discriminator(8)
    patches = model.backbone(torch.randn(1, 3, 64, 64))[0]
    some, others = torch.rand(2, *model.classifier.weight.shape)
    before = grad_cam(patches, some, model.backbone.grid)
    other = grad_cam(patches, others, model.backbone.grid)
    assert all((before[label] - other[label]).abs().max() > 0.1 for label in range(14))


def test_cells_are_put_where_they_attend() -> None:
    """An enlarged map keeps its values; one that looks half a cell away is moved by as much."""
    small = torch.rand(2, 3, 4)
    large = enlarge(small, 15, 20, (0, 0))
    torch.testing.assert_close(large[:, 2::5, 2::5], small)
    still, moved = (enlarge(small, 30, 40, shift) for shift in ((0, 0), (-0.5, 0.5)))
    torch.testing.assert_close(moved[:, :-5, 5:], still[:, 5:, :-5])  # cells of ten pixels


@pytest.mark.parametrize(("name", "shift"), [("resnet18", -0.5), ("test_convnext.r160_in1k", 0.0)])
def test_where_a_cell_attends_is_measured(name: str, shift: float) -> None:
    """Every strided 3x3 of a ResNet looks half a step up and left; patches of ConvNeXt do not."""
    backbone = Backbone(name=name, weights="none", image_size=96, frozen=True)
    assert backbone.measure_shift(96) == pytest.approx((shift, shift), abs=0.15)
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_no_place_speaks_for_a_label_with_negative_evidence() -> None:
    maps = grad_cam(torch.ones(4, 2), torch.tensor([[-1.0, -1.0]]), (2, 2))
    assert not maps.any()


def test_images_do_not_depend_on_their_batch() -> None:
    model = make_discriminator()
    images = torch.randn(3, 3, 64, 64)
    together = model.logits(model.backbone(images))
    alone = torch.cat([model.logits(model.backbone(image[None])) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_unknown_labels_take_no_part_in_the_loss() -> None:
    model = make_discriminator()
    images, views = torch.randn(3, 3, 64, 64), torch.tensor([2, 1])
    labels = torch.randint(0, 2, (2, 14)).float()
    labels[0, 3] = labels[1] = torch.nan
    batch = Batch(("a", "b"), views, images=images, labels=labels)
    assert spread_labels(batch).shape == (3, 14)
    losses = nn.functional.binary_cross_entropy_with_logits(
        model.logits(model.backbone(images))[:2],
        labels[0].nan_to_num().repeat(2, 1),
        reduction="none",
    )
    known = [label for label in range(14) if label != 3]
    torch.testing.assert_close(model.loss(batch)["loss"], losses[:, known].sum() / 42)
    model.loss(batch)["loss"].backward()
    assert model.classifier.weight.grad is not None
    assert not model.classifier.weight.grad[3].any()
    assert model.classifier.weight.grad[2].any()


maps = st.integers(1, 3).flatmap(
    lambda k: st.lists(
        st.floats(0, 1, width=32), min_size=k * 12, max_size=k * 12
    ).map(lambda values: torch.tensor(values).view(k, 3, 4))
)  # fmt: skip


@settings(max_examples=30)
@given(maps, st.floats(0.0625, 1, width=32))
def test_a_hard_mask_is_the_threshold_grown_by_two_pixels(some: Tensor, threshold: float) -> None:
    large = enlarge(some, 13, 17, (0, 0))
    whole = aggregate_maps(large, "max")
    mask = make_mask(whole, "hard", threshold)
    assert mask.shape == (13, 17)
    reached, kept = whole.numpy() >= np.float32(threshold), mask.numpy()
    for y in range(13):
        for x in range(17):
            assert kept[y, x] == reached[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].any()


def test_labels_that_attend_to_different_places_leave_a_mask() -> None:
    apart = torch.eye(4).view(4, 2, 2)
    assert aggregate_maps(apart, "mean").tolist() == [[1, 1], [1, 1]]


@given(maps)
def test_a_soft_mask_dims_by_the_map(some: Tensor) -> None:
    mean, plain = aggregate_maps(some, "mean"), torch.stack(list(some)).sum(dim=0) / len(some)
    torch.testing.assert_close(mean, plain / (plain.max() if plain.max() > 0 else 1))
    assert torch.equal(aggregate_maps(some, "max"), some.max(dim=0).values)
    image = np.full((3, 4), 200, np.uint8)
    masked = mask_image(image, make_mask(mean, "soft", 0.5))
    assert np.abs(masked - 200 * mean.numpy()).max() <= 0.5 + 1e-4
    assert (mask_image(image, torch.ones(3, 4)) == image).all()
    assert not mask_image(image, torch.zeros(3, 4)).any()
