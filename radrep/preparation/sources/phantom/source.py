"""Phantoms: synthetic chest radiographs and reports that need neither licence nor download.

A study has streams of random numbers of its own: scene (body, pose, exposure), findings, wording of
each text. So only the drawn findings predict the report, and any study can be drawn alone.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
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
KEPT = 0.7  # of the findings of a study before, those that are still there
_NEW = PREVALENCE * (1 - KEPT) / (1 - PREVALENCE)  # so that the prevalence stays
_SAME_SIZE = 0.5
_SCENE, _FINDINGS, _WORDING, _IMPRESSION, _INDICATION, _CHANGES = range(6)


class PhantomSource(Source):
    """Phantom studies: one square frontal image and a findings section each.

    With one seed the first studies of a long source are those of a short one, but for their split.
    `splits` are the shares of train, val and test; the areas of findings are `finding_scale` times
    those of `drawing.EXTENTS`, which reach 5 % of the film. With `impressions` there is an
    impression too, with `indications` an indication that names this share of the findings. With
    `priors` two studies in a row are of one patient, and the second one's report compares.
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
        priors: bool = False,
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
        if priors and num_studies % 2:
            raise DataError(f"with priors num_studies must be even, got {num_studies}")
        self._seed = seed
        self._finding_scale = finding_scale
        self._impressions, self._indications, self._priors = impressions, indications, priors
        self._image_size = image_size
        together = 2 if priors else 1  # studies of a patient
        shares = [sum(splits[: i + 1]) for i in range(3)]
        ends = [0, *(together * round(num_studies / together * share) for share in shares)]
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
        if self._priors:
            decides.append("priors")
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __iter__(self) -> Iterator[SourceStudy]:
        """Yield the studies, train first; an image is drawn when it is read."""
        for index, split in enumerate(Counter(self._counts).elements()):
            name = f"phantom-{index:06d}"
            scale = self._finding_scale
            read = partial(
                draw_study,
                self._seed,
                index,
                self._image_size,
                finding_scale=scale,
                priors=self._priors,
            )
            sections = self._write_sections(index)
            images = (SourceImage(f"{name}-frontal", read, "frontal"),)
            patient, order = name, None
            if self._priors:
                patient, order = f"phantom-patient-{index // 2:06d}", index % 2
            yield SourceStudy(name, patient, split, images, sections, order=order)

    def _write_sections(self, index: int) -> dict[str, str]:
        stream, before = partial(_stream, self._seed, index), None
        findings = study_findings(self._seed, index, self._finding_scale, priors=self._priors)
        if self._priors and index % 2:
            before = study_findings(self._seed, index - 1)
        sections = {"findings": write_report(findings, stream(_WORDING), before)}
        if self._impressions:
            sections["impression"] = write_impression(findings, stream(_IMPRESSION))
        if self._indications is not None:
            share = self._indications
            sections["indication"] = write_indication(findings, share, stream(_INDICATION))
        return sections


def draw_study(
    seed: int,
    index: int,
    image_size: int,
    short_side: int = 0,
    *,
    finding_scale: float = 1.0,
    priors: bool = False,
) -> np.ndarray:
    """Draw the image of a study, uint8 (image_size, image_size), whatever the short side."""
    findings = study_findings(seed, index, finding_scale, priors=priors)
    return drawing.draw_phantom(_stream(seed, index, _SCENE), findings, image_size)


def study_regions(seed: int, index: int, image_size: int) -> dict[str, np.ndarray]:
    """The regions of a study's findings by kind, bool (image_size, image_size)."""
    findings = study_findings(seed, index)
    regions = drawing.find_regions(_stream(seed, index, _SCENE), findings, image_size)
    return {finding.kind: region for finding, region in zip(findings, regions, strict=True)}


def study_findings(
    seed: int, index: int, scale: float = 1.0, *, priors: bool = False
) -> tuple[drawing.Finding, ...]:
    """The findings of a study, at most one of each kind; `scale` multiplies their areas.

    With `priors` those of an odd index come from the study before, which has the index below.
    """
    rng = _stream(seed, index, _FINDINGS)
    chosen = _choose(rng)
    if priors and index % 2:
        before = _choose(_stream(seed, index - 1, _FINDINGS))
        chosen = _follow(_stream(seed, index, _CHANGES), before, chosen)
    kinds = list(chosen)
    scales = {kind: scale**0.5 if kind in drawing.LENGTHS else scale for kind in kinds}
    extents = {
        kind: rng.uniform(*drawing.EXTENTS[kind][size]) * scales[kind]
        for kind, (_, size) in chosen.items()
    }
    places: dict[str, tuple[float, float]] = {}
    for side in SIDES:
        here = [kind for kind in kinds if chosen[kind][0] == side]
        places |= _places(rng, {kind: extents[kind] for kind in here})
    seeds = {kind: int(rng.integers(2**32)) for kind in kinds}
    return tuple(
        drawing.Finding(kind, side, drawing.SIZES[size], extents[kind], places[kind], seeds[kind])
        for kind, (side, size) in chosen.items()
    )


_Chosen = dict[str, tuple[str, int]]  # side and size by kind


def _choose(rng: np.random.Generator) -> _Chosen:
    """The findings of a study that follows none."""
    kinds = [kind for kind in drawing.KINDS if rng.random() < PREVALENCE]
    sides = {kind: SIDES[rng.integers(2)] for kind in kinds}
    return {kind: (sides[kind], int(rng.integers(len(drawing.SIZES)))) for kind in kinds}


def _follow(rng: np.random.Generator, before: _Chosen, other: _Chosen) -> _Chosen:
    """Findings that follow those before: most stay, on their side; of the others some are new."""
    found: _Chosen = {}
    for kind in drawing.KINDS:
        stays, is_new, same_size = rng.random(3) < (KEPT, _NEW / PREVALENCE, _SAME_SIZE)
        shift = int(rng.integers(1, len(drawing.SIZES)))
        if kind in before and stays:
            side, size = before[kind]
            found[kind] = side, size if same_size else (size + shift) % len(drawing.SIZES)
        elif kind in other and kind not in before and is_new:
            found[kind] = other[kind]
    return found


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
