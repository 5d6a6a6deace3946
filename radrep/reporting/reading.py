"""A study of a folder and its images, read in any process. Imports no torch."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from radrep.data.dicom.identity import read_identity
from radrep.data.image_io import read_image_and_view
from radrep.data.store import PreparedStudies
from radrep.data.study import projection_of
from radrep.errors import DataError, ImageWarning
from radrep.inference.films import Films

SAME_IMAGE = "the same image as"  # begins the reason why a second one is left out


@dataclass(frozen=True)
class ReadStudy:
    """What could be read of a study.

    Attributes:
        films: None if none of its images can be read.
        left_out: Images that are not used, with reasons.
        notes: What was chosen in reading an image.
        identities: See `read_identity`, of each of the films.
    """

    films: Films | None
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    identities: tuple[Mapping[str, str] | None, ...] = ()


class ReportStudy(Protocol):
    """A study that a report is to be written of."""

    @property
    def id(self) -> str:
        """Unique in the folder."""

    def fingerprint(self) -> str:
        """Changes when an image of the study does; opens no image."""

    def read(self, short_side: int) -> ReadStudy:
        """Read its images at the model's size."""


@dataclass(frozen=True)
class FileStudy:
    """A study of image files; an image that was not found has the path None."""

    id: str
    names: tuple[str, ...]
    paths: tuple[Path | None, ...]
    projections: tuple[str, ...]  # unknown: that of the DICOM header

    def fingerprint(self) -> str:
        """A hash of names, projections, sizes and times of change."""
        found: list[object] = [self.id, self.names, self.projections]
        for path in self.paths:
            try:
                stat = path.stat() if path else None
            except OSError:  # reading it as an image gives the reason
                stat = None
            found.append(stat and [stat.st_size, stat.st_mtime_ns])
        return _hash(found)

    def read(self, short_side: int) -> ReadStudy:
        """See `ReportStudy`; of equal images the first is used, as `radrep prepare` does."""
        names: list[str] = []
        projections: list[str] = []
        images: list[np.ndarray] = []
        left_out: list[tuple[str, str]] = []
        notes: list[str] = []
        identities: list[Mapping[str, str] | None] = []
        for name, path, projection in zip(self.names, self.paths, self.projections, strict=True):
            if path is None:
                left_out.append((name, "not found, or there are several files of this name"))
                continue
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", ImageWarning)
                    (pixels,), view = read_image_and_view(path, [short_side])
            except DataError as error:
                left_out.append((name, str(error)))
                continue
            twin = next((k for k, own in enumerate(images) if np.array_equal(own, pixels)), None)
            if twin is not None:
                left_out.append((name, f"{SAME_IMAGE} {names[twin]} of this study"))
                continue
            notes += [str(warning.message) for warning in caught]
            names.append(name)
            projections.append(projection_of(view) if projection == "unknown" else projection)
            images.append(pixels)
            identities.append(read_identity(path))
        films = Films(tuple(map(Path, names)), tuple(projections), tuple(images))
        return ReadStudy(
            films if images else None, tuple(left_out), tuple(notes), tuple(identities)
        )


@dataclass(frozen=True)
class PreparedStudy:
    """A study of a prepared folder."""

    id: str
    prepared: Path
    split: str
    index: int
    sha256: tuple[str, ...]  # of its images

    def fingerprint(self) -> str:
        """A hash of those of its images."""
        return _hash([self.id, self.sha256])

    def read(self, short_side: int) -> ReadStudy:
        """See `ReportStudy`; the images have the size that they were prepared at."""
        stored = _open(self.prepared, self.split).open(self.index)
        images = stored.study.images
        try:
            pixels = tuple(stored.image(number) for number in range(len(images)))
        except DataError as error:
            return ReadStudy(None, ((self.id, str(error)),))
        names = tuple(Path(image.name) for image in images)
        films = Films(names, tuple(image.projection for image in images), pixels)
        return ReadStudy(films, identities=(None,) * len(images))


def read_study(study: ReportStudy, short_side: int) -> ReadStudy:
    """Read a study, in any process."""
    return study.read(short_side)


@cache
def _open(prepared: Path, split: str) -> PreparedStudies:
    return PreparedStudies(prepared, split)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
