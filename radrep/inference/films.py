"""The image files of a study as pixels. Imports no torch, so that any process may read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from radrep.data.image_io import read_image_and_view
from radrep.data.study import projection_of
from radrep.errors import DataError


@dataclass(frozen=True)
class StudyFiles:
    """PNG, JPEG, TIFF, BMP or DICOM files of one study, one per view.

    Where the model takes a masked image, the first frontal one is masked, or the first of all.
    """

    images: tuple[Path, ...]
    projections: tuple[str, ...] = ()  # frontal, lateral or unknown; default: of DICOM headers
    texts: Mapping[str, str] = field(default_factory=dict)  # of its context, by data.context
    prior: tuple[Path, ...] = ()  # films of the study before it


@dataclass(frozen=True)
class Films:
    """The images of one study, read.

    Attributes:
        pixels: Of each image, uint8 (h, w), at the size that the model's images are prepared at.
        shown: The same to draw maps on, larger; empty unless asked for.
        texts: Of its context.
        prior: Those of the study before it, if they are given too.
    """

    images: tuple[Path, ...]
    projections: tuple[str, ...]  # "frontal", "lateral" or "unknown" of each
    pixels: tuple[np.ndarray, ...]
    shown: tuple[np.ndarray, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    prior: "Films | None" = None


def read_films(files: StudyFiles, short_sides: Sequence[int]) -> Films:
    """Read a study's files at the model's size and, if a second one is given, to be shown.

    Raises:
        DataError: If a file cannot be read, or there are not as many projections.
    """
    if not files.images:
        raise DataError("no image given; name one file for each view of the study")
    if files.projections and len(files.projections) != len(files.images):
        raise DataError(
            f"{len(files.projections)} projections for {len(files.images)} images; give one for "
            "each image, or none"
        )
    own = _read(files.images, short_sides)
    return replace(
        own,
        projections=files.projections or own.projections,
        texts=files.texts,
        prior=_read(files.prior, short_sides[:1]) if files.prior else None,
    )


def _read(images: tuple[Path, ...], short_sides: Sequence[int]) -> Films:
    # The model's pixels are read at their own size: from larger ones they would differ.
    read, views = zip(*(read_image_and_view(path, short_sides) for path in images), strict=True)
    pixels, *shown = zip(*read, strict=True)
    return Films(images, tuple(map(projection_of, views)), pixels, shown[0] if shown else ())
