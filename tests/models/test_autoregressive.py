import pytest
import torch
import torch.nn.functional as F

from radrep.data.batch import Batch
from radrep.errors import CheckpointError
from radrep.models.autoregressive import (
    AutoregressivePretraining,
    default_taps,
    expand_directions,
    start_from_stage_one,
)
from radrep.models.xray_mamba import DIRECTIONS, XrayMamba

DIM, SIZE = 16, (16, 24)  # 4 x 6 patches, 2 x 3 clusters


def stage_one(**options: object) -> AutoregressivePretraining:
    torch.manual_seed(0)
    encoder = XrayMamba(
        dim=DIM,
        depth=4,
        image_size=SIZE,
        patch_size=4,
        directions=("rows",),
        class_token=False,
        positions="fixed",
        final_norm=False,
        drop_path=0.0,
        state_dim=4,
    )
    arguments = {"cluster_size": 2, "decoder_dim": 16, "num_heads": 2}
    return AutoregressivePretraining(encoder=encoder, **{**arguments, **options})


def stage_two(**options: object) -> XrayMamba:
    torch.manual_seed(1)
    sizes = {"dim": DIM, "depth": 4, "image_size": (24, 24), "patch_size": 4, "state_dim": 4}
    return XrayMamba(**{**sizes, "drop_path": 0.0, **options})


def test_taps_are_spread_over_the_later_half() -> None:
    assert default_taps(12) == (6, 8, 10, 12)
    assert default_taps(24) == (12, 16, 20, 24)
    for depth in range(4, 40):
        taps = default_taps(depth)
        assert len(set(taps)) == 4
        assert taps[-1] == depth
    assert default_taps(2) == (1, 2)


def test_every_parameter_of_stage_one_gets_a_gradient() -> None:
    model = stage_one()
    batch = Batch(ids=("a",), num_views=torch.tensor([2]), images=torch.randn(2, 3, *SIZE))
    model(batch)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_cluster_is_predicted_from_those_before_it_alone() -> None:
    model = stage_one().eval()
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        before = model.predict(images).view(5, 4, 48)  # clusters 1 to 5 of 4 patches
        for changed in range(6):
            row, column = 8 * (changed // 3), 8 * (changed % 3)
            other = images.clone()
            other[..., row : row + 8, column : column + 8] += 1
            after = model.predict(other).view(5, 4, 48)
            differs = [not torch.equal(before[i - 1], after[i - 1]) for i in range(1, 6)]
            assert differs == [i > changed for i in range(1, 6)], f"cluster {changed}"


def test_targets_are_standardised_pixels_of_all_clusters_but_the_first() -> None:
    images = torch.randn(1, 3, *SIZE)
    targets = stage_one().targets(images)
    assert targets.shape == (1, 20, 48)
    # Cluster 1, its third patch: the second row of patches, the third column.
    patch = images[0, :, 4:8, 8:12].permute(1, 2, 0).flatten()
    expected = (patch - patch.mean()) / torch.sqrt(patch.var() + 1e-6)
    torch.testing.assert_close(targets[0, 2], expected)


def test_other_encoders_taps_and_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="this one has the directions .*, a class token, a final"):
        AutoregressivePretraining(encoder=stage_two())
    for taps in ((), (1, 2), (4, 2), (2, 2, 4), (0, 4), (4, 5)):
        with pytest.raises(ValueError, match="taps must be different blocks of 1 to 4"):
            stage_one(taps=taps)
    with pytest.raises(ValueError, match="4 x 4 patches do not fill"):
        stage_one(cluster_size=4)
    with pytest.raises(ValueError, match=r"dim \(16\) must be divisible by num_heads \(3\)"):
        stage_one(num_heads=3)
    with pytest.raises(ValueError, match="no second cluster of 1 x 1"):
        AutoregressivePretraining(
            encoder=XrayMamba(
                dim=DIM,
                depth=1,
                image_size=4,
                patch_size=4,
                directions=("rows",),
                class_token=False,
                final_norm=False,
            ),
            cluster_size=1,
        )


def test_stage_two_starts_with_copies_of_stage_one() -> None:
    old, new = stage_one(), stage_two()
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    start_from_stage_one(new, old.state_dict(), grid=(4, 6))
    for mixer, source in zip(
        (block.mixer for block in new.layers),
        (block.mixer for block in old.encoder.layers),
        strict=True,
    ):
        assert torch.equal(mixer.in_proj.weight, source.in_proj.weight)
        for direction in DIRECTIONS:
            ours = mixer.branches[direction].state_dict()
            for name, tensor in source.branches["rows"].state_dict().items():
                assert torch.equal(ours[name], tensor), name
    for name in ("class_token", "norm_f.weight", "norm_f.bias"):
        assert torch.equal(new.state_dict()[name], fresh[name]), name
    grids = old.encoder.positions.view(1, 4, 6, DIM).permute(0, 3, 1, 2)
    expected = F.interpolate(grids, (6, 6), mode="bicubic").flatten(2).transpose(1, 2)
    assert not new.positions[:, 18].any()
    torch.testing.assert_close(new.positions[:, :18].detach(), expected[:, :18])
    torch.testing.assert_close(new.positions[:, 19:].detach(), expected[:, 18:])
    assert new.positions.requires_grad


def test_directions_learn_apart_after_the_expansion() -> None:
    new = stage_two()
    expanded = expand_directions(stage_one().encoder.state_dict(), grid=(4, 6), new_grid=new.grid)
    copies = [expanded[f"layers.0.mixer.branches.{name}.D"] for name in DIRECTIONS]
    assert len({tensor.data_ptr() for tensor in copies}) == 4


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"(?s)stage 1 do not fit.*layers\.3"):
        start_from_stage_one(stage_two(depth=3), stage_one().state_dict(), grid=(4, 6))
    with pytest.raises(CheckpointError, match="24 positions do not fit"):
        start_from_stage_one(stage_two(), stage_one().state_dict(), grid=(12, 12))
