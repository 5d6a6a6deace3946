"""Named sizes of the models, each with the paper it comes from."""

from dataclasses import dataclass
from typing import Any

from radrep.models.xray_mamba import XrayMamba


@dataclass(frozen=True)
class XrayMambaSize:
    """A size of the vision encoder.

    Attributes:
        dim: Width.
        depth: Number of blocks.
        paper: Where the size is from.
    """

    dim: int
    depth: int
    paper: str


XRAY_MAMBA_SIZES = {
    "tiny": XrayMambaSize(192, 12, "ours, 5.8 M, for a CPU"),
    "base": XrayMambaSize(768, 12, "MambaXray-VL, arXiv 2410.00379, 84 M"),
    "large": XrayMambaSize(1024, 24, "MambaXray-VL, arXiv 2410.00379, 296 M"),
}


def make_xray_mamba(size: str, **options: Any) -> XrayMamba:
    """Make a vision encoder of a named size.

    Args:
        size: One of `XRAY_MAMBA_SIZES`.
        options: Further arguments of `XrayMamba`.

    Returns:
        The encoder, untrained.

    Raises:
        ValueError: If there is no such size.
    """
    if size not in XRAY_MAMBA_SIZES:
        raise ValueError(f"size must be one of {', '.join(XRAY_MAMBA_SIZES)}, got {size!r}")
    chosen = XRAY_MAMBA_SIZES[size]
    return XrayMamba(dim=chosen.dim, depth=chosen.depth, **options)


def make_stage_one_encoder(size: str, **options: Any) -> XrayMamba:
    """Make the encoder of autoregressive pretraining: one direction, no class token, no last norm.

    Args:
        size: One of `XRAY_MAMBA_SIZES`.
        options: Further arguments of `XrayMamba`, such as image_size, published at 192.

    Returns:
        The encoder, untrained.

    Raises:
        ValueError: If there is no such size.
    """
    return make_xray_mamba(
        size,
        **{
            "image_size": 192,
            "directions": ("rows",),
            "class_token": False,
            "positions": "fixed",
            "final_norm": False,
            "drop_path": 0.0,
            **options,
        },
    )
