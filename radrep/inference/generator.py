"""Reports for a user's own image files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radrep.build import build_preprocess, build_selection
from radrep.data.batch import Batch
from radrep.data.dicom import read_tags
from radrep.data.image_io import read_image_sizes
from radrep.data.selection import masked_view
from radrep.data.study import Image, Study, projection_of
from radrep.device import best_device
from radrep.errors import DataError
from radrep.inference.decode import report_model, write_report, write_reports
from radrep.inference.finding_maps import map_findings
from radrep.recipe.data import Saliency
from radrep.recipe.training import Decode
from radrep.saliency.sdam import (
    MaskSummary,
    SaliencyMaker,
    check_mask_fingerprint,
    load_discriminator,
)
from radrep.viz.figures.heatmap import FindingAttention
from radrep.weights.checkpoint import find_checkpoint, load_checkpoint

_FILM_SIDE = 512  # short side in pixels of the films under maps


@dataclass(frozen=True)
class StudyFiles:
    """The image files of one study.

    Attributes:
        images: PNG, JPEG, TIFF, BMP or DICOM files, one per view. Where the model takes a masked
            image, the first frontal one is masked, or the first of all.
        projections: "frontal", "lateral" or "unknown" of each; by default those of DICOM headers.
    """

    images: tuple[Path, ...]
    projections: tuple[str, ...] = ()


@dataclass(frozen=True)
class GeneratedReport:
    """A report and, if asked for, its attention maps.

    Attributes:
        images: The files it was generated for.
        projections: "frontal", "lateral" or "unknown" of each.
        text: The report.
        films: Views to draw maps on, uint8 (h, w), short side 512 at most, in the order of
            `attention`; a masked image is the last, as large as `masked`. Empty without `explain`.
        masked: The image under its SDAM mask, uint8 (h, w), if the model takes one.
        attention: To each patch, averaged over words, layers and heads, one map (rows, columns)
            per view; all maps together sum to 1. Empty for a language model and without `explain`.
        findings: The maps of each finding; empty without `explain`.
    """

    images: tuple[Path, ...]
    projections: tuple[str, ...]
    text: str
    masked: np.ndarray | None
    films: tuple[np.ndarray, ...] = ()
    attention: tuple[np.ndarray, ...] = ()
    findings: tuple[FindingAttention, ...] = ()


@dataclass(frozen=True)
class _Input:
    """A study that is read: its report without text, the model's pixels, and the bare views."""

    report: GeneratedReport
    pixels: list[Tensor]
    bare: list[np.ndarray]


