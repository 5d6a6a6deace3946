"""Whether a map over an image is where a finding is, and what maps score that saw no image.

Maps are (h, w), not negative; regions are bool (h, w). Phantoms know their regions: of 606 in the
first 500 phantoms of seed 0 at 256 pixels, one takes 1.7 % of the image on average, 3.7 % at the
95th percentile and 5.3 % at most. So a random map points into it in 1.7 % of cases.

Pointing without an image, there, in per cent of a kind's regions (the place of the maximum of the
mean region comes from the 500 phantoms of seed 1):

                   random   centre   mean region
    consolidation     2.1      0.0          22.1
    nodule            0.7      0.0           3.9
    atelectasis       0.4      0.0           3.6
    effusion          2.2      0.0          29.9
    pneumothorax      2.8      0.0          25.5
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from radrep.data.store import PreparedStudies
from radrep.preparation.sources.phantom.source import study_regions
from radrep.recipe.data import Saliency
from radrep.saliency.sdam import SaliencyMaker, load_discriminator

# What the observations of phantoms' findings are called.
OBSERVATIONS = {
    "consolidation": "Consolidation",
    "nodule": "Lung Lesion",
    "atelectasis": "Atelectasis",
    "effusion": "Pleural Effusion",
    "pneumothorax": "Pneumothorax",
}
MARGIN = 15  # pixels by which the published pointing game may miss


def open_discriminator(run: Path) -> SaliencyMaker:
    """The maps and masks of a discriminator, with the defaults of a mask."""
    section = Saliency(discriminator=run)
    return SaliencyMaker(load_discriminator(section), section)


def pointing_game(map: np.ndarray, region: np.ndarray, margin: int = 0) -> float:
    """1 if the map's maximum lies in the region, 0 if not (Zhang et al., 2018, section 4.1).

    Of several maxima each counts by its share; so a map of one value has the region's own share.

    Args:
        map: The map.
        region: The region.
        margin: Pixels by which the maximum may miss the region; 15 as published.
    """
    _check(map, region)
    rows, columns = np.nonzero(region)
    distances = [
        np.hypot(rows - row, columns - column).min()
        for row, column in np.argwhere(map == map.max())
    ]
    return float(np.mean(np.array(distances) <= margin))


def mass_inside(map: np.ndarray, region: np.ndarray) -> float:
    """The share of the map's sum that lies in the region; of an empty map, the region's own."""
    _check(map, region)
    total = map.sum(dtype=np.float64)
    return float(map[region].sum(dtype=np.float64) / total) if total else float(region.mean())


def _check(map: np.ndarray, region: np.ndarray) -> None:
    assert map.shape == region.shape, f"a map {map.shape} of a region {region.shape}"
    assert region.dtype == bool, f"a region of {region.dtype}"
    assert np.isfinite(map).all(), "a map with values that are not finite"
    assert map.min() >= 0, f"a map with the value {map.min()}"


def random_map(rng: np.random.Generator, size: int) -> np.ndarray:
    """Each pixel at random from 0 to 1: it looks nowhere."""
    return rng.random((size, size))


def center_prior(size: int, width: float = 0.25) -> np.ndarray:
    """A Gaussian at the image's centre: what a map can know without an image.

    Args:
        size: Height and width in pixels.
        width: Standard deviation as a share of the side.
    """
    along = (np.arange(size) - (size - 1) / 2) / (width * size)
    return np.exp(-(along[:, None] ** 2 + along**2) / 2)


def mean_region(regions: Sequence[np.ndarray]) -> np.ndarray:
    """How often each pixel lies in one of the regions.

    Its maximum is the best place to point at without looking, on the images that it comes from.
    """
    return np.mean(regions, axis=0)


def phantom_regions(
    seed: int, indices: Sequence[int], size: int
) -> dict[str, dict[int, np.ndarray]]:
    """Regions of phantoms by kind, then by the study's index."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for index in indices:
        for kind, region in study_regions(seed, index, size).items():
            found.setdefault(kind, {})[index] = region
    return found


def find_maps(
    maker: SaliencyMaker, prepared: Path, seed: int = 0
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """By kind, map and region of every finding in the test films of prepared phantoms."""
    studies = PreparedStudies(prepared, "test")
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {kind: [] for kind in OBSERVATIONS}
    for index, study in enumerate(studies):
        (film,) = studies.read_images(index)
        maps = maker.summarize(film).maps
        for kind, region in study_regions(seed, int(study.id.split("-")[1]), len(film)).items():
            small = torch.from_numpy(maps[OBSERVATIONS[kind]])[None]
            found[kind].append((maker.enlarge(small, film)[0].numpy(), region))
    return found
