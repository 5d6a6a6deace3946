"""SDAM's maps and masked images of a prepared folder, in shards beside its own.

    OUT/saliency/0123456789ab/train-00000.arrow   one row per study: map, masked image, labels
    OUT/saliency/0123456789ab/prepared.json       which shards there are, and what made them

The folder's name begins a hash of the discriminator and of the settings of the mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radrep.data.arrow import decode_png, encode_png, find_misfit, open_shards
from radrep.data.manifest import ShardRecord, read_shards
from radrep.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

FOLDER = "saliency"


@dataclass(frozen=True)
class SaliencyImage:
    """The Grad-CAM map of one image of a study, and the image under its mask, uint8 (h, w)."""

    study: str
    number: int  # which of its images
    map: np.ndarray  # evidence for the predicted labels, 255 the most; all 255 where unmasked
    masked: np.ndarray
    labels: Mapping[str, float]  # predicted positive, to their probability
    unmasked: bool  # no label is predicted positive, or the map of those that are is empty
    label_maps: Mapping[str, np.ndarray] = field(default_factory=dict)  # where asked for


@cache
def saliency_features() -> "Features":
    """The columns of a shard."""
    from datasets import Features, Image, List, Value

    picture = Image(decode=False)
    return Features(
        {
            "id": Value("string"),
            "number": Value("int16"),
            "map": picture,
            "masked": picture,
            "labels": List({"name": Value("string"), "probability": Value("float32")}),
            "unmasked": Value("bool"),
            "label_maps": List({"name": Value("string"), "map": picture}),
        }
    )


def saliency_row(image: SaliencyImage) -> dict[str, Any]:
    """As a row of `saliency_features`."""

    def png(pixels: np.ndarray) -> dict[str, Any]:
        return {"bytes": encode_png(pixels), "path": None}

    return {
        "id": image.study,
        "number": image.number,
        "map": png(image.map),
        "masked": png(image.masked),
        "labels": [{"name": name, "probability": p} for name, p in image.labels.items()],
        "unmasked": image.unmasked,
        "label_maps": [{"name": name, "map": png(m)} for name, m in image.label_maps.items()],
    }


def open_saliency(folder: Path, shards: Sequence[ShardRecord]) -> "Dataset":
    """The rows of shards, each column of the type that it is written with, nothing missing.

    Raises DataError, as `open_shards` does.
    """
    data = open_shards(folder, shards)
    if {*saliency_features()} - {*data.column_names}:
        raise older_masks(folder)
    if problem := find_misfit(data.data.table, saliency_features(), partly=("map", "masked")):
        raise DataError(f"{folder}: its shards are not as radrep writes them: {problem}")
    return data


class SaliencyImages:
    """The masked images of one split in the folder of one discriminator, read when asked for."""

    def __init__(self, folder: Path, split: str, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._folder = folder
        shards = read_shards(folder, split)
        self._data = open_saliency(folder, shards) if shards else None
        ids = self._data["id"] if self._data is not None else []
        self._places = {study: place for place, study in enumerate(ids)}

    def __len__(self) -> int:
        """Studies that have a masked image."""
        return len(self._places)

    def masked(self, study: str) -> np.ndarray:
        """The masked image of a study, uint8 (h, w)."""
        (file,) = self._row(study, ("masked",))
        return decode_png(file["bytes"], study)

    def read(self, study: str) -> SaliencyImage:
        """All there is of a study."""
        names = ("number", "map", "masked", "labels", "unmasked", "label_maps")
        number, map_, masked, labels, unmasked, label_maps = self._row(study, names)
        return SaliencyImage(
            study=study,
            number=number,
            map=decode_png(map_["bytes"], study),
            masked=decode_png(masked["bytes"], study),
            labels={label["name"]: label["probability"] for label in labels},
            unmasked=unmasked,
            label_maps={own["name"]: decode_png(own["map"]["bytes"], study) for own in label_maps},
        )

    def _row(self, study: str, columns: tuple[str, ...]) -> list[Any]:
        """Some columns of a study's row; no other is read."""
        if self._data is None or study not in self._places:
            raise DataError(
                f"{self._folder} has no masked image of study {study}; remove it and make it "
                "again with: radrep prepare saliency"
            )
        row = self._data.data.fast_slice(self._places[study], 1)
        return [row.column(name)[0].as_py() for name in columns]


def older_masks(folder: Path) -> DataError:
    """The error about a folder whose columns an older radrep named otherwise."""
    return DataError(
        f"{folder} was made by an older radrep. Remove it and make it again with: "
        "radrep prepare saliency"
    )
