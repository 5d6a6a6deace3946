"""The healthy chest of a phantom, as layers of attenuation under a random pose.

Torso frame: x to the right of the image and y down, the image reaching from -1 to 1 at scale 1;
by radiographic convention the patient's left is the right of the image. A layer is a float32
(h, w) map. Pixel positions are (x, y). Widths and blurs are shares of the image side.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDES = ("left", "right")
_SOFT_SIDE = 64  # pixels a side in which blurred shapes are drawn, whatever the image size

# The average body's outlines for the right half of the image, (x, y) each; the other is mirrored.
_TORSO = [(0.15, -1.4), (0.16, -0.95), (0.30, -0.84), (0.72, -0.76), (0.97, -0.50), (1.05, 0.0)]
_TORSO += [(1.0, 0.5), (0.88, 0.45), (0.80, -0.10), (0.79, 0.3), (0.77, 0.8), (0.80, 1.5)]
_LUNG = [(0.25, -0.72), (0.40, -0.64), (0.52, -0.44), (0.60, -0.15), (0.65, 0.15), (0.67, 0.46)]
_LUNG += [(0.56, 0.36), (0.42, 0.29), (0.26, 0.31), (0.12, 0.38)]
_LUNG += [(0.10, 0.10), (0.12, -0.25), (0.11, -0.50), (0.15, -0.66)]
# Not mirrored: mediastinum and heart, clockwise from the right main bronchus.
_HEART = [(-0.13, -0.42), (-0.12, -0.70), (0.12, -0.70), (0.13, -0.50), (0.17, -0.40)]
_HEART += [(0.13, -0.25), (0.20, -0.12), (0.34, 0.08), (0.39, 0.26), (0.34, 0.42)]
_HEART += [(0.05, 0.50), (-0.18, 0.44), (-0.22, 0.20), (-0.16, -0.05), (-0.11, -0.20)]


class Canvas:
    """Turns shapes into layers, under one random pose."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.size = size
        angle = np.radians(rng.uniform(-7, 7))
        scale = rng.uniform(0.88, 1.12) * size / 2
        aspect = rng.uniform(0.95, 1.05)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self._matrix = turn * scale @ np.diag([aspect, 1 / aspect])
        self._shift = size / 2 * (1 + rng.uniform(-0.08, 0.08, 2))

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Points of the torso frame, (k, 2), as pixel positions."""
        return points @ self._matrix.T + self._shift

    def fill(self, *shapes: tuple[np.ndarray, float], blur: float = 0) -> np.ndarray:
        """A layer of filled shapes, each (outline in pixel positions, brightness 0 to 1)."""
        # A soft edge needs few pixels, a sharp one twice as many for a smooth slant.
        side = _SOFT_SIDE if blur else 2 * self.size
        picture = Image.new("L", (side, side))
        pen = ImageDraw.Draw(picture)
        for outline, brightness in shapes:
            points = outline * (side / self.size) - 0.5
            pen.polygon(points.ravel().tolist(), fill=round(255 * brightness))
        if blur:
            picture = picture.filter(ImageFilter.BoxBlur(blur * side))
            picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return self._layer(picture)

    def stroke(self, *lines: tuple[np.ndarray, float, float]) -> np.ndarray:
        """A layer of lines, each (pixel positions, width, brightness 0 to 1), the last on top."""
        picture = Image.new("L", (2 * self.size,) * 2)
        pen = ImageDraw.Draw(picture)
        for points, width, brightness in lines:
            thick = max(1, round(2 * width * self.size))
            pen.line((2 * points - 0.5).ravel().tolist(), fill=round(255 * brightness), width=thick)
        return self._layer(picture)

    def clouds(self, rng: np.random.Generator) -> np.ndarray:
        """A layer of smooth noise in two scales, mean 0 and strength about 1."""
        noise = (rng.standard_normal((cells, cells), dtype=np.float32) for cells in (12, 36))
        coarse, fine = map(Image.fromarray, noise)
        grid = np.asarray(coarse.resize(fine.size, Image.Resampling.BICUBIC)) + np.asarray(fine)
        side = (self.size, self.size)
        return np.asarray(Image.fromarray(grid).resize(side, Image.Resampling.BILINEAR))

    def _layer(self, picture: Image.Image) -> np.ndarray:
        if picture.width > self.size:
            picture = picture.reduce(2)
        return np.asarray(picture, dtype=np.float32) / 255


@dataclass(frozen=True)
class Body:
    """A healthy chest."""

    canvas: Canvas
    attenuation: np.ndarray  # aerated lung about 0.3, soft tissue 0.5, heart 0.7
    outlines: dict[str, np.ndarray]  # of each lung by side, pixel positions (k, 2)
    lungs: dict[str, np.ndarray]  # by side, 0 to 1 where neither heart nor diaphragm covers it
    markings: np.ndarray  # the attenuation of vessels within the lungs


def sample_body(rng: np.random.Generator, canvas: Canvas) -> Body:
    """Draw a random healthy chest."""
    stretch = np.array([rng.uniform(0.90, 1.08), rng.uniform(0.88, 1.06)])
    outlines = {}
    for side in SIDES:
        lung = _wobble(rng, _LUNG) * stretch
        # The diaphragm moves with the breath, and stands higher on the right.
        lung[lung[:, 1] > 0.2, 1] += rng.uniform(-0.08, 0.05) + 0.03 * mirror(side)
        outlines[side] = canvas.pixels(smooth(lung) * [mirror(side), 1])
    heart_outline = _wobble(rng, _HEART) * stretch * [rng.uniform(0.85, 1.10), 1]
    heart = canvas.fill((canvas.pixels(smooth(heart_outline)), 1.0))
    lungs = {side: canvas.fill((outlines[side], 1.0)) * (1 - heart) for side in SIDES}
    both = lungs["left"] + lungs["right"]
    markings = _vessels(rng, canvas) * both * rng.uniform(0.10, 0.18)
    attenuation = _tissue(rng, canvas, stretch[0], both, heart) + markings
    attenuation += _bones(rng, canvas, stretch) * rng.uniform(0.10, 0.17)
    return Body(canvas, attenuation, outlines, lungs, markings)


def mirror(side: str) -> int:
    """The sign of x on a side of the patient: left is the right of the image."""
    return 1 if side == "left" else -1


def smooth(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """A closed Catmull-Rom curve through the points, (k, 2) to (k * steps, 2)."""
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    before, after, beyond = (np.roll(points, shift, axis=0) for shift in (1, -1, -2))
    square, cube = (
        2 * before - 5 * points + 4 * after - beyond,
        3 * (points - after) + beyond - before,
    )
    curve = points + 0.5 * t * (after - before + t * square + t**2 * cube)
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def ellipse(center: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """The outline of an upright ellipse, (24, 2), in the frame of its arguments."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1) * radii + center


