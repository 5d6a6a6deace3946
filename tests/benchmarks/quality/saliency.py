"""Where a discriminator of phantoms looks, beside maps that saw no image, and how fast it looks.

Run: radrep prepare phantom --num-studies 1600 --out data/phantom
     radrep train sdam_discriminator_cpu --set data.prepared=data/phantom --out runs/phantom \\
         --set data.image_size=192 --set model.backbone.stride=16 --set model.dropout=0 \\
         --set train.epochs=4 --set model.backbone.frozen_stages=0 --set model.words=0 \\
         --set optim.encoder_lr=3.0e-4
     python -m tests.benchmarks.quality.saliency runs/phantom data/phantom

The peers, on the same findings: a Gaussian at the centre, the commonest place of each kind (of the
500 phantoms of another seed) and a random map.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from radrep.data.store import PreparedStudies
from tests.saliency.localisation import (
    MARGIN,
    center_prior,
    find_maps,
    mass_inside,
    mean_region,
    open_discriminator,
    phantom_regions,
    pointing_game,
    random_map,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("phantoms", type=Path, help="prepared with seed 0")
    words = parser.parse_args()
    maker = open_discriminator(words.run)
    studies = PreparedStudies(words.phantoms, "test")
    films = [studies.read_images(index)[0] for index in range(len(studies))]
    start = time.perf_counter()
    for film in films:
        maker.summarize(film)
    rate = len(films) / (time.perf_counter() - start)
    size, rng = len(films[0]), np.random.default_rng(0)
    others = phantom_regions(1, range(500), size)
    print(
        f"{rate:.0f} images/s; pointing game exact / with a margin of {MARGIN} pixels, mass inside"
    )
    heads = " ".join(f"{head:>20s}" for head in ("maps", "centre", "commonest place", "random"))
    print(f"{'':14s} {'n':>4s} {'area':>6s} {heads}")
    rows: dict[str, list[list[float]]] = {}
    for kind, pairs in find_maps(maker, words.phantoms).items():
        place, center = mean_region(list(others[kind].values())), center_prior(size)
        for map_, region in pairs:
            scores = [float(region.mean())]
            for each in (map_, center, place, random_map(rng, size)):
                scores += [pointing_game(each, region, margin) for margin in (0, MARGIN)]
                scores.append(mass_inside(each, region))
            rows.setdefault(kind, []).append(scores)
            rows.setdefault("all", []).append(scores)
    for kind in [*(kind for kind in rows if kind != "all"), "all"]:
        area, *scores = np.mean(rows[kind], axis=0)
        told = [" / ".join(f"{x:.3f}" for x in scores[i : i + 3]) for i in range(0, len(scores), 3)]
        print(f"{kind:14s} {len(rows[kind]):4d} {area:6.3f} " + " ".join(f"{t:>20s}" for t in told))


if __name__ == "__main__":
    main()
