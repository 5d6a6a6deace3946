"""Reports for a user's own image files."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from radrep.build import build_preprocess, build_selection
from radrep.data.batch import Batch
from radrep.data.context.reader import ContextReader
from radrep.data.context.study_context import CONTEXT, PRIOR_IMAGE
from radrep.data.dataset import Views, batch_inputs
from radrep.data.image_selection import masked_view
from radrep.data.study import Image, Study
from radrep.device import best_device, why_not_compiled
from radrep.errors import CheckpointError, DataError, RadrepError
from radrep.guidance.editing import WrittenReport
from radrep.inference.decode import explain_reports, report_model, write_reports
from radrep.inference.films import Films, StudyFiles, read_films
from radrep.inference.finding_maps import map_findings
from radrep.inference.findings import find_findings
from radrep.inference.generated_report import GeneratedReport
from radrep.inference.guide import guide_for, made_by
from radrep.metrics.labeler import OBSERVATIONS
from radrep.metrics.labeler.vocabulary import ABNORMAL
from radrep.modules.backbone import Backbone
from radrep.recipe.data import Saliency
from radrep.recipe.training import Decode
from radrep.saliency.sdam import (
    MaskSummary,
    SaliencyMaker,
    check_mask_fingerprint,
    load_discriminator,
)
from radrep.sections import MARKER, sections_of, without_marker
from radrep.weights.checkpoint import find_checkpoint, load_checkpoint
from radrep.weights.files import fingerprint
from radrep.weights.model_card import MODEL_CARD
from radrep.weights.run_folder import TRAINING

_FILM_SIDE = 512  # short side in pixels of the films under maps


@dataclass(frozen=True)
class _Given:
    """A study as the model is given it: a report without text, and which image each view is of."""

    report: GeneratedReport
    films: Films
    numbers: tuple[int, ...]
    views: Views
    context: tuple[Tensor, Tensor] | None
    prior: Views | None


class ReportGenerator:
    """A trained model that writes reports for image files.

    Args:
        checkpoint: A run, a checkpoint, a bundle, or None for the newest run under runs/.
        device: By default the best device of the machine.
        decode: By default that of the checkpoint.
        discriminator: A run or checkpoint of SDAM's discriminator, for Grad-CAM and, if the model
            takes masked images, for these; by default that of the recipe, if any.
        predict: Whether probabilities of findings are predicted by the run's own encoder too, where
            it was fitted for that and no discriminator gives them.
        compiled: Have torch compile the convolutional backbone, which takes a minute.

    Raises:
        CheckpointError: If a checkpoint is missing, broken, or was trained on other masked images.
        RadrepError: If torch cannot compile here, or there is no convolutional backbone.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        device: torch.device | None = None,
        decode: Decode | None = None,
        discriminator: Path | None = None,
        predict: bool = False,
        compiled: bool = False,
    ) -> None:
        folder = find_checkpoint(None if checkpoint is None else Path(checkpoint))
        self.loaded = load_checkpoint(folder)
        # A bundle has the model card too.
        self.fingerprint = fingerprint(folder, without=(TRAINING, MODEL_CARD))
        self._decode = decode or self.loaded.recipe.decode
        self._guide = guide_for(self.loaded, self._decode, predict=predict)
        predictor = self._guide.predictor
        self._learned = predictor.learned() if predictor is not None else ()
        device = device or best_device()
        self._model = report_model(self.loaded).to(device)
        self._compiled = compiled
        if compiled:
            _compile_backbone(self._model, device)
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

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, revision: str | None = None, **options: Any
    ) -> Self:
        """Load a bundle, a run or checkpoint, or OWNER/NAME of the Hugging Face hub.

        `revision` is a branch, tag or commit of the hub; options are those of the class. Nothing
        that is loaded is run, and files are compared with their checksums.

        Raises:
            CheckpointError: If there is no such model, or it is not whole.
        """
        from radrep.weights.bundle import pull  # huggingface_hub takes a while to import

        path = Path(model)
        if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
            return cls(pull(str(model), revision), **options)
        if revision is not None:
            raise CheckpointError(
                f"{model} is no OWNER/NAME of the hub, which revision='{revision}' is for"
            )
        return cls(path, **options)

    def settings(self) -> dict[str, object]:
        """What decides its reports beside images and seed, as JSON has it."""
        decode = self._decode.model_dump(mode="json", exclude={"batch_size"})
        maker = self.discriminator
        return {
            "model": self.fingerprint,
            "discriminator": maker and maker.fingerprint,
            "compiled": self._compiled,  # last digits differ
            **{f"decode.{key}": value for key, value in decode.items()},
        }

    @property
    def context(self) -> tuple[str, ...]:
        """What it reads beside images, by data.context: of films that select a report, nothing."""
        return () if self._decode.method == "select" else self.loaded.recipe.data.context

    @property
    def max_files(self) -> int:
        """How many images of a study it is given at most, the masked one not counted."""
        return self._selection.max_files

    @property
    def batch_size(self) -> int:
        """Studies that are written together.

        One when sampling, since draws would depend on the batch.
        """
        return 1 if self._decode.method == "sample" else self._decode.batch_size

    def write(
        self,
        *images: str | Path,
        projections: Sequence[str] = (),
        texts: Mapping[str, str] | None = None,
        prior: Sequence[str | Path] = (),
        seed: int = 0,
        explain: bool = False,
    ) -> GeneratedReport:
        """Write the report of one study, see `StudyFiles`; `explain` adds films and maps.

        Raises:
            DataError: If a file cannot be read, there are more views than the model takes, or
                context that it does not read.
        """
        paths = tuple(map(Path, images)), tuple(map(Path, prior))
        study = StudyFiles(paths[0], tuple(projections), texts or {}, paths[1])
        if not explain:
            return next(self.write_all([study], seed=seed))
        return self.explain_films(self._read(study, with_films=True), seed=seed)[0]

    def explain_films(
        self, films: Films, *, seed: int = 0, on_text: Callable[[str], None] | None = None
    ) -> tuple[GeneratedReport, np.ndarray]:
        """The report of one study that was read, with films and maps, and its words' attention.

        That is (words, views, rows, columns) of the report's text, which has no marker between
        sections, without words where these were edited or selected.
        `on_text` gets the draft so far, see `explain_reports`.
        """
        given = self._prepare(films)
        ((written, attention),) = self._explain(_batch([given]), seed, on_text)
        report, summaries = self._with_findings(given, written, attention)
        # Edited words were not written while the decoder attended to the image.
        maps = attention if not (written.changes or written.removed) else attention[:0]
        explained = replace(
            report,
            attention=tuple(attention.mean(axis=0)) if len(attention) else (),
            finding_maps=map_findings(written.text, maps, summaries),
        )
        words = [n for n, word in enumerate(written.text.split()) if word != MARKER]
        return explained, maps[words] if len(maps) else maps

    def write_all(
        self,
        studies: Sequence[StudyFiles],
        *,
        seed: int = 0,
        findings: bool = False,
        skip: Callable[[StudyFiles, DataError], None] | None = None,
    ) -> Iterator[GeneratedReport]:
        """Write the reports of several studies, `batch_size` at a time, in their order.

        With `findings` each has `GeneratedReport.findings` and probabilities.

        A study that cannot be read is handed to `skip`, with the reason, and costs the others
        nothing; the error is raised without.
        """
        readable = self._read_all(studies, skip)
        while chunk := list(islice(readable, self.batch_size)):
            yield from self.write_films(chunk, seed=seed, findings=findings)

    def write_films(
        self, films: Sequence[Films], *, seed: int = 0, findings: bool = False
    ) -> list[GeneratedReport]:
        """Write the reports of studies that were read, `batch_size` of them at most.

        Of more views than the model takes the first are used, as in evaluation: see
        `GeneratedReport.images`.
        """
        studies = [self._prepare(each) for each in films]
        batch = _batch(studies)
        if findings:
            explained = self._explain(batch, seed)
            return [
                self._with_findings(given, *found)[0]
                for given, found in zip(studies, explained, strict=True)
            ]
        written = write_reports(
            self._model,
            [batch],
            self.loaded.codec,
            self._decode,
            precision=self.loaded.recipe.train.precision,
            seed=seed,
            guide=self._guide,
        )
        return [
            self._with_text(given.report, text)
            for given, (_, text) in zip(studies, written, strict=True)
        ]

    def _explain(
        self, batch: Batch, seed: int, on_text: Callable[[str], None] | None = None
    ) -> list[tuple[WrittenReport, np.ndarray]]:
        return explain_reports(
            self._model,
            batch,
            self.loaded.codec,
            self._decode,
            precision=self.loaded.recipe.train.precision,
            seed=seed,
            guide=self._guide,
            on_text=on_text,
        )

    def _with_findings(
        self, given: _Given, written: WrittenReport, attention: np.ndarray
    ) -> tuple[GeneratedReport, list[MaskSummary]]:
        """The report with its findings, and the discriminator's summary of each view."""
        by_image: dict[int, MaskSummary] = {}
        if self.discriminator is not None:
            for number in sorted(set(given.numbers)):
                pixels = given.films.pixels[number]
                by_image[number] = self.discriminator.summarize(pixels, full_size=True)
        summaries = [by_image[number] for number in given.numbers if by_image]
        found = dict(zip(ABNORMAL, written.probabilities, strict=False))
        probabilities = {name: found[name] for name in self._learned if found}
        for name in OBSERVATIONS if summaries else ():
            probabilities[name] = max(summary.probabilities[name] for summary in summaries)
        images = [str(given.films.images[number]) for number in given.numbers]
        report = replace(
            self._with_text(given.report, written),
            findings=find_findings(written, images, attention, summaries, probabilities),
            probabilities=probabilities,
        )
        return report, summaries

    def _with_text(self, report: GeneratedReport, written: WrittenReport) -> GeneratedReport:
        target = self.loaded.recipe.data.target
        return replace(
            report,
            text=without_marker(written.text),
            made=made_by(written, self._guide),
            sentences=written.by_section(target),
            removed=written.removed,
            sections=sections_of(written.text, target),
            context=report.context if written.source == "decoder" else (),  # no reader but that
        )

    def _read_all(
        self,
        studies: Sequence[StudyFiles],
        skip: Callable[[StudyFiles, DataError], None] | None,
    ) -> Iterator[Films]:
        for study in studies:
            try:
                films = self._read(study)
            except DataError as error:
                if skip is None:
                    raise
                skip(study, error)
                continue
            yield films

    def _read(self, files: StudyFiles, *, with_films: bool = False) -> Films:
        most, known = self._selection.max_files, self.loaded.recipe.data.context
        for number in (len(files.images), len(files.prior)):
            if number > most:
                raise DataError(
                    f"{number} views of one study, but this model was trained with at most {most}; "
                    "give fewer"
                )
        for name in (*files.texts, *[PRIOR_IMAGE] * bool(files.prior)):
            if name not in known:
                reads = f"reads {', '.join(known)} beside the images" if known else "reads images"
                raise DataError(f"this model {reads} and no {name}: give it none")
        return read_films(files, [self.loaded.prepared_size, *([_FILM_SIDE] * with_films)])

    def _prepare(self, films: Films) -> _Given:
        """A study's pixels as `radrep prepare` and training make them."""
        paths, projections = films.images, films.projections
        study = _as_study(films)
        views = self._selection.of(study)
        masked = None
        if self._selection.has_mask:
            assert self.discriminator is not None, "the recipe names one"
            masked = self.discriminator.summarize(films.pixels[masked_view(study)]).masked

        def shown(images: Sequence[np.ndarray]) -> list[np.ndarray]:  # the masked one has one size
            return [masked if v.masked and masked is not None else images[v.number] for v in views]

        pixels = [
            self._preprocess.evaluate(image, saliency=view.masked)
            for image, view in zip(shown(films.pixels), views, strict=True)
        ]
        prior = []
        if films.prior is not None:
            chosen = self._selection.bare(_as_study(films.prior))
            prior = [self._preprocess.evaluate(films.prior.pixels[v.number]) for v in chosen]
        data, codec = self.loaded.recipe.data, self.loaded.codec
        context = None
        if data.context:
            context = ContextReader(data.context, codec, data.context_words).encode(films.texts)
        used = sorted({view.number for view in views})
        report = GeneratedReport(
            images=tuple(paths[number] for number in used),
            projections=tuple(projections[number] for number in used),
            text="",
            made="",
            masked=masked,
            films=tuple(shown(films.shown)) if films.shown else (),
            context=tuple(
                name for name in CONTEXT if films.texts.get(name) or (prior and name == PRIOR_IMAGE)
            ),
        )
        numbers = tuple(view.number for view in views)
        before = Views(torch.stack(prior)) if prior else None
        return _Given(report, films, numbers, Views(torch.stack(pixels)), context, before)


def _as_study(films: Films) -> Study:
    pairs = zip(films.images, films.projections, strict=True)
    return Study("study", None, "test", tuple(Image(path.name, view, "") for path, view in pairs))


def _batch(studies: Sequence[_Given]) -> Batch:
    return batch_inputs(
        [str(number) for number in range(len(studies))],
        [given.views for given in studies],
        [given.context for given in studies],
        [given.prior for given in studies],
    )


def _compile_backbone(model: object, device: torch.device) -> None:
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise RadrepError("only convolutional backbones are compiled, and this model has none")
    if why := why_not_compiled(device):
        raise RadrepError(why)
    backbone.compile_passes()