class ReportGenerator:
    """A trained model that writes reports for image files.

    Args:
        checkpoint: A run, a checkpoint, or None for the newest run under runs/.
        device: Where it computes; by default the best device of the machine.
        decode: By default that of the checkpoint.
        discriminator: A run or checkpoint of SDAM's discriminator, for Grad-CAM and, if the model
            takes masked images, for these; by default that of the recipe, if any.

    Attributes:
        loaded: The checkpoint.
        discriminator: The discriminator, or None.

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
        self._decode = decode or self.loaded.recipe.decode
        device = device or best_device()
        self._model = report_model(self.loaded).to(device)
        data = self.loaded.recipe.data
        self._preprocess = build_preprocess(data, self._model)
        self._selection = build_selection(data)
        section = data.saliency if self._selection.has_mask else None
        if discriminator is not None:
            named = {"discriminator": discriminator}
            section = (section or Saliency(discriminator=discriminator)).model_copy(update=named)
        self.discriminator: SaliencyMaker | None = None
        if section is not None:
            self.discriminator = SaliencyMaker(load_discriminator(section), section, device)
            if self._selection.has_mask:
                fingerprint = self.discriminator.fingerprint
                check_mask_fingerprint(self.loaded.saliency, fingerprint, folder)

    def write(
        self,
        *images: str | Path,
        projections: Sequence[str] = (),
        seed: int = 0,
        explain: bool = False,
    ) -> GeneratedReport:
        """Write the report of one study; see `StudyFiles`.

        Args:
            images: Its views.
            projections: Of each view.
            seed: For sampling.
            explain: Compute attention and the maps of findings as well.

        Raises:
            DataError: If a file cannot be read or there are more views than the model takes.
        """
        study = StudyFiles(tuple(map(Path, images)), tuple(projections))
        if not explain:
            return next(self.write_all([study], seed=seed))
        given = self._read(study, with_films=True)
        batch = Batch.of_study("study", given.pixels)
        text, attention = write_report(self.loaded, batch, self._decode, seed=seed)
        return replace(
            given.report,
            text=text,
            attention=tuple(attention.mean(axis=0)) if len(attention) else (),
            findings=map_findings(text, attention, self._summaries(given.bare)),
        )

    def write_all(
        self, studies: Sequence[StudyFiles], *, seed: int = 0
    ) -> Iterator[GeneratedReport]:
        """Write the reports of several studies, decode.batch_size at a time, in their order.

        Draws of sampling would depend on the batch, so that sampled studies go one by one.
        """
        size = 1 if self._decode.method == "sample" else self._decode.batch_size
        rest = iter(studies)
        while chunk := list(islice(rest, size)):
            given = [self._read(study) for study in chunk]
            batch = Batch(
                ids=tuple(str(i) for i in range(len(given))),
                num_views=torch.tensor([len(each.pixels) for each in given]),
                images=torch.stack([pixels for each in given for pixels in each.pixels]),
            )
            written = write_reports(
                self._model,
                [batch],
                self.loaded.codec,
                self._decode,
                precision=self.loaded.recipe.train.precision,
                seed=seed,
            )
            for each, (_, text) in zip(given, written, strict=True):
                yield replace(each.report, text=text)

    def _read(self, files: StudyFiles, *, with_films: bool = False) -> _Input:
        """Read and preprocess a study as `radrep prepare` and training do."""
        paths, most = files.images, self._selection.max_files
        if not paths:
            raise DataError("no image given; name one file for each view of the study")
        if len(paths) > most:
            raise DataError(
                f"{len(paths)} views of one study, but this model was trained with at most "
                f"{most}; give fewer"
            )
        if files.projections and len(files.projections) != len(paths):
            raise DataError(
                f"{len(files.projections)} projections for {len(paths)} images; give one for each "
                "image, or none"
            )
        # The model's pixels are read at their own size: from those of 512 they would differ.
        sides = [self.loaded.prepared_size, *([_FILM_SIDE] if with_films else [])]
        sizes = [read_image_sizes(path, sides) for path in paths]
        images = [image for image, *_ in sizes]
        projections = files.projections or tuple(projection_of(read_tags(p)[2]) for p in paths)
        rows = tuple(Image(p.name, view, "") for p, view in zip(paths, projections, strict=True))
        study = Study("study", None, "test", rows)
        views = self._selection.of(study)
        masked = None
        if self._selection.has_mask:
            assert self.discriminator is not None, "the recipe names one"
            masked = self.discriminator.summarize(images[masked_view(study)]).masked
        given = [
            masked if view.masked and masked is not None else images[view.number] for view in views
        ]
        pixels = [
            self._preprocess.evaluate(image, saliency=view.masked)
            for image, view in zip(given, views, strict=True)
        ]
        films = tuple(
            masked if view.masked and masked is not None else sizes[view.number][1]
            for view in (views if with_films else ())
        )
        report = GeneratedReport(paths, projections, "", masked, films)
        return _Input(report, pixels, [images[view.number] for view in views])

    def _summaries(self, images: Sequence[np.ndarray]) -> list[MaskSummary]:
        """The discriminator's summary of each view, with maps at the size of the image."""
        if (discriminator := self.discriminator) is None:
            return []
        summaries = []
        for image in images:
            found = discriminator.summarize(image)
            maps = discriminator.enlarge(torch.from_numpy(np.stack([*found.maps.values()])), image)
            summaries.append(replace(found, maps=dict(zip(found.maps, maps.numpy(), strict=True))))
        return summaries
