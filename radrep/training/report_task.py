"""Validation of a model that writes reports, and what is fitted on its encoder in the end."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from radrep.build import build_decode
from radrep.data.batch import Batch
from radrep.data.dataset import ReportDataset, in_order
from radrep.data.store import PreparedStudies
from radrep.data.text import get_cleaner, target_text
from radrep.data.tokenizer import ReportCodec, Tokenizer
from radrep.errors import RecipeError
from radrep.guidance.image_features import FilmStatistics
from radrep.inference.decode import explain_reports, write_reports
from radrep.inference.guide import fit_to_encoder
from radrep.metrics.nlg import score_nlg
from radrep.metrics.protocol import (
    References,
    published_llm_references,
    published_references,
    scored_predictions,
)
from radrep.models.base import ReportModel, TrainableModel, reads_label_tokens
from radrep.progress import Reporter
from radrep.recipe.data import Data
from radrep.recipe.recipe import Recipe
from radrep.recipe.training import Train
from radrep.sections import sections_of, titled_sections, without_marker, without_markers
from radrep.training.accelerator import broadcast, gather
from radrep.training.features.cache import cached_features
from radrep.training.features.entry import FeatureStore
from radrep.training.features.selected_images import SelectedImages
from radrep.training.validation import SampleReport, Validation, mean_loss, moved
from radrep.viz.figures.heatmap import draw_attention
from radrep.weights.guidance_files import save_guidance

_METEOR = "val/meteor"
_SAMPLES = 4  # reports for a tracker


class ReportTask:
    """Loss and scores on validation: a language model's as R2GenGPT's, others' as R2Gen's."""

    def __init__(self, validation: Validation, model: ReportModel) -> None:
        self.validation, self.model = validation, model
        self.references = training_references(
            validation.recipe.data,
            validation.dataset.studies,
            validation.codec,
            validation.tokenizer,
        )

    def validate(self) -> dict[str, float]:
        """Loss, what the images take off it, and scores; each study is read and encoded once.

        "val/image_gain" is the loss with the images of another study in a batch, less the loss.
        """
        on, recipe = self.validation, self.validation.recipe
        options = build_decode(recipe.decode, recipe.train.precision)
        losses: list[tuple[float, int]] = []
        gains: list[tuple[float, int]] = []

        def with_loss() -> Iterator[Batch]:  # run by write_reports, in the precision of writing
            for batch in moved(on.batches(recipe.decode.batch_size), on.accelerator.device):
                batch = self.model.encode_images(batch, options)
                loss, count = on.loss(batch)
                losses.append((loss, count))
                if len(batch.ids) > 1:
                    gains.append((on.loss(batch.with_images_of_others())[0] - loss, count))
                yield batch

        num_studies = len(range(len(on.dataset))[on.part])
        with on.reporter.progress("validation", num_studies, "studies") as advance:
            written = write_reports(
                self.model,
                with_loss(),
                on.codec,
                recipe.decode,
                precision=recipe.train.precision,
                seed=recipe.train.seed,
                advance=advance,
            )
        self.model.train()
        everyone = gather(on.accelerator, [(written, losses, gains)])
        scores: dict[str, float] = {}
        if on.accelerator.is_main_process:  # alone: METEOR starts a Java of 2 GB
            reports = {id_: report.text for texts, *_ in everyone for id_, report in texts}
            scores = self._score([reports[study.id] for study in on.dataset.studies])
        means = {"val/loss": mean_loss(part for _, parts, _ in everyone for part in parts)}
        if gained := [part for *_, parts in everyone for part in parts]:
            means["val/image_gain"] = mean_loss(gained)
        return means | broadcast(on.accelerator, scores)

    def samples(self) -> list[SampleReport]:
        """The reports of the first studies of validation, and where the decoder attends."""
        on, recipe = self.validation, self.validation.recipe
        studies, found = on.dataset.studies, []
        self.model.eval()
        first = in_order(on.dataset, 1, num_workers=0, part=slice(_SAMPLES))
        for index, batch in enumerate(first):
            ((written, attention),) = explain_reports(
                self.model,
                batch,
                on.codec,
                recipe.decode,
                precision=recipe.train.precision,
                seed=recipe.train.seed,
            )
            study, views = studies.read_views(index, on.dataset.selection.of)
            picture = draw_attention(
                [pixels for _, pixels in views],
                list(attention.mean(axis=0)) if len(attention) else [],
                study=study.id,
                projections=[
                    "under its SDAM mask" if view.masked else study.images[view.number].projection
                    for view, _ in views
                ],
                report=without_marker(written.text),
            )
            target = recipe.data.target
            reference, generated = (
                "\n\n".join(titled_sections(sections_of(text, target)) or [text])
                for text in (target_text(study.sections, target), written.text)
            )
            found.append(SampleReport(study.id, reference, generated, np.asarray(picture)))
        self.model.train()
        return found

    def _score(self, reports: list[str]) -> dict[str, float]:
        # METEOR takes seconds of Java, so it is computed only where it chooses the best.
        meteor = self.validation.recipe.train.monitor == _METEOR
        found = score_nlg(
            without_markers(self.references.texts),
            without_markers(scored_predictions(reports)),
            meteor="auto" if meteor else "skip",
        )
        return {f"val/{name}": value for name, value in found.corpus.items() if value is not None}


def training_references(
    data: Data, studies: PreparedStudies, codec: ReportCodec, tokenizer: Tokenizer
) -> References:
    """The reports of studies by the protocol that a model's method is published with."""
    clean, raw = get_cleaner(data.tokenizer.cleaner), studies.texts(data.target)
    if codec.language_model:
        return published_llm_references(
            raw, clean=clean, shorten=lambda text: codec.shorten(text, data.max_tokens)
        )
    return published_references(
        raw, clean=clean, vocabulary=tokenizer.vocabulary, max_tokens=data.max_tokens
    )


