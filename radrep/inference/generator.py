"""Reports for a user's own image files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radrep.build import build_preprocess, build_selection
from radrep.data.batch import Batch
from radrep.data.image_io import read_image_and_view
from radrep.data.image_selection import masked_view
from radrep.data.study import Image, Study, projection_of
from radrep.device import best_device
from radrep.errors import DataError
from radrep.guidance.editing import Sentence, WrittenReport
from radrep.inference.decode import report_model, write_report, write_reports
from radrep.inference.finding_maps import map_findings
from radrep.inference.guide import guide_for, made_by
from radrep.recipe.data import Saliency
from radrep.recipe.training import Decode
from radrep.saliency.sdam import SaliencyMaker, check_mask_fingerprint, load_discriminator
from radrep.viz.figures.heatmap import FindingAttention
from radrep.weights.checkpoint import find_checkpoint, load_checkpoint

_FILM_SIDE = 512  # short side in pixels of the films under maps


@dataclass(frozen=True)
class StudyFiles:
    """PNG, JPEG, TIFF, BMP or DICOM files of one study, one per view.

    Where the model takes a masked image, the first frontal one is masked, or the first of all.
    """

    images: tuple[Path, ...]
    projections: tuple[str, ...] = ()  # frontal, lateral or unknown; default: of DICOM headers


@dataclass(frozen=True)
class GeneratedReport:
    """A report and, with `explain`, its attention maps.

    Attributes:
        masked: The image under its SDAM mask, uint8 (h, w), if the model takes one.
        films: Views to draw maps on, uint8 (h, w), short side 512 at most; `masked` is the last.
        attention: To each patch, averaged over words, layers and heads, one map (rows, columns)
            per view; all maps together sum to 1. Empty for a language model.
    """

    images: tuple[Path, ...]
    projections: tuple[str, ...]  # "frontal", "lateral" or "unknown" of each
    text: str
    made: str  # "decoded" or "selected", and ", by consensus" or ", edited"
    masked: np.ndarray | None
    films: tuple[np.ndarray, ...] = ()
    attention: tuple[np.ndarray, ...] = ()
    findings: tuple[FindingAttention, ...] = ()
    sentences: tuple[Sentence, ...] = ()  # of an edited report, each with where it is from
    removed: tuple[str, ...] = ()  # sentences of the model that editing took out


class ReportGenerator:
    """A trained model that writes reports for image files.

    Args:
        checkpoint: A run, a checkpoint, or None for the newest run under runs/.
        device: By default the best device of the machine.
        decode: By default that of the checkpoint.
        discriminator: A run or checkpoint of SDAM's discriminator, for Grad-CAM and, if the model
            takes masked images, for these; by default that of the recipe, if any.

    Raises:
        CheckpointError: If a checkpoint is missing, broken, or was trained on other masked images.
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
        self._guide = guide_for(self.loaded, self._decode)
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
                now = self.discriminator.fingerprint
                check_mask_fingerprint(self.loaded.saliency, now, folder)

    def write(
        self,
        *images: str | Path,
        projections: Sequence[str] = (),
        seed: int = 0,
        explain: bool = False,
    ) -> GeneratedReport:
        """Write the report of one study, see `StudyFiles`; `explain` adds films and maps.

        Raises:
            DataError: If a file cannot be read or there are more views than the model takes.
        """
        study = StudyFiles(tuple(map(Path, images)), tuple(projections))
        if not explain:
            return next(self.write_all([study], seed=seed))
        report, pixels, bare = self._read(study, with_films=True)
        batch = Batch.of_study("study", pixels)
        written, attention = write_report(
            self.loaded, batch, self._decode, seed=seed, guide=self._guide
        )
        maker = self.discriminator
        summaries = [maker.summarize(image, full_size=True) for image in bare if maker]
        # Edited words were not written while the decoder attended to the image.
        maps = attention if not (written.changes or written.removed) else attention[:0]
        return replace(
            self._with_text(report, written),
            attention=tuple(attention.mean(axis=0)) if len(attention) else (),
            findings=map_findings(written.text, maps, summaries),
        )

    def write_all(
        self,
        studies: Sequence[StudyFiles],
        *,
        seed: int = 0,
        skip: Callable[[StudyFiles, DataError], None] | None = None,
    ) -> Iterator[GeneratedReport]:
        """Write the reports of several studies, decode.batch_size at a time, in their order.

        Draws of sampling would depend on the batch, so that sampled studies go one by one. A study
        that cannot be read is handed to `skip`, with the reason, and costs the others nothing; the
        error is raised without.
        """
        size = 1 if self._decode.method == "sample" else self._decode.batch_size
        readable = self._read_all(studies, skip)
        while chunk := list(islice(readable, size)):
            reports, images, _ = zip(*chunk, strict=True)
            batch = Batch(
                ids=tuple(map(str, range(len(chunk)))),
                num_views=torch.tensor(list(map(len, images))),
                images=torch.stack([view for views in images for view in views]),
            )
            codec, precision = self.loaded.codec, self.loaded.recipe.train.precision
            written = write_reports(
                self._model,
                [batch],
                codec,
                self._decode,
                precision=precision,
                seed=seed,
                guide=self._guide,
            )
            for report, (_, text) in zip(reports, written, strict=True):
                yield self._with_text(report, text)

    def _with_text(self, report: GeneratedReport, written: WrittenReport) -> GeneratedReport:
        return replace(
            report,
            text=written.text,
            made=made_by(written, self._guide),
            sentences=written.sentences,
            removed=written.removed,
        )

    def _read_all(
        self,
        studies: Sequence[StudyFiles],
        skip: Callable[[StudyFiles, DataError], None] | None,
    ) -> Iterator[tuple[GeneratedReport, list[Tensor], list[np.ndarray]]]:
        for study in studies:
            try:
                found = self._read(study)
            except DataError as error:
                if skip is None:
                    raise
                skip(study, error)
                continue
            yield found

    def _read(
        self, files: StudyFiles, *, with_films: bool = False
    ) -> tuple[GeneratedReport, list[Tensor], list[np.ndarray]]:
        """The report without text, the pixels as `radrep prepare` and training make, bare views."""
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
        sizes, positions = zip(*(read_image_and_view(path, sides) for path in paths), strict=True)
        images = [image for image, *_ in sizes]
        projections = files.projections or tuple(map(projection_of, positions))
        rows = tuple(Image(p.name, view, "") for p, view in zip(paths, projections, strict=True))
        study = Study("study", None, "test", rows)
        views = self._selection.of(study)
        masked = None
        if self._selection.has_mask:
            assert self.discriminator is not None, "the recipe names one"
            masked = self.discriminator.summarize(images[masked_view(study)]).masked
        # Bare ones at both sizes; the masked one is made at the first.
        shown = [
            [masked] * len(sides) if view.masked and masked is not None else sizes[view.number]
            for view in views
        ]
        pixels = [
            self._preprocess.evaluate(image, saliency=view.masked)
            for (image, *_), view in zip(shown, views, strict=True)
        ]
        films = tuple(each[1] for each in shown) if with_films else ()
        report = GeneratedReport(paths, projections, "", "", masked, films)
        return report, pixels, [images[view.number] for view in views]
