"""How fast training's batches come from a prepared folder, beside the bare decoding of its images.

Run: python tests/benchmarks/bench_training_data.py [--prepared data/iu] [--workers 0 1 2]

The model does nothing, so that all the time is the data's: reading rows, decoding, preprocessing,
tokens, and handing batches from workers to the main process. The peer, in the same run and on one
core, decodes the same PNG files with Pillow and does no more.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from radrep.data.arrow import encode_png
from radrep.data.dataset import EpochOrder, ModelStudies, ReportDataset, collate
from radrep.data.image_selection import ImageSelection
from radrep.data.preprocess import Preprocess
from radrep.data.tokenizer import Tokenizer
from radrep.preparation.pipeline import prepare
from radrep.preparation.sources.phantom.source import PhantomSource

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, help="drawn phantoms, if not given")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=1500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="radrep-data-") as name:
        prepared = arguments.prepared
        if prepared is None:
            prepared = Path(name, "data")
            prepare(PhantomSource(arguments.images, splits=(1, 0, 0)), prepared)
        studies = ModelStudies(prepared, "train", target="findings")
        files = [encode_png(studies.read_images(i)[0]) for i in range(min(500, len(studies)))]
        start = time.perf_counter()
        for file in files:
            np.asarray(Image.open(io.BytesIO(file)))
        bare = len(files) / (time.perf_counter() - start)
        print(f"bare decoding            {bare:6.0f} images/s on one core")
        dataset = ReportDataset(
            studies,
            target="findings",
            selection=ImageSelection("views", max_views=2),
            preprocess=Preprocess(size=224, mean=(0.5,) * 3, std=(0.5,) * 3),
            codec=Tokenizer.build(studies.texts("findings"), min_count=3, cleaner="r2gen_iu"),
            max_tokens=60,
            random_crop=True,
        )
        for workers in arguments.workers:
            order = EpochOrder(studies.shard_sizes, BATCH, seed=0)
            loader = DataLoader(
                dataset, batch_sampler=order, collate_fn=collate, num_workers=workers
            )
            images, start = 0, 0.0
            for number, batch in enumerate(loader):
                if number == 2 + workers:  # the workers have started
                    images, start = 0, time.perf_counter()
                images += int(batch.num_views.sum())
            rate = images / (time.perf_counter() - start)
            each = rate / max(workers, 1)
            print(
                f"{workers} workers              {rate:6.0f} images/s, {each / bare:.2f} of it each"
            )


if __name__ == "__main__":
    main()
