"""A study of a folder and its images, read in any process. Imports no torch."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from radrep.data.context.study_context import StudyContext, study_context
from radrep.data.dicom.identity import read_identity
from radrep.data.image_io import read_image_and_view
from radrep.data.store import PreparedStudies, StoredStudy
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
    """A study of image files; an image that was not found has the path None.

    `texts` are of its context and `prior` are names and paths of films of the study before it.
    """

    id: str
    names: tuple[str, ...]
    paths: tuple[Path | None, ...]
    projections: tuple[str, ...]  # unknown: that of the DICOM header
    texts: Mapping[str, str] = field(default_factory=dict)
    prior: tuple[tuple[str, Path | None], ...] = ()

    def fingerprint(self) -> str:
        """A hash of names, projections, sizes and times of change, and of the context."""
        found: list[object] = [self.id, self.names, self.projections]
        found += map(_describe, self.paths)
        if self.texts or self.prior:
            found.append(sorted(self.texts.items()))
            found += [[name, _describe(path)] for name, path in self.prior]
        return _hash(found)

    def read(self, short_side: int) -> ReadStudy:
        """See `ReportStudy`; of equal images the first is used, as `radrep prepare` does."""
        own = _read_files(self.names, self.paths, self.projections, short_side)
        if own.films is None or not (self.texts or self.prior):
            return own
        names, paths = zip(*self.prior, strict=True) if self.prior else ((), ())
        before = _read_files(names, paths, ["unknown"] * len(names), short_side)
        of_prior = ((name, f"{reason} (of the study before)") for name, reason in before.left_out)
        return ReadStudy(
            replace(own.films, texts=self.texts, prior=before.films),
            (*own.left_out, *of_prior),
            own.notes + before.notes,
            own.identities,
        )


def _describe(path: Path | None) -> list[int] | None:
    try:
        stat = path.stat() if path else None
    except OSError:  # reading it as an image gives the reason
        return None
    return stat and [stat.st_size, stat.st_mtime_ns]


def _read_files(
    names: Sequence[str], paths: Sequence[Path | None], projections: Sequence[str], short_side: int
) -> ReadStudy:
    """Read the images of one study."""
    kept: list[str] = []
    views: list[str] = []
    images: list[np.ndarray] = []
    left_out: list[tuple[str, str]] = []
    notes: list[str] = []
    identities: list[Mapping[str, str] | None] = []
    for name, path, projection in zip(names, paths, projections, strict=True):
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
            left_out.append((name, f"{SAME_IMAGE} {kept[twin]} of this study"))
            continue
        notes += [str(warning.message) for warning in caught]
        kept.append(name)
        views.append(projection_of(view) if projection == "unknown" else projection)
        images.append(pixels)
        identities.append(read_identity(path))
    films = Films(tuple(map(Path, kept)), tuple(views), tuple(images))
    return ReadStudy(films if images else None, tuple(left_out), tuple(notes), tuple(identities))


@dataclass(frozen=True)
class PreparedStudy:
    """A study of a prepared folder, with context of some kinds.

    `prior` is the index of the study before it, whose films and report may be context, and
    `context_hash` changes with the context.
    """

    id: str
    prepared: Path
    split: str
    index: int
    sha256: tuple[str, ...]  # of its images
    kinds: tuple[str, ...] = ()
    prior: int | None = None
    context_hash: str = ""

    def fingerprint(self) -> str:
        """A hash of those of its images and of its context."""
        return _hash([self.id, self.sha256, *[self.context_hash] * bool(self.context_hash)])

    def read(self, short_side: int) -> ReadStudy:
        """See `ReportStudy`; the images have the size that they were prepared at."""
        studies = _open(self.prepared, self.split)
        try:
            films = _stored_films(studies.open(self.index))
            context = study_context(studies, self.index, self.kinds, self.prior)
            before = None
            if context.prior is not None:
                before = _stored_films(studies.open(context.prior))
        except DataError as error:
            return ReadStudy(None, ((self.id, str(error)),))
        films = replace(films, texts=context.texts, prior=before)
        return ReadStudy(films, identities=(None,) * len(films.images))


def hash_context(studies: PreparedStudies, context: StudyContext) -> str:
    """A hash of the context of a prepared study, "" for none."""
    if not context.kinds:
        return ""
    before = () if context.prior is None else studies[context.prior].images
    return _hash([sorted(context.texts.items()), [image.sha256 for image in before]])


def _stored_films(stored: StoredStudy) -> Films:
    images = stored.study.images
    return Films(
        tuple(Path(image.name) for image in images),
        tuple(image.projection for image in images),
        tuple(stored.image(number) for number in range(len(images))),
    )


def read_study(study: ReportStudy, short_side: int) -> ReadStudy:
    """Read a study, in any process."""
    return study.read(short_side)


@cache
def _open(prepared: Path, split: str) -> PreparedStudies:
    return PreparedStudies(prepared, split)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