def _wobble(rng: np.random.Generator, outline: list[tuple[float, float]]) -> np.ndarray:
    return np.array(outline) + rng.normal(0, 0.012, (len(outline), 2))


def _tissue(
    rng: np.random.Generator, canvas: Canvas, width: float, lungs: np.ndarray, heart: np.ndarray
) -> np.ndarray:
    half = _wobble(rng, _TORSO) * [width, 1]
    torso = canvas.pixels(np.concatenate([half, half[::-1] * [-1, 1]]))
    rows = np.linspace(-1, 1, canvas.size, dtype=np.float32)[:, None]
    thick = 0.50 + rng.uniform(0.10, 0.24) * np.clip((rows + 0.1) / 0.6, 0, 1)
    thick = thick + 0.016 * canvas.clouds(rng)
    shapes = [(torso, 0.8)]
    for x in (-0.42, 0.42):
        breast = ellipse((x, rng.uniform(0.1, 0.3)), (0.30, 0.27))
        shapes.append((canvas.pixels(breast), 0.8 + rng.uniform(0.0, 0.09)))
    stomach = (rng.uniform(0.25, 0.42), rng.uniform(0.62, 0.75))
    bubble = canvas.pixels(ellipse(stomach, (rng.uniform(0.03, 0.10), rng.uniform(0.03, 0.10))))
    shapes.append((bubble, 0.8 - rng.uniform(0.0, 0.3)))
    layer = canvas.fill(*shapes, blur=0.02) * (thick / 0.8)
    layer -= lungs * (thick - rng.uniform(0.25, 0.31))
    return np.maximum(layer, heart * rng.uniform(0.62, 0.74))  # lost in the abdomen below


