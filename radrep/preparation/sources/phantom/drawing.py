"""Draws phantoms: schematic frontal chest radiographs from random numbers and findings.

An image is the sum of a healthy body and its findings, put through an exposure that does not depend
on the sum: a finding changes pixels at its own place and nowhere else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from radrep.preparation.sources.phantom.body import Body, Canvas, mirror, sample_body, smooth

_Rng = np.random.Generator

VERSION = 2  # raised when a pixel, a finding or a word changes; see PhantomSource.fingerprint
KINDS = ("consolidation", "nodule", "atelectasis", "effusion", "pneumothorax")
SIZES = ("small", "moderate", "large")
# Extent of each size, with gaps between the words. Areas are shares of the visible lung on that
# side; a nodule's radius and a band's length are shares of that area's square root.
EXTENTS = {
    "consolidation": ((0.08, 0.11), (0.15, 0.18), (0.22, 0.26)),
    "nodule": ((0.095, 0.110), (0.135, 0.155), (0.190, 0.220)),
    "atelectasis": ((0.28, 0.34), (0.43, 0.50), (0.62, 0.72)),
    "effusion": ((0.08, 0.12), (0.18, 0.24), (0.32, 0.40)),
    "pneumothorax": ((0.11, 0.13), (0.17, 0.20), (0.25, 0.28)),
}
LENGTHS = ("nodule", "atelectasis")  # whose extent is one
# What a finding adds to the attenuation (a pneumothorax takes it away).
_CONTRASTS = {
    "consolidation": (0.18, 0.34),
    "nodule": (0.22, 0.40),
    "atelectasis": (0.28, 0.46),
    "effusion": (0.24, 0.38),
    "pneumothorax": (0.10, 0.16),
}
# A finding's region: at least this share of its contrast. The darkest patch of a consolidation
# has 0.3.
_NOTICEABLE = 0.25


@dataclass(frozen=True)
class Finding:
    """One finding to draw."""

    kind: str  # one of `KINDS`
    side: str  # the patient's, one of `SIDES`
    size: str  # one of `SIZES`
    extent: float  # in the unit of its kind, see `EXTENTS`
    # In the visible lung, 0 to 1: from the midline outwards, from the top down; not used by
    # effusion and pneumothorax.
    place: tuple[float, float]
    seed: int  # of its contrast and its shape


def draw_phantom(
    rng: np.random.Generator, findings: Sequence[Finding], image_size: int
) -> np.ndarray:
    """Draw one frontal image, uint8 (image_size, image_size), air black."""
    body = sample_body(rng, Canvas(rng, image_size))
    attenuation = body.attenuation.copy()
    for layer, _ in _draw_layers(findings, body):
        attenuation += layer
    return _develop(rng, attenuation)


def find_regions(
    rng: np.random.Generator, findings: Sequence[Finding], image_size: int
) -> list[np.ndarray]:
    """The region of each finding, bool (image_size, image_size), before exposure and overlap."""
    layers = _draw_layers(findings, sample_body(rng, Canvas(rng, image_size)))
    return [np.abs(layer) >= _NOTICEABLE * contrast for layer, contrast in layers]


def _draw_layers(findings: Sequence[Finding], body: Body) -> Iterator[tuple[np.ndarray, float]]:
    # Each finding's change of the attenuation, and its contrast.
    for finding in findings:
        own = np.random.default_rng(finding.seed)
        contrast = own.uniform(*_CONTRASTS[finding.kind])
        yield _LAYERS[finding.kind](finding, contrast, own, body), contrast


def _develop(rng: np.random.Generator, attenuation: np.ndarray) -> np.ndarray:
    black, white = rng.uniform(-0.05, 0.15), rng.uniform(0.85, 1.10)
    gamma, blur = rng.uniform(0.75, 1.35), rng.uniform(0.001, 0.006)
    grain = rng.uniform(3, 18)  # gray levels from trough to crest
    light = np.clip((attenuation - black) / (white - black), 0, 1)
    picture = Image.fromarray((255 * light**gamma).astype(np.uint8))
    soft = picture.filter(ImageFilter.BoxBlur(blur * len(attenuation)))
    noise = rng.random(attenuation.shape, dtype=np.float32)  # a third of a Gaussian's time
    noisy = np.asarray(soft) + grain * (noise - 0.5) + 0.5
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _center(finding: Finding, lung: np.ndarray) -> np.ndarray:
    inside = lung > 0.5
    rows = np.flatnonzero(inside.any(axis=1))
    y = rows[int(finding.place[1] * (len(rows) - 1))]
    columns = np.flatnonzero(inside[y])[:: mirror(finding.side)]
    return np.array([columns[int(finding.place[0] * (len(columns) - 1))], y])


def _consolidation(finding: Finding, contrast: float, rng: _Rng, body: Body) -> np.ndarray:
    lung = body.lungs[finding.side]
    x, y = np.meshgrid(*[np.arange(body.canvas.size, dtype=np.float32)] * 2, copy=False)
    middle = _center(finding, lung)
    distance = np.hypot(x - middle[0], (y - middle[1]) * rng.uniform(0.7, 1.1))
    ragged = distance * np.clip(1 + 0.16 * body.canvas.clouds(rng), 0.5, 2)
    patchy = np.clip(1 + 0.2 * body.canvas.clouds(rng), 0.3, 2)
    return _lowest(ragged, finding.extent, lung, 0.05 * body.canvas.size) * patchy * contrast


def _lowest(score: np.ndarray, share: float, lung: np.ndarray, edge: float) -> np.ndarray:
    """A layer over the share of the lung that scores lowest, its edge this many pixels soft."""
    level = np.quantile(score[lung > 0.5], share)
    return np.clip((level - score) / edge + 0.5, 0, 1) * lung


def _nodule(finding: Finding, contrast: float, rng: _Rng, body: Body) -> np.ndarray:
    lung = body.lungs[finding.side]
    center, radius = _center(finding, lung), finding.extent * np.sqrt(lung.sum())
    turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    spokes = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    outline = smooth(center + spokes * (radius * rng.uniform(0.85, 1.15, (8, 1))))
    return body.canvas.fill((outline, 1.0)) * lung * contrast


def _atelectasis(finding: Finding, contrast: float, rng: _Rng, body: Body) -> np.ndarray:
    lung = body.lungs[finding.side]
    length = finding.extent * np.sqrt(lung.sum())
    angle = np.radians(rng.uniform(-35, 35))
    along = np.array([np.cos(angle), np.sin(angle)])
    t = np.linspace(-0.5, 0.5, 7)[:, None]
    bow = along[::-1] * [-1, 1] * rng.uniform(-0.3, 0.3) * (t**2 - 0.08)
    band = _center(finding, lung) + length * (t * along + bow)
    return body.canvas.stroke((band, rng.uniform(0.018, 0.032), 1.0)) * lung * contrast


def _effusion(finding: Finding, contrast: float, rng: _Rng, body: Body) -> np.ndarray:
    lung = body.lungs[finding.side]
    x, y = np.meshgrid(*[np.arange(body.canvas.size, dtype=np.float32)] * 2, copy=False)
    columns = np.flatnonzero((lung > 0.5).any(axis=0))[:: mirror(finding.side)]
    outwards = np.clip((x - columns[0]) / (columns[-1] - columns[0]), 0, 1)
    meniscus = rng.uniform(0.04, 0.10) * body.canvas.size  # how far the fluid climbs the chest wall
    height = -y - meniscus * outwards**3
    return _lowest(height, finding.extent, lung, 0.02 * body.canvas.size) * contrast


def _pneumothorax(finding: Finding, contrast: float, rng: _Rng, body: Body) -> np.ndarray:
    lung, outline = body.lungs[finding.side], body.outlines[finding.side]
    low, high = outline.min(axis=0), outline.max(axis=0)
    # The lung shrinks towards a point at its foot, near the midline; apex and flank come free.
    across = rng.uniform(-0.05, 0.15)
    foot = low + (high - low) * [across if finding.side == "left" else 1 - across, 0.95]
    collapsed = foot + (outline - foot) * np.sqrt(1 - finding.extent)
    free = lung * (1 - body.canvas.fill((collapsed, 1.0)))
    pleura = body.canvas.stroke((np.concatenate([collapsed, collapsed[:1]]), 0.006, 1.0))
    return pleura * lung * contrast - free * (contrast + body.markings)


_LAYERS = dict(
    zip(KINDS, (_consolidation, _nodule, _atelectasis, _effusion, _pneumothorax), strict=True)
)
