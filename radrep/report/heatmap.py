"""Heatmaps over radiographs."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

# Black, purple, orange, pale yellow: brightness rises all the way, so it reads in grey too.
_STOPS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])
_GAP = 8


def overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Lay an attention map over an image; the brightest place is the map's highest.

    Args:
        image: Pixels, uint8 (h, w).
        attention: Not negative, (rows, columns), of any scale.

    Returns:
        Colours, uint8 (h, w, 3).
    """
    height, width = image.shape
    scaled = attention - attention.min()
    scaled = scaled / max(float(scaled.max()), 1e-12)
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    strength = np.clip(np.asarray(smooth), 0.0, 1.0)
    places = np.linspace(0.0, 1.0, len(_STOPS))
    colour = np.stack([np.interp(strength, places, _STOPS[:, i]) for i in range(3)], axis=-1)
    grey = np.repeat(image[..., None].astype(np.float64), 3, axis=-1)
    share = 0.65 * strength[..., None]  # places without attention show the film itself
    return np.round((1 - share) * grey + share * colour).astype(np.uint8)


def draw_looks(images: Sequence[np.ndarray], looks: Sequence[np.ndarray]) -> Image.Image:
    """Draw each view beside the same view under its attention map, one row a view.

    Args:
        images: Views, uint8 (h, w).
        looks: Attention to each view's patches, (rows, columns).
    """
    rows = []
    for image, attention in zip(images, looks, strict=True):
        film = np.repeat(image[..., None], 3, axis=-1)
        gap = np.full((image.shape[0], _GAP, 3), 255, np.uint8)
        rows.append(np.concatenate([film, gap, overlay(image, attention)], axis=1))
    width = max(row.shape[1] for row in rows)
    height = sum(row.shape[0] for row in rows) + _GAP * (len(rows) - 1)
    sheet = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for row in rows:
        sheet[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0] + _GAP
    return Image.fromarray(sheet)
