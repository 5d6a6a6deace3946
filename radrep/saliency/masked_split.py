"""The studies of a split as a recipe reads them, with the masked images that it names.

Which image of a study is masked is decided by `radrep.data.image_selection.masked_view`.
"""

from pathlib import Path

from radrep.data.context.study_context import check_context
from radrep.data.dataset import ModelStudies
from radrep.data.saliency_store import FOLDER, SaliencyImages
from radrep.data.store import Fold
from radrep.errors import DataError
from radrep.recipe.data import Data, Saliency
from radrep.saliency.sdam import mask_fingerprint

_HASH_LENGTH = 12  # in the names of folders


def read_split(
    data: Data, name: str, *, need_text: bool = True, masked_by: str = ""
) -> ModelStudies:
    """Read "train", "val" or "test" of the prepared folder; `need_text` drops studies without text.

    With data.fold the splits are "train", "val" and "heldout", all parts of the training split.

    Raises:
        DataError: If the folder, its masked images or studies with the text are missing, or no
            training study has some context of data.context.
        CheckpointError: If the discriminator of the masked images is needed and missing.
    """
    target = data.target if need_text else None
    fold = None if data.fold is None else Fold(data.fold.number, data.fold.of)
    masks = open_masks(data, name if fold is None else "train", masked_by)
    studies = ModelStudies(data.prepared, name, target=target, fold=fold, masks=masks)
    if not studies:
        raise DataError(
            f"{data.prepared}: none of the {studies.num_without_text} studies of the split "
            f"'{name}' has {data.target}; choose another data.target"
        )
    if name == "train":
        check_context(studies, data.context)
    return studies


def open_masks(data: Data, split: str, masked_by: str = "") -> SaliencyImages | None:
    """The masked images that a recipe names, None where it names none.

    `masked_by` is the fingerprint in a trained model's checkpoint; by default that of the
    discriminator as it is now.
    """
    if data.images == "views" or data.saliency is None:
        return None
    fingerprint = masked_by or mask_fingerprint(data.saliency)
    folder = saliency_folder(data.prepared, fingerprint)
    if masked_by and not folder.is_dir() and mask_fingerprint(data.saliency) != masked_by:
        raise DataError(
            f"{data.prepared} has no masked images by the discriminator {folder.name}, on whose "
            f"masks the model was trained, and {data.saliency.discriminator} is another one now"
        )
    if not folder.is_dir():
        section = data.saliency
        options = "".join(
            f" --{name} {getattr(section, name)}"
            for name, field in Saliency.model_fields.items()
            if name != "discriminator" and getattr(section, name) != field.default
        )
        raise DataError(
            f"{data.prepared} has no masked images by {section.discriminator} as it is now. Make "
            f"them with: radrep prepare saliency --data {data.prepared} --checkpoint "
            f"{section.discriminator}{options}"
        )
    return SaliencyImages(folder, split, fingerprint)


def saliency_folder(prepared: Path, fingerprint: str) -> Path:
    """The folder of the masked images with a fingerprint, inside a prepared folder."""
    return prepared / FOLDER / fingerprint[:_HASH_LENGTH]
