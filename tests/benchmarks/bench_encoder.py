"""Time of the X-ray Mamba beside a timm ViT, and beside itself without its fused kernels.

Run: python -m tests.benchmarks.bench_encoder [--repeats 3]

The ViT has its width, depth and patches and so the same matrix products (86 million parameters and
84, base); beyond them are the scan in four directions and what lies around it.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from radrep.models.xray_mamba import XRAY_MAMBA_SIZES, XrayMamba
from tests.benchmarks.rows import NO_BFLOAT16, Row, compare, has_bfloat16, show


def forward(model: nn.Module, images: Tensor, dtype: torch.dtype) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        model(images)


def both(model: nn.Module, images: Tensor, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(images).float().square().mean()
    loss.backward()
    model.zero_grad()


def without_fused_kernels(run: Callable[[], None]) -> None:
    with patch("radrep.modules.mamba_block.has_fused_kernels", lambda x: False):
        run()


def rows(repeats: int, tiny: bool) -> Iterator[Row]:
    """Forward, and with backward, of one image and of a batch, in float32 and bfloat16."""
    dim, depth = (16, 1) if tiny else XRAY_MAMBA_SIZES["base"]
    side, counts = (32, (1,)) if tiny else (224, (1, 8))
    ours = XrayMamba(dim=dim, depth=depth, image_size=side, drop_path=0.0)
    theirs = VisionTransformer(
        img_size=side, embed_dim=dim, depth=depth, num_heads=dim // min(dim, 64), num_classes=0
    )
    size = f"{dim} x {depth}"
    for dtype in (torch.float32, torch.bfloat16):
        for count in counts:
            given = (torch.randn(count, 3, side, side), dtype)
            for what, run in (("forward", forward), ("with backward", both)):
                work = f"X-ray Mamba, {size}, {side} px, {str(dtype)[6:]}, batch {count}, {what}"
                vit = f"timm's ViT, {size}, patches of 16" + " (ViT-B/16)" * (not tiny)
                if dtype == torch.bfloat16 and not has_bfloat16():
                    yield Row(work, vit, why_not=NO_BFLOAT16)
                    continue
                own = partial(run, ours, *given)
                yield compare(work, own, vit, partial(run, theirs, *given), repeats)
                plain = partial(without_fused_kernels, own)
                yield compare(work, own, "without the fused kernels", plain, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    show(rows(parser.parse_args().repeats, tiny=False))


if __name__ == "__main__":
    main()
