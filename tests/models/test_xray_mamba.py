import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.models.xray_mamba import (
    DIRECTIONS,
    LORA_TARGETS,
    MambaMixer,
    XrayMamba,
    add_partial_lora,
    average_views,
    make_stage_one_encoder,
    make_xray_mamba,
    merge_lora,
    resize_positions,
    sin_cos_positions,
)

DIM, STATE = 32, 4


def small(**options: object) -> XrayMamba:
    torch.manual_seed(0)
    sizes = {"dim": DIM, "depth": 2, "image_size": (8, 12), "patch_size": 4, "state_dim": STATE}
    return XrayMamba(**{**sizes, **options})


def pictures(count: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, 8, 12, generator=torch.Generator().manual_seed(1)).to(dtype)


def wake(parameters: list[nn.Parameter]) -> None:
    """Let adapters do something."""
    for parameter in parameters:
        nn.init.normal_(parameter, std=0.3)


def test_all_tokens_come_out_and_every_parameter_gets_a_gradient() -> None:
    encoder = small()
    tokens = encoder(pictures())
    assert tokens.shape == (2, 7, DIM)
    assert (encoder.grid, encoder.num_tokens, encoder.class_index) == ((2, 3), 7, 3)
    (tokens * torch.randn_like(tokens)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_an_image_does_not_depend_on_its_batch() -> None:
    encoder, images = small().eval(), pictures(3)
    together = encoder(images)
    for i in range(3):
        torch.testing.assert_close(encoder(images[i : i + 1])[0], together[i])


def test_patches_are_embedded_as_by_a_convolution() -> None:
    encoder = small(class_token=False)
    nn.init.zeros_(encoder.positions)
    kernel = encoder.patch_embed.weight.view(DIM, 3, 4, 4)
    expected = F.conv2d(pictures(), kernel, encoder.patch_embed.bias, stride=4)
    torch.testing.assert_close(encoder.embed(pictures()), expected.flatten(2).transpose(1, 2))


def test_the_class_token_is_in_the_middle() -> None:
    encoder = small()
    tokens = encoder.embed(pictures()) - encoder.positions
    torch.testing.assert_close(tokens[:, 3], encoder.class_token[:, 0].expand(2, -1))


def one_direction(direction: str, state: dict[str, Tensor]) -> MambaMixer:
    mixer = MambaMixer(dim=DIM, grid=(2, 3), class_index=3, directions=(direction,))
    renamed = {name.replace("rows", direction): tensor for name, tensor in state.items()}
    mixer.load_state_dict(renamed)
    return mixer


def test_directions_are_rows_of_reordered_tokens() -> None:
    rows = MambaMixer(dim=DIM, grid=(2, 3), class_index=3, directions=("rows",))
    state, tokens = rows.state_dict(), torch.randn(2, 7, DIM)

    def turned(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Transpose the grid around the class token."""
        patches = torch.cat([tokens[:, :3], tokens[:, 4:]], dim=1).view(2, *grid, DIM)
        patches = patches.transpose(1, 2).reshape(2, 6, DIM)
        return torch.cat([patches[:, :3], tokens[:, 3:4], patches[:, 3:]], dim=1)

    backwards = rows(tokens.flip(1)).flip(1)
    columns = turned(rows(turned(tokens, (2, 3))), (3, 2))
    columns_backwards = turned(rows(turned(tokens, (2, 3)).flip(1)).flip(1), (3, 2))
    for direction, expected in (
        ("rows_reversed", backwards),
        ("columns", columns),
        ("columns_reversed", columns_backwards),
    ):
        torch.testing.assert_close(one_direction(direction, state)(tokens), expected)
    every = MambaMixer(dim=DIM, grid=(2, 3), class_index=3)
    for direction in DIRECTIONS:
        names = {name.replace("rows", direction): tensor for name, tensor in state.items()}
        every.load_state_dict(names, strict=False)
    mean = (rows(tokens) + backwards + columns + columns_backwards) / 4
    torch.testing.assert_close(every(tokens), mean)


def test_initialisation_is_as_published() -> None:
    encoder = small(depth=4, dim=64)
    assert 0.5 < encoder.patch_embed.weight.std() * math.sqrt(3 * 16) < 1.5
    assert not encoder.patch_embed.bias.any()
    assert 0.01 < encoder.positions.std() < 0.03
    for block in encoder.layers:
        assert not block.mlp.w1.bias.any()
        bound = 1 / math.sqrt(64) / math.sqrt(4)  # kaiming uniform of a = sqrt 5, over sqrt depth
        assert 0.9 * bound < block.mixer.out_proj.weight.abs().max() <= bound
        for branch in block.mixer.branches.values():
            steps = F.softplus(branch.dt_proj.bias)
            assert steps.min() >= 1e-4
            assert steps.max() <= 0.1001
            assert branch.dt_proj.weight.abs().max() <= branch.dt_rank**-0.5
    rates = [block.drop_path.drop_prob for block in encoder.layers]
    assert rates == pytest.approx([0, 0, 0.1 / 3, 0.2 / 3])


def test_one_direction_takes_any_length_without_class_token() -> None:
    encoder = small(directions=("rows",), class_token=False, positions="fixed", final_norm=False)
    assert not isinstance(encoder.positions, nn.Parameter)
    assert encoder(pictures()).shape == (2, 6, DIM)
    # Causal: what comes later does not reach back.
    tokens = encoder.embed(pictures())
    torch.testing.assert_close(encoder.layers[0](tokens[:, :4]), encoder.layers[0](tokens)[:, :4])


def test_fixed_positions_show_column_and_row() -> None:
    positions = sin_cos_positions(8, (2, 3))
    assert positions.shape == (1, 6, 8)
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]  # column 2
    expected += [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]  # row 1
    torch.testing.assert_close(positions[0, 5], torch.tensor(expected))
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        sin_cos_positions(6, (2, 3))


def test_resizing_positions_keeps_the_class_slot_apart() -> None:
    positions = torch.randn(1, 7, 8)
    same = resize_positions(positions, grid=(2, 3), new_grid=(2, 3))
    assert torch.equal(same, positions)
    larger = resize_positions(positions, grid=(2, 3), new_grid=(4, 5))
    assert larger.shape == (1, 21, 8)
    torch.testing.assert_close(larger[:, 10], positions[:, 3])
    patches = torch.cat([positions[:, :3], positions[:, 4:]], dim=1)
    grids = patches.view(1, 2, 3, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(grids, (4, 5), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(resize_positions(patches, grid=(2, 3), new_grid=(4, 5)), expected)
    torch.testing.assert_close(torch.cat([larger[:, :10], larger[:, 11:]], dim=1), expected)
    with pytest.raises(ValueError, match=r"7 positions do not fit a grid of \(3, 3\)"):
        resize_positions(positions, grid=(3, 3), new_grid=(4, 5))


def test_views_are_averaged_within_their_study() -> None:
    tokens = torch.tensor([1.0, 3.0, 10.0]).view(3, 1, 1)
    assert average_views(tokens, torch.tensor([2, 1])).flatten().tolist() == [2.0, 10.0]


@pytest.mark.parametrize("per_direction", [True, False])
@pytest.mark.parametrize("target", LORA_TARGETS)
def test_adapters_start_without_effect_learn_alone_and_merge(
    target: str, per_direction: bool
) -> None:
    encoder, images = small().double().eval(), pictures(dtype=torch.float64)
    before = encoder(images)
    encoder.requires_grad_(False)
    adapters = add_partial_lora(
        encoder, target, rank=2, scale=0.5, dropout=0.1, per_direction=per_direction
    )
    assert torch.equal(encoder(images), before)
    wake(adapters)
    after = encoder(images)
    assert (after - before).abs().max() > 1e-6
    (after * torch.randn_like(after)).sum().backward()
    learning = {id(parameter) for parameter in encoder.parameters() if parameter.grad is not None}
    assert learning == {id(parameter) for parameter in adapters}
    assert all(parameter.grad.any() for parameter in adapters)
    merge_lora(encoder)
    assert set(encoder.state_dict()) == set(small().state_dict())
    torch.testing.assert_close(encoder(images), after, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("target", "layer", "first", "last"),
    [
        ("X", "mixer.in_proj", 0, DIM),
        ("Z", "mixer.in_proj", DIM, 2 * DIM),
        ("dt", "mixer.branches.columns.x_proj", 0, 2),
        ("B", "mixer.branches.columns.x_proj", 2, 2 + STATE),
        ("C", "mixer.branches.columns.x_proj", 2 + STATE, 2 + 2 * STATE),
    ],
)
def test_a_partial_adapter_changes_its_rows_alone(
    target: str, layer: str, first: int, last: int
) -> None:
    encoder = small().double()
    plain = copy.deepcopy(encoder)
    wake(add_partial_lora(encoder, target, rank=2, scale=0.5))
    adapted = encoder.get_submodule(f"layers.1.{layer}")
    expected = plain.get_submodule(f"layers.1.{layer}").weight.detach().clone()
    adapter = adapted.adapters[target]
    expected[first:last] += 0.5 * (adapter.up @ adapter.down).detach()
    merge_lora(encoder)
    torch.testing.assert_close(adapted.weight.detach(), expected)


BASE = {
    **dict.fromkeys(["X", "Z", "out_proj"], 294_912),
    **{"in_proj": 442_368, "x_proj": 651_264, "patch_embed": 24_576},
    **dict.fromkeys(["dt", "dt_proj"], 626_688),
    **dict.fromkeys(["B", "C"], 602_112),
}
LARGE = {
    **dict.fromkeys(["X", "Z", "out_proj"], 786_432),
    **{"in_proj": 1_179_648, "x_proj": 1_720_320, "patch_embed": 28_672},
    **dict.fromkeys(["dt", "dt_proj"], 1_671_168),
    **dict.fromkeys(["B", "C"], 1_597_440),
}


@pytest.mark.parametrize(("size", "counts"), [("base", BASE), ("large", LARGE)])
def test_adapters_have_the_number_of_parameters_of_their_definition(
    size: str, counts: dict[str, int]
) -> None:
    assert set(counts) == set(LORA_TARGETS)
    with torch.device("meta"):
        encoder = make_xray_mamba(size)
        encoder.requires_grad_(False)
        for target, count in counts.items():
            adapters = add_partial_lora(encoder, target, rank=16)
            assert sum(parameter.numel() for parameter in adapters) == count, target
    learning = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert learning == sum(counts.values())


def test_directions_may_share_one_adapter() -> None:
    encoder = small()
    adapters = add_partial_lora(encoder, "B", rank=2, per_direction=False)
    assert sum(parameter.numel() for parameter in adapters) == 2 * 2 * (DIM + STATE)
    names = [name for name in encoder.state_dict() if ".adapters." in name]
    assert len(names) == len(adapters), "each tensor is saved once"
    wake(adapters)
    copied = copy.deepcopy(encoder)
    torch.testing.assert_close(copied(pictures()), encoder(pictures()))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="target must be one of X, Z, .*, got 'Q'"):
        add_partial_lora(small(), "Q", rank=2)
    with pytest.raises(ValueError, match=r"\(8, 12\) must be whole patches of patch_size 5"):
        small(patch_size=5)
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        small(depth=0)
    for directions in ((), ("rows", "rows"), ("up",)):
        with pytest.raises(ValueError, match="directions must be different ones of rows"):
            small(directions=directions)
    with pytest.raises(ValueError, match=r"must be \(v, 3, 8, 12\), got \(2, 3, 12, 8\)"):
        small()(torch.zeros(2, 3, 12, 8))


@pytest.mark.parametrize(
    ("size", "count"), [("tiny", 5_803_968), ("base", 84_262_656), ("large", 296_010_720)]
)
def test_xray_mamba_has_the_published_number_of_parameters(size: str, count: int) -> None:
    with torch.device("meta"):
        encoder = make_xray_mamba(size)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count
    assert (encoder.grid, encoder.num_tokens, encoder.class_index) == ((14, 14), 197, 98)


def test_stage_one_encoder_is_as_published() -> None:
    with torch.device("meta"):
        encoder = make_stage_one_encoder("base")
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 79_934_208
    assert (encoder.grid, encoder.num_tokens) == ((12, 12), 144)


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be one of nano, tiny, base, large, got 'huge'"):
        make_xray_mamba("huge")
