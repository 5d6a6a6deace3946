"""From films to features and to reports, beside the backbone alone; and one film from a cold start.

Run: python -m tests.benchmarks.bench_films [--repeats 5]
     python -m tests.benchmarks.bench_films --memory 2000

The peer of features and of reports is timm's backbone on pixels that are in memory: what reading,
preprocessing, selection of a report and writing cost beside it. The peer of a cold start is a
process that imports torch and does nothing. Weights are drawn, and reports of a model of one epoch.

With --memory, a process of its own writes the reports of so many small films by a tiny model, and
its peak memory is printed at a quarter, at half and at the end of them.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import timm
import torch

from radrep.build import build_preprocess, build_selection
from radrep.inference.generator import ReportGenerator
from radrep.preparation.pipeline import prepare
from radrep.preparation.sources.phantom.source import PhantomSource
from radrep.progress import Advance, Reporter
from radrep.recipe.load import load_recipe
from radrep.recipe.recipe import Recipe
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
TINY = ("test_resnet.r160_in1k", 64)  # backbone, pixels


def bare(name: str, num_films: int, side: int) -> Callable[[], None]:
    model = timm.create_model(name, pretrained=False, num_classes=0, global_pool="").eval()
    pixels = torch.randn(BATCH, 3, side, side)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, num_films, BATCH):
                model(pixels[: num_films - start])

    return run


def train_selecting(folder: Path, name: str, side: int, num_studies: int) -> tuple[Recipe, Path]:
    """A recipe that selects and edits reports by a frozen backbone, and its checkpoint."""
    source = PhantomSource(num_studies, image_size=side, splits=(0.8, 0.1, 0.1))
    prepared = prepare(source, folder / "data", image_size=side, workers=1).out
    backbone = {"name": name, "weights": "none", "frozen": True}
    file = write_recipe(
        folder,
        prepared,
        data={"image_size": side},
        model={"backbone": backbone, "enhancer": {"mode": "none"}},
        train={"epochs": 1},
        decode={"method": "select", "edit": {}},
    )
    recipe = load_recipe(str(file))
    return recipe, train(recipe).best


def rows(repeats: int, tiny: bool) -> Iterator[Row]:
    """Features, reports, and one report cold."""
    name, side = TINY if tiny else ("tf_efficientnet_lite0", 224)
    num_films, pixels = (8, 128) if tiny else (256, 512)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        recipe, checkpoint = train_selecting(folder, name, side, num_films + 32)
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


def start(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
    return done.stdout


class PeakMemory(Reporter):
    """Notes at shares of the reports the peaks of this process and of its workers, added up."""

    def __init__(self, shares: tuple[float, ...]) -> None:
        self._shares = shares
        self._peaks: dict[int, int] = {}
        self.noted: list[float] = []  # MB, of the shares reached

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Look at the memory whenever reports are done."""
        done = 0

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal done
            done += n
            workers = [child.pid for child in multiprocessing.active_children() if child.pid]
            for process in (os.getpid(), *workers):
                with suppress(FileNotFoundError):  # the worker has ended
                    self._peaks[process] = peak_bytes(process)
            reached = sum(done >= share * total for share in self._shares)
            missing = reached - len(self.noted)
            self.noted += [sum(self._peaks.values()) / 1e6] * missing

        yield advance


def peak_bytes(process: int) -> int:
    """The most memory that a process has had, with the pages of libraries that others share."""
    status = Path(f"/proc/{process}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return 1024 * int(fields.get("VmHWM", "0 kB").split()[0])


def write_watched(checkpoint: str, films: str, out: str, *shares: str) -> None:
    """Write the reports of a folder, and as JSON the peak memory in MB at each share of them."""
    memory = PeakMemory(tuple(map(float, shares)))
    generator = ReportGenerator(Path(checkpoint))
    write_folder(find_studies(Path(films)), generator, Path(out), reporter=memory)
    print(json.dumps(memory.noted))


# Workers import the main module of who starts them, and that of a command is not this one.
WATCHED = """
import sys
from tests.benchmarks.bench_films import write_watched
write_watched(*sys.argv[1:])
"""


def print_memory(num_films: int, pixels: int = 128) -> None:
    """Peak memory at a quarter, at half and at the end of the reports of so many films."""
    shares = (0.25, 0.5, 1.0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _, checkpoint = train_selecting(folder, *TINY, 40)
        films = folder / "films"
        films.mkdir()
        draw(films, num_films, pixels)
        words = (str(checkpoint), str(films), str(folder / "reports"), *map(str, shares))
        begin = time.perf_counter()
        peaks = json.loads(start("-c", WATCHED, *words))
        seconds = time.perf_counter() - begin
    for share, peak in zip(shares, peaks, strict=True):
        print(f"{share:4.0%} of {num_films:,} films of {pixels} pixels: peak {peak:,.0f} MB")
    print(f"{seconds:.0f} s, with the start of the process")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--memory", type=int, metavar="FILMS", help="peak memory of so many reports instead"
    )
    arguments = parser.parse_args()
    if arguments.memory is not None:
        print_memory(arguments.memory)
    else:
        show(rows(arguments.repeats, tiny=False))


if __name__ == "__main__":
    main()
