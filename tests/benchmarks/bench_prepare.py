"""What `radrep prepare` does to one image, against Pillow alone decoding the same file.

Run: python -m tests.benchmarks.bench_prepare [--images 32] [--size 2048] [--short-side 256]

Ours is the whole way by what `radrep prepare` itself calls for each study: read, decode, resize,
encode as PNG, hash twice (content and looks), and write into a shard. Pillow's is the least that
anyone can do with the file: decode it in draft mode, at the smallest scale that is not below the
short side. Both run in turn on one core, and what counts is that core's time, so that other
programs on the machine do not. A target: ours at no less than 0.7 of Pillow's rate.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from radrep.data.arrow import ShardWriter, encode_png
from radrep.data.image_io import read_image
from radrep.data.store import study_features, study_row
from radrep.data.study import SourceImage, SourceStudy, Study
from radrep.preparation.study_images import PlannedStudy, make_images
from tests.benchmarks.rows import Row, compare

QUALITY = 92
GRAIN = 4.0  # standard deviation of a film's noise, in grey levels


def draw(folder: Path, num_images: int, size: int) -> list[Path]:
    """Films of soft shapes and grain, which pack into as many bytes as real ones."""
    generator = np.random.default_rng(0)
    grain = generator.normal(0.0, GRAIN, (size, size)).astype(np.float32)
    paths = []
    for k in range(num_images):
        shapes = generator.integers(0, 255, (size // 64, size // 64)).astype(np.float32)
        soft = Image.fromarray(shapes).resize((size, size), Image.Resampling.BICUBIC)
        film = np.clip(np.asarray(soft) + np.roll(grain, 17 * k), 0, 255).astype(np.uint8)
        paths.append(folder / f"{k}.jpg")
        Image.fromarray(film).save(paths[-1], quality=QUALITY)
    return paths


def decode_alone(paths: list[Path], short_side: int) -> None:
    for path in paths:
        with Image.open(path) as picture:
            picture.draft("L", (short_side, short_side))
            picture.load()


def whole_way(paths: list[Path], short_side: int) -> None:
    writer = ShardWriter(paths[0].with_name("train-00000.arrow"), study_features())
    for path in paths:
        image = SourceImage(path.name, partial(read_image, path))
        study = SourceStudy(path.stem, None, "train", (image,), {"findings": "Clear."})
        made = make_images(PlannedStudy(study, 0, None), image_size=short_side, views="all")
        row = Study(study.id, None, study.split, made.images, study.sections, "drawn")
        writer.write(study_row(row, made.files, made.hashes))
    writer.close()


def rate(work: Callable[[list[Path], int], None], paths: list[Path], short_side: int) -> float:
    """Images a second of one core."""
    start = time.process_time()
    work(paths, short_side)
    return len(paths) / (time.process_time() - start)


def rows(repeats: int, tiny: bool) -> Iterator[Row]:
    """One image, by the time of one core."""
    count, size, short_side = (2, 256, 64) if tiny else (16, 2048, 256)
    with tempfile.TemporaryDirectory() as folder:
        paths = draw(Path(folder), count, size)
        yield compare(
            f"radrep prepare, {count} JPEGs of {size} px to {short_side}, one core",
            lambda: whole_way(paths, short_side),
            "Pillow's decoding alone, draft mode",
            lambda: decode_alone(paths, short_side),
            repeats,
            clock=time.process_time,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--short-side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = draw(Path(folder), arguments.images, arguments.size)
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
        print(f"{len(paths)} JPEGs of {arguments.size} px, {kilobytes:.0f} kB each, on one core")
        whole_way(paths[:1], arguments.short_side)  # imports what writes shards
        rounds = []
        for _ in range(arguments.rounds):
            pillow = rate(decode_alone, paths, arguments.short_side)
            ours = rate(whole_way, paths, arguments.short_side)
            rounds.append((ours / pillow, ours, pillow))
        ratio, ours, pillow = sorted(rounds)[len(rounds) // 2]
        print(f"Pillow alone, draft mode  {pillow:6.1f} images/s")
        print(f"ours, the whole way       {ours:6.1f} images/s")
        print(f"ours / Pillow             {ratio:6.2f}   (rounds {min(rounds)[0]:.2f} to "
              f"{max(rounds)[0]:.2f})")  # fmt: skip
        films = [read_image(path, arguments.short_side) for path in paths]
        start = time.process_time()
        packed = sum(len(encode_png(film)) for film in films) / len(films)
        took = (time.process_time() - start) / len(films)
        print(f"of it, PNG                {took * 1e3:6.2f} ms an image, {packed / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
