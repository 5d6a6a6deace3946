"""SDAM's maps and masked images of a prepared folder, in shards beside its own.

    OUT/saliency/0123456789ab/train-00000.arrow   a row a study: map, masked image, labels
    OUT/saliency/0123456789ab/prepared.json       which shards there are, and what made them

The folder's name is the beginning of a hash of the discriminator and of the settings of the mask,
so that maps of several discriminators lie side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radrep.data.store import decode_image, encode_image, open_shards, read_shards
from radrep.errors import DataError

if TYPE_CHECKING:
    from datasets import Features

FOLDER = "saliency"


@dataclass(frozen=True)
class SaliencyImage:
    """What a discriminator looks at in one image of a study.

    Attributes:
        study: Id of the study.
        number: Which of its images.
        map: How much each pixel speaks for the labels that fired, uint8 (h, w), 255 the most; all
            255 where the whole image is kept.
        masked: The image under its mask, uint8 (h, w).
        labels: Labels that fired, to their probability.
        kept_whole: No label fired, or no place speaks for those that did: nothing is masked.
        label_maps: Label to its own map, uint8 (h, w), where they were asked for.
    """

    study: str
    number: int
    map: np.ndarray
    masked: np.ndarray
    labels: Mapping[str, float]
    kept_whole: bool
    label_maps: Mapping[str, np.ndarray] = field(default_factory=dict)


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
            "kept_whole": Value("bool"),
            "label_maps": List({"name": Value("string"), "map": picture}),
        }
    )


def saliency_row(image: SaliencyImage) -> dict[str, Any]:
    """As a row of `saliency_features`."""

    def png(pixels: np.ndarray) -> dict[str, Any]:
        return {"bytes": encode_image(pixels), "path": None}

    return {
        "id": image.study,
        "number": image.number,
        "map": png(image.map),
        "masked": png(image.masked),
        "labels": [{"name": name, "probability": p} for name, p in image.labels.items()],
        "kept_whole": image.kept_whole,
        "label_maps": [{"name": name, "map": png(m)} for name, m in image.label_maps.items()],
    }


class SaliencyImages:
    """The masked images of one split, read from disk when they are asked for.

    Args:
        folder: The folder of one discriminator.
        split: "train", "val" or "test".
        fingerprint: The hash of what made them.

    Attributes:
        fingerprint: The same.

    Raises:
        DataError: If the folder is broken.
    """

    def __init__(self, folder: Path, split: str, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._folder = folder
        names = [shard["name"] for shard in read_shards(folder) if shard["split"] == split]
        self._data = open_shards([folder / name for name in names]) if names else None
        ids = self._data["id"] if self._data is not None else []
        self._places = {study: place for place, study in enumerate(ids)}

    def __len__(self) -> int:
        """Studies that have a masked image."""
        return len(self._places)

    def masked(self, study: str) -> np.ndarray:
        """The masked image of a study, uint8 (h, w).

        Raises:
            DataError: If it has none, or its file is damaged.
        """
        return decode_image(self._row(study)["masked"]["bytes"], study)

    def read(self, study: str) -> SaliencyImage:
        """All there is of a study.

        Raises:
            DataError: If there is nothing, or a file in it is damaged.
        """
        row = self._row(study)
        return SaliencyImage(
            study=study,
            number=row["number"],
            map=decode_image(row["map"]["bytes"], study),
            masked=decode_image(row["masked"]["bytes"], study),
            labels={label["name"]: label["probability"] for label in row["labels"]},
            kept_whole=row["kept_whole"],
            label_maps={
                own["name"]: decode_image(own["map"]["bytes"], study) for own in row["label_maps"]
            },
        )

    def _row(self, study: str) -> dict[str, Any]:
        if self._data is None or study not in self._places:
            raise DataError(
                f"{self._folder} has no masked image of study {study}; remove it and make it "
                "again with: radrep prepare saliency"
            )
        return dict(self._data[self._places[study]])
