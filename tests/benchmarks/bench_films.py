"""From films to features and to reports, beside the backbone alone; and one film from a cold start.

Run: python -m tests.benchmarks.bench_films [--repeats 5]

The peer of features and of reports is timm's backbone on pixels that are in memory: what reading,
preprocessing, selection of a report and writing cost beside it. The peer of a cold start is a
process that imports torch and does nothing. Weights are drawn, and reports of a model of one epoch.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import timm
import torch

from radrep.build import build_preprocess, build_selection
from radrep.inference.generator import ReportGenerator
from radrep.preparation.pipeline import prepare
from radrep.preparation.sources.phantom.source import PhantomSource
from radrep.recipe.load import load_recipe
from radrep.reporting.studies import find_studies
from radrep.reporting.write_folder import write_folder
from radrep.saliency.masked_split import read_split
from radrep.training.features.image_pass import ImagePass, Pixels
from radrep.training.features.selected_images import SelectedImages
from radrep.training.run import train
from tests.benchmarks.bench_prepare import draw
from tests.benchmarks.rows import Row, compare, show
from tests.whole_way import write_recipe

BATCH = 16


def bare(name: str, num_films: int, side: int) -> Callable[[], None]:
    model = timm.create_model(name, pretrained=False, num_classes=0, global_pool="").eval()
    pixels = torch.randn(BATCH, 3, side, side)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, num_films, BATCH):
                model(pixels[: num_films - start])

    return run


def rows(repeats: int, tiny: bool) -> Iterator[Row]:
    """Features, reports, and one report cold."""
    name, side = ("test_resnet.r160_in1k", 64) if tiny else ("tf_efficientnet_lite0", 224)
    num_films, pixels = (8, 128) if tiny else (256, 512)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = PhantomSource(num_films + 32, image_size=side, splits=(0.8, 0.1, 0.1))
        prepared = prepare(source, folder / "data", image_size=side, workers=1).out
        backbone = {"name": name, "weights": "none", "frozen": True}
        recipe = load_recipe(
            str(
                write_recipe(
                    folder,
                    prepared,
                    data={"image_size": side},
                    model={"backbone": backbone, "enhancer": {"mode": "none"}},
                    train={"epochs": 1},
                    decode={"method": "select", "edit": {}},
                )
            )
        )
        checkpoint = train(recipe).best
        generator = ReportGenerator(checkpoint)
        model, peer = generator.loaded.model, f"timm's {name} alone, batches of {BATCH}"
        encoder = model.frozen_encoder()
        assert encoder is not None, "the recipe freezes it"
        studies = read_split(recipe.data, "train")
        images = Pixels.of(
            SelectedImages.find(studies, build_selection(recipe.data)),
            build_preprocess(recipe.data, model),
        )
        whole_pass = ImagePass([encoder], images, torch.device("cpu"))
        yield compare(
            f"features of {len(images)} prepared films at {side} px",
            lambda: [*whole_pass.batches([range(len(images))])],
            peer,
            bare(name, len(images), side),
            repeats,
        )
        films = folder / "films"
        films.mkdir()
        paths = draw(films, num_films, pixels)
        found, numbers = find_studies(films), count()
        yield compare(
            f"radrep generate, {num_films} JPEGs of {pixels} px at {side}, selected and edited",
            lambda: write_folder(found, generator, folder / f"reports-{next(numbers)}"),
            peer,
            bare(name, num_films, side),
            repeats,
        )
        words = ("-m", "radrep", "generate", str(paths[0]), "--checkpoint", str(checkpoint))
        yield compare(
            "radrep generate, one film, a process of its own",
            lambda: start(*words),
            "import torch, a process of its own",
            lambda: start("-c", "import torch"),
            repeats,
        )


def start(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    show(rows(parser.parse_args().repeats, tiny=False))


if __name__ == "__main__":
    main()