def _bones(rng: np.random.Generator, canvas: Canvas, stretch: np.ndarray) -> np.ndarray:
    spine = np.array([[(0, y), (0, y + 0.095)] for y in np.arange(-0.95, 0.95, 0.125)])
    lines = [(vertebra, 0.075, 0.35) for vertebra in canvas.pixels(spine)]
    t = np.linspace(0, 1, 10)
    starts = rng.uniform(-0.72, -0.66) + rng.uniform(0.115, 0.135) * np.arange(9)[:, None]
    drop, lift = rng.uniform(0.10, 0.24), rng.uniform(0.04, 0.09)
    wall = np.interp(starts + drop, [-0.70, -0.30, 0.50], [0.34, 0.60, 0.71])
    bones = []
    for sign in (-1, 1):
        fall = drop + rng.normal(0, 0.03)
        back_x = 0.07 + (wall - 0.07) * np.sin(t * np.pi / 2)
        back_y = starts + fall * t**2 - lift * np.sin(np.pi * t)
        backs = np.stack([sign * back_x, back_y], axis=-1)
        fronts = np.stack([sign * (wall - 0.42 * t), starts + fall + 0.20 * t], axis=-1)[:6]
        rise = rng.uniform(-0.10, 0.04)
        collar = [(0.07, -0.56), (0.25, -0.60), (0.42, -0.66 + rise), (0.70, -0.70 + rise)]
        blade = [(0.62, -0.68), (0.56, -0.40), (0.62, -0.12), (0.76, -0.45)]
        bones += [(backs, 0.026, 0.75), (fronts, 0.026, 0.45)]
        bones += [(np.array([collar]) * [sign, 1], 0.034, 1.0)]
        bones += [(np.array([blade]) * [sign, 1], 0.016, 0.5)]
    for curves, width, brightness in bones:  # a bone's rim is brighter than its marrow
        for points in canvas.pixels(curves * stretch):
            lines += [(points, width, brightness), (points, width * 0.55, brightness * 0.65)]
    return canvas.stroke(*lines)


def _vessels(rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    t = np.linspace(0, 1, 7)[:, None]
    lines = []
    for sign in (-1, 1):
        hilum = np.array([sign * 0.17, rng.uniform(-0.14, -0.04)])
        angles = np.linspace(-1.25, 1.35, 11) + rng.normal(0, 0.1, 11)
        aims = np.stack([sign * np.cos(angles), np.sin(angles)], axis=1)[:, None]
        aims *= rng.uniform(0.25, 0.52, (11, 1, 1))
        bends = aims / 2 + rng.normal(0, 0.03, (11, 1, 2))
        twigs = bends + aims[..., ::-1] * rng.normal(0, 0.3, (11, 1, 1)) * [[[0], [1]]]
        for branch in canvas.pixels(hilum + 2 * t * (1 - t) * bends + t**2 * aims):
            lines += [(branch[3:], 0.006, 0.45), (branch[1:5], 0.011, 0.65)]
            lines.append((branch[:3], 0.018, 0.9))
        lines += [(twig, 0.005, 0.4) for twig in canvas.pixels(hilum + twigs)]
    return canvas.stroke(*lines)
