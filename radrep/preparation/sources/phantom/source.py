"""Phantoms: synthetic chest radiographs and reports that need neither licence nor download.

A study has streams of random numbers of its own: scene (body, pose, exposure), findings, wording of
each text. So only the drawn findings predict the report, and any study can be drawn alone.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from radrep.data.study import SPLITS, SourceImage, SourceStudy
from radrep.errors import DataError
from radrep.preparation.sources.base import Source
from radrep.preparation.sources.phantom import drawing
from radrep.preparation.sources.phantom.body import SIDES
from radrep.preparation.sources.phantom.report import (
    write_impression,
    write_indication,
    write_report,
)

PREVALENCE = 0.24  # of each kind among studies; each kind on each side has half of it
_SCENE, _FINDINGS, _WORDING, _IMPRESSION, _INDICATION = range(5)


class PhantomSource(Source):
    """Phantom studies: one square frontal image and a findings section each.

    With one seed the first studies of a long source are those of a short one, but for their split.
    `splits` are the shares of train, val and test; the areas of findings are `finding_scale` times
    those of `drawing.EXTENTS`, which reach 5 % of the film. With `impressions` there is an
    impression too, with `indications` an indication that names this share of the findings.
    """

    name = "phantom"
    layout = "drawn"

    def __init__(
        self,
        num_studies: int,
        seed: int = 0,
        image_size: int = 256,
        splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
        finding_scale: float = 1.0,
        impressions: bool = False,
        indications: float | None = None,
    ) -> None:
        if num_studies < 1:
            raise DataError(f"num_studies must be at least 1, got {num_studies}")
        if seed < 0:
            raise DataError(f"seed must not be negative, got {seed}")
        if image_size < 64:
            raise DataError(f"image_size must be at least 64, got {image_size}")
        if len(splits) != 3 or min(splits) < 0 or abs(sum(splits) - 1) > 1e-6:
            raise DataError(f"splits must be three shares that add up to 1, got {splits}")
        if not 0.5 <= finding_scale <= 2:  # above, an effusion leaves no lung
            raise DataError(f"finding_scale must be 0.5 to 2, got {finding_scale}")
        self._seed = seed
        self._finding_scale = finding_scale
        self._impressions, self._indications = impressions, indications
        self._image_size = image_size
        ends = [0, *(round(num_studies * sum(splits[: i + 1])) for i in range(3))]
        self._counts = {split: ends[i + 1] - ends[i] for i, split in enumerate(SPLITS)}
        self.expected_counts = self.expected_images = self._counts
        self.splits = frozenset(split for split, count in self._counts.items() if count)

    def fingerprint(self, advance: Callable[[], None] = lambda: None) -> str:
        """A hash of the parameters and of the version of drawing and wording."""
        decides = [drawing.VERSION, self._seed, self._image_size, self._counts]
        if self._finding_scale != 1:
            decides.append(self._finding_scale)
        if self._impressions or self._indications is not None:
            decides.append([self._impressions, self._indications])
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __iter__(self) -> Iterator[SourceStudy]:
        """Yield the studies, train first; an image is drawn when it is read."""
        for index, split in enumerate(Counter(self._counts).elements()):
            name = f"phantom-{index:06d}"
            scale = self._finding_scale
            read = partial(draw_study, self._seed, index, self._image_size, finding_scale=scale)
            findings = study_findings(self._seed, index, scale)
            sections = self._write_sections(index, findings)
            images = (SourceImage(f"{name}-frontal", read, "frontal"),)
            yield SourceStudy(name, name, split, images, sections)

    def _write_sections(self, index: int, findings: Sequence[drawing.Finding]) -> dict[str, str]:
        stream = partial(_stream, self._seed, index)
        sections = {"findings": write_report(findings, stream(_WORDING))}
        if self._impressions:
            sections["impression"] = write_impression(findings, stream(_IMPRESSION))
        if self._indications is not None:
            share = self._indications
            sections["indication"] = write_indication(findings, share, stream(_INDICATION))
        return sections


def draw_study(
    seed: int, index: int, image_size: int, short_side: int = 0, *, finding_scale: float = 1.0
) -> np.ndarray:
    """Draw the image of a study, uint8 (image_size, image_size), whatever the short side."""
    scene = _stream(seed, index, _SCENE)
    return drawing.draw_phantom(scene, study_findings(seed, index, finding_scale), image_size)


def study_regions(seed: int, index: int, image_size: int) -> dict[str, np.ndarray]:
    """The regions of a study's findings by kind, bool (image_size, image_size)."""
    findings = study_findings(seed, index)
    regions = drawing.find_regions(_stream(seed, index, _SCENE), findings, image_size)
    return {finding.kind: region for finding, region in zip(findings, regions, strict=True)}


def study_findings(seed: int, index: int, scale: float = 1.0) -> tuple[drawing.Finding, ...]:
    """The findings of a study, at most one of each kind; `scale` multiplies their areas."""
    rng = _stream(seed, index, _FINDINGS)
    kinds = [kind for kind in drawing.KINDS if rng.random() < PREVALENCE]
    sides = {kind: SIDES[rng.integers(2)] for kind in kinds}
    sizes = {kind: int(rng.integers(len(drawing.SIZES))) for kind in kinds}
    scales = {kind: scale**0.5 if kind in drawing.LENGTHS else scale for kind in kinds}
    extents = {
        kind: rng.uniform(*drawing.EXTENTS[kind][sizes[kind]]) * scales[kind] for kind in kinds
    }
    places: dict[str, tuple[float, float]] = {}
    for side in SIDES:
        here = [kind for kind in kinds if sides[kind] == side]
        places |= _places(rng, {kind: extents[kind] for kind in here})
    seeds = {kind: int(rng.integers(2**32)) for kind in kinds}
    return tuple(
        drawing.Finding(k, sides[k], drawing.SIZES[sizes[k]], extents[k], places[k], seeds[k])
        for k in kinds
    )


def _places(rng: np.random.Generator, extents: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Places in one lung such that no finding hides another: each has a floor of its own."""
    free = extents.get("pneumothorax", 0.0)
    top = 0.12 + 0.6 * free
    bottom = 0.86 - extents.get("effusion", 0.0)
    floors = [kind for kind in extents if kind not in ("effusion", "pneumothorax")]
    rng.shuffle(floors)
    places = dict.fromkeys(extents, (0.5, 0.5))
    for i, kind in enumerate(floors):
        down = top + (bottom - top) * (i + rng.uniform(0.15, 0.85)) / len(floors)
        places[kind] = (rng.uniform(0.25, 0.75 - 0.7 * free), down)
    return places


def _stream(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, purpose])
