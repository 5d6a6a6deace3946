import pytest
import torch

from radrep.modules.region_attention import RegionEncoder, RegionLayout, region_layout

CPU = torch.device("cpu")


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("counts", [[1], [2], [8], [2, 3]])
@pytest.mark.parametrize(("views", "grid"), [(1, (7, 7)), (2, (7, 7)), (2, (3, 5)), (1, (1, 1))])
def test_a_study_does_not_depend_on_its_batch(
    joined: bool, counts: list[int], views: int, grid: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    encoder = RegionEncoder(dim=16, num_heads=2, regions_per_side=counts, joined=joined).eval()
    patches = torch.randn(4, views * grid[0] * grid[1], 16)
    together = encoder(patches, num_views=views, grid=grid)
    assert together.isfinite().all()
    for study in range(4):
        alone = encoder(patches[study : study + 1], num_views=views, grid=grid)
        torch.testing.assert_close(together[study : study + 1], alone)


@pytest.mark.parametrize("joined", [True, False])
def test_every_patch_has_one_place(joined: bool) -> None:
    layout = region_layout(num_views=2, grid=(7, 7), regions=3, joined=joined, device=CPU)
    at = layout.index.flatten()[layout.home]
    assert at.tolist() == list(range(98))
    assert layout.real.sum() == 98


def test_per_view_regions_hold_neighbours_of_one_view() -> None:
    layout = region_layout(num_views=2, grid=(4, 4), regions=2, joined=False, device=CPU)
    assert layout.index.tolist()[:2] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert layout.index.tolist()[4] == [16, 17, 20, 21]


def test_masked_padding_changes_nothing() -> None:
    """A 3x5 grid in 2x2 regions has padding; what the padding holds must not matter."""
    torch.manual_seed(0)
    encoder = RegionEncoder(dim=16, num_heads=2, regions_per_side=[2]).eval()
    patches = torch.randn(2, 15, 16)
    before = encoder(patches, num_views=1, grid=(3, 5))
    layout = region_layout(num_views=1, grid=(3, 5), regions=2, joined=False, device=CPU)
    assert not layout.real.all()
    hidden = layout.index == 15
    moved = layout.index.clone()
    moved[hidden] = 3  # padding places now hold a real patch, still marked as padding

    class Marked(RegionLayout):
        @property
        def real(self) -> torch.Tensor:
            return ~hidden

    fake = Marked(moved, layout.home, masked=True)
    normed = encoder.norm_within(patches)
    x = patches + encoder.within(normed, fake)
    x = x + encoder.across(encoder.norm_across(x), fake)
    torch.testing.assert_close(encoder.norm(x), before)


def test_gradients_stay_finite_where_regions_are_padding_alone() -> None:
    encoder = RegionEncoder(dim=16, num_heads=2, regions_per_side=[8])
    patches = torch.randn(2, 49, 16, requires_grad=True)
    encoder(patches, num_views=1, grid=(7, 7)).square().sum().backward()
    assert patches.grad is not None
    assert patches.grad.isfinite().all()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_equal_scales_average_to_one_of_them() -> None:
    torch.manual_seed(0)
    one = RegionEncoder(dim=16, num_heads=2, regions_per_side=[2]).eval()
    twice = RegionEncoder(dim=16, num_heads=2, regions_per_side=[2, 2]).eval()
    twice.load_state_dict(one.state_dict())
    patches = torch.randn(2, 49, 16)
    torch.testing.assert_close(
        twice(patches, num_views=1, grid=(7, 7)), one(patches, num_views=1, grid=(7, 7))
    )


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dim \(16\) must be divisible by num_heads \(3\)"):
        RegionEncoder(dim=16, num_heads=3)


def test_a_layout_is_made_once_for_a_device() -> None:
    settings = {"num_views": 2, "grid": (7, 7), "regions": 3, "joined": True}
    assert region_layout(**settings, device=CPU) is region_layout(**settings, device=CPU)
    other = region_layout(**settings, device=torch.device("meta"))
    assert {other.index.device.type, other.home.device.type} == {"meta"}
