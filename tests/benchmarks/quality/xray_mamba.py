"""The X-ray Mamba beside a timm ViT of its size, both trained whole on phantoms.

Run: radrep prepare phantom --num-studies 20000 --image-size 64 --finding-scale 1.5
     python -m tests.benchmarks.quality.xray_mamba --data data/phantom --out runs/xray_mamba

Both have the same recipe: studies, steps, rates, patches and width. Mean AUROC on test, with the
images and with shuffled ones, and seconds of the processor for the whole training.
"""

import argparse
import time
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from timm.models import VisionTransformer
from torch import Tensor, nn

from radrep import build
from radrep.evaluation.discriminator import evaluate_discriminator
from radrep.models.xray_mamba import XrayMamba
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/phantom"))
    parser.add_argument("--out", type=Path, default=Path("runs/xray_mamba"))
    parser.add_argument("--recipe", default="pretrain_labels_phantom")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--only", choices=("mamba", "vit"))
    arguments = parser.parse_args()
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
