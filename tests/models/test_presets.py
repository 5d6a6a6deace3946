import pytest
import torch

from radrep.models.presets import XRAY_MAMBA_SIZES, make_stage_one_encoder, make_xray_mamba


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


def test_every_size_names_its_source() -> None:
    assert all(size.paper for size in XRAY_MAMBA_SIZES.values())


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be one of tiny, base, large, got 'huge'"):
        make_xray_mamba("huge")
