"""One study's images: read, resized, encoded and hashed, in any process."""

import hashlib
import warnings
from typing import NamedTuple

from radrep.data.arrow import encode_png
from radrep.data.image_io import difference_hash, fit_short_side
from radrep.data.study import Image, SourceImage, SourceStudy
from radrep.errors import DataError, ImageWarning
from radrep.preparation.burnt_in import has_text

_HAS_TEXT = "text seems to be burnt into the pixels, which may name the patient; it stays there"


class PlannedStudy(NamedTuple):
    """A study, the shard it belongs to, and why it is left out unopened, if it is."""

    study: SourceStudy
    shard: int
    refusal: str | None


class StudyImages(NamedTuple):
    """What a worker made of one study's images."""

    images: tuple[Image, ...]
    files: tuple[bytes, ...]
    hashes: tuple[bytes, ...]
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]  # image, what was chosen in reading it
    num_square: int
    num_wanted: int


def wanted_images(study: SourceStudy, views: str) -> list[SourceImage]:
    """The images of a study that have the wanted projection, or every one for "all"."""
    return [image for image in study.images if views in ("all", image.projection)]


def make_images(planned: PlannedStudy, image_size: int, views: str) -> StudyImages:
    """Read, resize and encode the images of one study."""
    prepared: list[Image] = []
    files, hashes, left_out, notes = [], [], [], []
    num_square = 0
    wanted = wanted_images(planned.study, views)
    for image in () if planned.refusal else wanted:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ImageWarning)
                pixels = image.read(image_size)
        except DataError as error:
            left_out.append((image.name, str(error)))
            continue
        fitted = fit_short_side(pixels, image_size)
        file = encode_png(fitted)
        digest = hashlib.sha256(file).hexdigest()
        if twin := next((other.name for other in prepared if other.sha256 == digest), None):
            left_out.append((image.name, f"the same image as {twin} of this study"))
            continue
        notes += [(image.name, str(warning.message)) for warning in caught]
        if has_text(pixels):
            notes.append((image.name, f"{image.name}: {_HAS_TEXT}"))
        files.append(file)
        hashes.append(difference_hash(fitted, side=16).to_bytes(32))
        num_square += pixels.shape[0] == pixels.shape[1]
        prepared.append(Image(image.name, image.projection, digest))
    return StudyImages(
        tuple(prepared),
        tuple(files),
        tuple(hashes),
        tuple(left_out),
        tuple(notes),
        num_square,
        len(wanted),
    )
