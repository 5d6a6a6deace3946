"""The splits of a prepared folder as a recipe reads them, with the masked images it names."""

from radrep.data.dataset import ModelStudies
from radrep.errors import DataError
from radrep.recipe.data import Data
from radrep.saliency.sdam import open_saliency


def read_split(
    data: Data, name: str, *, need_text: bool = True, masked_by: str = ""
) -> ModelStudies:
    """Read one split of the prepared folder.

    Args:
        data: Which folder and which text.
        name: "train", "val" or "test".
        need_text: Leave out studies without the text.
        masked_by: Fingerprint of what made their masked images, see `open_saliency`.

    Raises:
        DataError: If the folder is missing, the split has no study with the text, or masked images
            are asked for that nobody made.
        CheckpointError: If the discriminator of the masked images cannot be had.
    """
    studies = ModelStudies(
        data.prepared,
        name,
        target=data.target if need_text else None,
        masks=open_saliency(data, name, masked_by),
    )
    if not studies:
        raise DataError(
            f"{data.prepared}: none of the {studies.num_without_text} studies of the split "
            f"'{name}' has {data.target}; choose another data.target"
        )
    return studies
