"""The images of a split that a model is given, each by its key."""

from dataclasses import dataclass

from radrep.data.dataset import ModelStudies
from radrep.data.image_selection import ImageSelection, View
from radrep.data.study import Image

Place = tuple[int, View]  # a study's index, and which of its images


@dataclass(frozen=True)
class SelectedImages:
    """The images of a split that a model is given, found in one pass over its studies.

    A fold has the keys of its part, and the places of the whole split: folds share the features.
    """

    studies: ModelStudies  # of the split on disk
    keys: tuple[tuple[str, ...], ...]  # of each study's images; equal images have one key
    places: dict[str, Place]
    ids: tuple[str, ...]  # of each study
    patients: tuple[str, ...]  # of each study; without one its own

    @classmethod
    def find(cls, studies: ModelStudies, selection: ImageSelection) -> "SelectedImages":
        """Select the images of every study."""
        whole, own = studies.whole_split(), set(studies.ids)
        keys: list[tuple[str, ...]] = []
        places: dict[str, Place] = {}
        ids: list[str] = []
        patients: list[str] = []
        for index, study in enumerate(whole):
            views = selection.of(study)
            found = tuple(image_key(study.images[view.number], view) for view in views)
            if study.id in own:
                keys.append(found)
                ids.append(study.id)
                patients.append(study.patient_id or f"study {study.id}")
            for key, view in zip(found, views, strict=True):
                places.setdefault(key, (index, view))
        places = dict(sorted(places.items()))
        return cls(whole, tuple(keys), places, tuple(ids), tuple(patients))


def image_key(image: Image, view: View) -> str:
    """The key of an image, bare or masked."""
    return f"{image.sha256} masked" if view.masked else image.sha256
