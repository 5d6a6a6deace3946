"""The X-ray Mamba beside a timm ViT of its size: its speed, or both trained whole on phantoms.

Run: python -m tests.benchmarks.bench_xray_mamba --speed base --batch 1 8
     radrep prepare phantom --num-studies 20000 --image-size 64 --finding-scale 1.5
     python -m tests.benchmarks.bench_xray_mamba --data data/phantom --out runs/bench

Speed is seconds of the processor, the median of rounds in which all take turns: with the fused
kernels, without them, and timm's ViT-B/16 beside the size base. When trained, both have the same
recipe: studies, steps, rates, patches and width. Mean AUROC on test, with the images and with
shuffled ones, and seconds of the processor for the whole training.
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from radrep import build
from radrep.evaluation.discriminator import evaluate_discriminator
from radrep.models.xray_mamba import XRAY_MAMBA_SIZES, XrayMamba, make_xray_mamba
from radrep.progress import Reporter
from radrep.recipe.load import load_recipe
from radrep.training.run import train
from radrep.weights.checkpoint import load_checkpoint


class VitTokens(nn.Module):
    """A ViT of the width of an X-ray Mamba, with a class token in front; at depth 5 as large."""

    def __init__(self, like: XrayMamba) -> None:
        super().__init__()
        self.dim, self.mean, self.std = like.dim, like.mean, like.std
        self.vit = VisionTransformer(
            img_size=like.image_size,
            patch_size=like.patch_size,
            embed_dim=like.dim,
            depth=len(like.layers) + 1,
            num_heads=like.dim // 32,
            num_classes=0,
            global_pool="",
        )

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.vit.forward_features(images)
        return tokens


def build_with_vit(*arguments: Any, **options: Any) -> Any:
    model = cast(Any, build.build_model(*arguments, **options))
    model.encoder = VitTokens(model.encoder)
    return model


def seconds(model: nn.Module, images: Tensor, *, precision: str, backward: bool) -> float:
    start = time.process_time()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with autocast, torch.set_grad_enabled(backward):
        tokens = model(images)
    if backward:
        tokens.float().square().mean().backward()
        model.zero_grad()
    return time.process_time() - start


def compare_speed(size: str, batches: list[int], precisions: list[str], rounds: int) -> None:
    side, patch_size = (64, 8) if size == "nano" else (224, 16)
    mamba = make_xray_mamba(size, image_size=side, patch_size=patch_size)
    models: dict[str, nn.Module] = {"fused": mamba, "not fused": mamba}
    if size == "base":
        models["ViT-B/16"] = VisionTransformer(num_classes=0, global_pool="")
    print(f"{size}, {torch.get_num_threads()} threads, {rounds} rounds")
    for precision, batch, backward in product(precisions, batches, (False, True)):
        images = torch.randn(batch, 3, side, side)
        times: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(rounds + 1):
            for name, model in models.items():
                plain = patch("radrep.modules.mamba_block.has_fused_kernels", lambda x: False)
                with plain if name == "not fused" else nullcontext():
                    times[name].append(
                        seconds(model, images, precision=precision, backward=backward)
                    )
        medians = {name: statistics.median(own[1:]) for name, own in times.items()}
        shown = "  ".join(f"{name} {median:.3f} s" for name, median in medians.items())
        ratios = "  ".join(
            f"fused / {name} {medians['fused'] / median:.2f}"
            for name, median in medians.items()
            if name != "fused"
        )
        task = "with backward" if backward else "forward"
        print(f"{precision}  batch {batch}  {task:14}{shown}  {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/phantom"))
    parser.add_argument("--out", type=Path, default=Path("runs/bench_xray_mamba"))
    parser.add_argument("--recipe", default="pretrain_labels_phantom")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--only", choices=("mamba", "vit"))
    parser.add_argument("--speed", choices=XRAY_MAMBA_SIZES)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.speed:
        compare_speed(arguments.speed, arguments.batch, arguments.precision, arguments.rounds)
        return
    recipe = load_recipe(arguments.recipe, [f"data.prepared={arguments.data}", *arguments.set])
    for name, make in (("mamba", build.build_model), ("vit", build_with_vit)):
        if arguments.only not in (None, name):
            continue
        with (
            patch("radrep.training.run.build_model", make),
            patch("radrep.weights.checkpoint.build_model", make),
        ):
            start = time.process_time()
            run = train(recipe, out=arguments.out / name).run
            seconds = time.process_time() - start
            loaded = load_checkpoint(run / "best")
            found = evaluate_discriminator(loaded, split="test", out=None, reporter=Reporter())
        size = sum(p.numel() for p in loaded.model.parameters())
        print(
            f"{name:6}{size:>10,} parameters  AUROC {found.scores.macro('auroc'):.3f}  shuffled "
            f"{found.shuffled_auroc:.3f}  {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
