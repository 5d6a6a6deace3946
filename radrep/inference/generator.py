"""Reports for a user's own image files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from radrep.build import build_preprocess, build_selection
from radrep.data.batch import Batch
from radrep.data.dicom import read_tags
from radrep.data.image_io import read_image
from radrep.data.selection import masked_view
from radrep.data.study import Image, Study, projection_of
from radrep.device import best_device
from radrep.errors import DataError
from radrep.inference.decode import report_model, write_report
from radrep.inference.finding_maps import find_looks
from radrep.recipe.data import Saliency
from radrep.recipe.training import Decode
from radrep.saliency.sdam import MaskSummary, SaliencyMaker, check_mask_fingerprint
from radrep.viz.figures.heatmap import FindingAttention
from radrep.weights.checkpoint import find_checkpoint, load_checkpoint


@dataclass(frozen=True)
class GeneratedReport:
    """A report and where its words looked.

    Attributes:
        images: The files it was written for.
        projections: "frontal", "lateral" or "unknown" of each.
        text: The report.
        looks: Attention to each patch, averaged over words, layers and heads, one map
            (rows, columns) a view; all maps together sum to 1. The masked image, where the model
            is given one, is the last view. Empty for a language model.
        masked: The image under its SDAM mask, uint8 (h, w), where the model is given one.
        findings: What the report and the discriminator, if there is one, find; empty unless it
            was to be explained.
    """

    images: tuple[Path, ...]
    projections: tuple[str, ...]
    text: str
    looks: tuple[np.ndarray, ...]
    masked: np.ndarray | None
    findings: tuple[FindingAttention, ...]


class ReportGenerator:
    """A trained model that writes reports for image files.

    Args:
        checkpoint: A run, a checkpoint, or None for the newest run under runs/.
        device: Where it computes; the best device of the machine, if not given.
        decode: Other settings of the decoding than the checkpoint's own.
        discriminator: A run or checkpoint of SDAM's discriminator that looks at the films beside
            the model and, if the model is given masked images, makes them; that of the recipe, if
            it names one.

    Attributes:
        loaded: The checkpoint.
        decode: How it decodes.
        discriminator: What looks beside it, or None.

    Raises:
        CheckpointError: If there is no such checkpoint or it is broken, or the discriminator of
            its masked images is not the one that it was trained with.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        device: torch.device | None = None,
        decode: Decode | None = None,
        discriminator: Path | None = None,
    ) -> None:
        folder = find_checkpoint(None if checkpoint is None else Path(checkpoint))
        self.loaded = load_checkpoint(folder)
        self.decode = decode or self.loaded.recipe.decode
        device = device or best_device()
        self._model = report_model(self.loaded).to(device)
        data = self.loaded.recipe.data
        self._preprocess = build_preprocess(data, self._model)
        self._selection = build_selection(data)
        section = data.saliency if self._selection.has_mask else None
        self._masks = section is not None
        if discriminator is not None:
            named = {"discriminator": discriminator}
            section = (section or Saliency(discriminator=discriminator)).model_copy(update=named)
        self.discriminator = SaliencyMaker(section, device) if section else None
        if self._masks and self.discriminator is not None:
            check_mask_fingerprint(self.loaded.saliency, self.discriminator.fingerprint, folder)

    def write(
        self,
        *images: str | Path,
        projections: Sequence[str] = (),
        seed: int = 0,
        explain: bool = False,
    ) -> GeneratedReport:
        """Write the report of one study.

        Args:
            images: Its views: PNG, JPEG, TIFF, BMP or DICOM files. Where the model is given a
                masked image, it is the first frontal one, or the first where none is known to be.
            projections: "frontal", "lateral" or "unknown" of each; what DICOM files say, if not
                given.
            seed: Of the draws, when sampling.
            explain: Tell the findings one by one, for which the discriminator looks at each view.

        Raises:
            DataError: If a file cannot be read or there are more views than the model takes.
        """
        if not images:
            raise DataError("no image given; name one file for each view of the study")
        most = self._selection.max_files
        if len(images) > most:
            raise DataError(
                f"{len(images)} views of one study, but this model was trained with at most "
                f"{most}; give fewer"
            )
        if projections and len(projections) != len(images):
            raise DataError(
                f"{len(projections)} projections were told of {len(images)} images; tell one of "
                "each image, or none"
            )
        paths = tuple(Path(image) for image in images)
        # What preparing a data set does to a file.
        films = [read_image(path, self.loaded.prepared_size) for path in paths]
        told = tuple(projections) or tuple(projection_of(read_tags(path)[2]) for path in paths)
        facts = tuple(Image(p.name, view, "") for p, view in zip(paths, told, strict=True))
        study = Study("study", None, "test", facts)
        views = self._selection.of(study)
        masked = None
        if self._masks and self.discriminator is not None:
            masked = self.discriminator.look(films[masked_view(study)]).masked
        pixels = [
            self._preprocess.evaluate(
                masked if view.masked and masked is not None else films[view.number],
                saliency=view.masked,
            )
            for view in views
        ]
        batch = Batch.of_study(study.id, pixels)
        text, word_looks = write_report(self.loaded, batch, self.decode, seed=seed)
        return GeneratedReport(
            images=paths,
            projections=told,
            text=text,
            looks=tuple(word_looks.mean(axis=0)) if len(word_looks) else (),
            masked=masked,
            findings=find_looks(text, word_looks, self._look([films[v.number] for v in views]))
            if explain
            else (),
        )

    def _look(self, films: Sequence[np.ndarray]) -> list[MaskSummary]:
        """What the discriminator, if there is one, finds in each view, a masked one bare.

        Its maps have the size of the film, since a cell need not look at its own middle.
        """
        discriminator = self.discriminator
        if discriminator is None:
            return []
        looks = []
        for film in films:
            look = discriminator.look(film)
            large = discriminator.enlarge(torch.from_numpy(np.stack([*look.maps.values()])), film)
            looks.append(replace(look, maps=dict(zip(look.maps, large.numpy(), strict=True))))
        return looks


def group_views(images: Sequence[str], *, one_study: bool) -> list[list[str]]:
    """Studies of a command line: all files are one study's views, or each file is a study."""
    return [list(images)] if one_study else [[image] for image in images]
