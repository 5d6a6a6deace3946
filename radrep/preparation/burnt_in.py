"""Text that is burnt into the pixels of a film, such as a name, a date or a record number.

Found are upright rows of letters in the upper and the lower quarter of a film: thin strokes of much
contrast and like grey, as high as one another, side by side. A side marker is too short for a row,
but not always one with initials. tests/benchmarks/quality/burnt_in.py measures what is found.
"""

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_SHORT_SIDE = 1024  # about which a film is searched, in pixels
_SMALLEST = 64  # films with a shorter side have no text that can be read
_STROKE = 80  # strokes are thinner than this part of the short side
_CONTRAST = 40  # grey levels between a stroke and what is around it
_LEAST_HEIGHT, _MOST_HEIGHT = 4, 0.08  # of a letter: pixels, and a part of the short side
_LIKE_GREY = 40  # grey levels between the strokes of one row
_LENGTH = 4.2  # of a row, in heights of its letters
_LEAST_PARTS = 3  # of a row; letters may touch
_LEAST_STROKES = 7  # that a line through the row crosses
_MOST_STROKES = 4  # to a height of a letter; noise has more
_MOST_PARTS = 1000  # of a quarter; more are noise


def has_text(pixels: np.ndarray) -> bool:
    """Whether text seems to be burnt into a film, uint8 (h, w)."""
    side = min(pixels.shape)
    if side < _SMALLEST:
        return False
    factor = max(1, round(side / _SHORT_SIDE))
    side, height = -(-side // factor), -(-len(pixels) // factor)
    quarter = height // 4 * factor
    for part in (pixels[:quarter], pixels[height * factor - quarter :]):
        film = np.asarray(Image.fromarray(part).reduce(factor))
        if _has_row(film, side) or _has_row(255 - film, side):
            return True
    return False


def _has_row(film: np.ndarray, side: int) -> bool:
    """Whether a part of a film has a row of bright letters."""
    width = max(5, side // _STROKE | 1)
    strokes = film - open_(film, width) > _CONTRAST
    if np.max(_starts(strokes).sum(axis=1)) < _LEAST_STROKES:
        return False
    parts, _ = ndimage.label(strokes, np.ones((3, 3)))
    places = ndimage.find_objects(parts)
    boxes = [(y.start, y.stop, x.start, x.stop) for y, x in places]
    top, bottom, left, right = np.array(boxes, dtype=int).reshape(-1, 4).T
    height = bottom - top
    fits = (height >= _LEAST_HEIGHT) & (height <= _MOST_HEIGHT * side)
    fits &= right - left <= 8 * height
    kept = np.flatnonzero(fits)
    if not _LEAST_PARTS <= len(kept) <= _MOST_PARTS:
        return False
    top, bottom, left, right, height = (each[kept] for each in (top, bottom, left, right, height))
    own_pixels = ((places[part], part + 1) for part in kept)
    grey = [int(film[place][parts[place] == number].max()) for place, number in own_pixels]
    lower = np.minimum.outer(height, height)
    higher = np.maximum.outer(height, height)
    beside = np.minimum.outer(bottom, bottom) - np.maximum.outer(top, top) >= 0.6 * lower
    gap = np.maximum.outer(left, left) - np.minimum.outer(right, right)
    beside &= (gap <= 1.5 * higher) & (higher <= 1.7 * lower)
    beside &= abs(np.subtract.outer(grey, grey)) <= _LIKE_GREY
    num_rows, row_of = connected_components(coo_array(beside), directed=False)
    for row in range(num_rows):
        own = row_of == row
        if own.sum() < _LEAST_PARTS:
            continue
        letter = np.median(height[own])
        place = slice(top[own].min(), bottom[own].max())
        columns = slice(left[own].min(), right[own].max())
        length = columns.stop - columns.start
        if place.stop - place.start > 1.8 * letter or length < _LENGTH * letter:
            continue
        letters = np.isin(parts[place, columns], kept[own] + 1)
        edge = len(letters) // 5  # where ascenders and descenders are alone
        crossed = np.median(_starts(letters).sum(axis=1)[edge : len(letters) - edge])
        if _LEAST_STROKES <= crossed <= _MOST_STROKES * length / letter:
            return True
    return False


def _starts(strokes: np.ndarray) -> np.ndarray:
    """Where a stroke begins, from left to right, bool (h, w)."""
    starts = strokes.copy()
    starts[:, 1:] &= ~strokes[:, :-1]
    return starts


def open_(film: np.ndarray, width: int) -> np.ndarray:
    """The film without bright parts thinner than an odd width, uint8 (h, w).

    scipy.ndimage.grey_opening with a square, in a ninth of its time: it works in float64.
    """
    for choose in (np.minimum, np.maximum):
        for _ in film.shape:
            film = _slide(choose, film, width).T
    return film


def _slide(choose: np.ufunc, film: np.ndarray, width: int) -> np.ndarray:
    """The least or the greatest of `width` rows around each row; beyond its edge a film mirrors."""
    half = width // 2
    found = np.concatenate([film[half - 1 :: -1], film, film[: -half - 1 : -1]])
    reach = 1
    while reach < width:  # of windows of `reach` rows, two make one of up to twice as many
        step = min(reach, width - reach)
        found = choose(found[:-step], found[step:])
        reach += step
    return found