def check_meteor(section: Train) -> None:
    """Raise RecipeError if METEOR is the monitor and cannot be computed here."""
    if section.monitor != _METEOR:
        return
    tried = score_nlg(["heart is normal"], ["heart is normal"], meteor="auto")
    if tried.corpus["meteor"] is None:
        text = f"'{_METEOR}' cannot be computed here: {'; '.join(tried.notes)}"
        raise RecipeError("this run", [("train.monitor", text)])


def guidance_encoders(
    model: TrainableModel, recipe: Recipe, splits: Mapping[str, SelectedImages]
) -> dict[nn.Module, list[SelectedImages]]:
    """What label tokens and `fit_guidance` read of a frozen encoder, and of which images."""
    if not isinstance(model, ReportModel):
        return {}
    found: dict[nn.Module, list[SelectedImages]] = {}
    maps, labelled = model.frozen_summaries(), reads_label_tokens(model)
    if maps is not None and (labelled or recipe.decode.guided):
        found[maps] = [*splits.values()] if labelled else [splits["train"]]
    if recipe.decode.guided:
        found[FilmStatistics(model.pixel_stats)] = [splits["train"]]
    return found


def cached_summaries(
    model: ReportModel, datasets: Sequence[ReportDataset], device: torch.device, reporter: Reporter
) -> FeatureStore | None:
    """Statistics that a frozen encoder makes of images; None where the model computes them."""
    part = model.frozen_summaries()
    if part is None:
        return None
    wanted = {part: [SelectedImages.find(each.studies, each.selection) for each in datasets]}
    return cached_features(wanted, datasets[0].preprocess, device=device, reporter=reporter)[part]


def fit_guidance(
    folder: Path,
    model: ReportModel,
    dataset: ReportDataset,
    recipe: Recipe,
    device: torch.device,
    reporter: Reporter,
) -> None:
    """Fit selection and editing on a model's encoder and the training studies, into a checkpoint.

    Statistics that a frozen encoder makes are taken from the cache; others are computed here.
    """
    summaries = cached_summaries(model, [dataset], device, reporter)
    statistics = FilmStatistics(model.pixel_stats)
    film = cached_features(
        {statistics: [SelectedImages.find(dataset.studies, dataset.selection)]},
        dataset.preprocess,
        device=device,
        reporter=reporter,
    )[statistics]
    fitted = fit_to_encoder(model, dataset, recipe, reporter, summaries, film)
    selector, editor, frequencies = fitted
    save_guidance(folder, selector, editor, frequencies)
    learned = int((editor.predictor.auroc() > 0).sum())
    reporter.info("editing", f"{learned} findings are predicted (decode.edit)")
    if selector is not None:
        found = f"{len(selector.pool)} reports, penalty {selector.penalty:g}"
        reporter.info("selection", f"{found} (decode.method: select)")
