"""What is fitted for a report model: which training report fits, what is present, what is common.

Reports are decoded, selected or chosen by consensus, and then edited.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from radrep.build import build_decode, build_operating_point, build_utility
from radrep.data.batch import Batch
from radrep.data.dataset import ReportDataset, in_order
from radrep.data.image_selection import View
from radrep.data.study import Image
from radrep.data.text import get_cleaner
from radrep.device import autocast
from radrep.errors import CheckpointError
from radrep.generation.contract import DecodeOptions
from radrep.guidance.consensus import ConsensusRule, DocumentFrequencies
from radrep.guidance.editing import ReportEditor, Source, WrittenReport, fit_editor
from radrep.guidance.image_features import column_weights, film_of, study_vectors
from radrep.guidance.labels import LabelPredictor
from radrep.guidance.selection import (
    PENALTIES,
    ReportSelector,
    TrainingStudies,
    fit_selector,
    training_rows,
)
from radrep.metrics.labeler.vocabulary import ABNORMAL
from radrep.metrics.protocol import full_references
from radrep.models.base import ReportModel
from radrep.progress import Reporter
from radrep.recipe.recipe import Recipe
from radrep.recipe.training import Decode
from radrep.weights.checkpoint import Loaded
from radrep.weights.guidance_files import (
    has_editor,
    read_editor,
    read_frequencies,
    read_selector,
)

ImageStatistics = Callable[[Image, View], Tensor]  # (1, k)
SENSITIVITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Guide:
    """How a checkpoint's reports are made from features; nothing of it where they are decoded."""

    selector: ReportSelector | None = None
    predictor: LabelPredictor | None = None
    consensus: ConsensusRule | None = None
    editor: ReportEditor | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)  # of the editor, by observation

    @property
    def needs_features(self) -> bool:
        """Whether anything is read from them."""
        return self.selector is not None or self.predictor is not None


@dataclass(frozen=True)
class Draft:
    """A report before editing, with its token ids where the decoder wrote it."""

    text: str
    ids: list[int] | None = None

    @property
    def source(self) -> Source:
        """Who worded it."""
        return "training reports" if self.ids is None else "decoder"


def guide_for(loaded: Loaded, decode: Decode, *, predict: bool = False) -> Guide:
    """What a checkpoint has for a way to decode; with `predict` its findings, if it has any.

    Raises:
        CheckpointError: If it has none, or its pool is too small.
        DataError: If an observation is too rare in training for its operating point.
    """
    selector = editor = consensus = predictor = None
    thresholds: Mapping[str, float] = {}
    compared = decode.method == "consensus"
    if (decode.method == "select" or compared) and decode.select is not None:
        selector = read_selector(loaded.folder)
        if decode.select.pool > selector.pool_size:
            raise CheckpointError(
                f"decode.select.pool is {decode.select.pool} and {loaded.folder} was trained with "
                f"{selector.pool_size}; take at most as many"
            )
        fitted = loaded.recipe.decode.select
        if fitted is not None and decode.select.film != fitted.film:
            raise CheckpointError(
                f"decode.select.film is {decode.select.film:g} and {loaded.folder} was fitted with "
                f"{fitted.film:g}, which only training can change"
            )
    if compared and selector is not None and decode.select is not None:
        consensus = ConsensusRule(
            read_frequencies(loaded.folder),
            build_utility(decode.select),
            selector.pool[: decode.select.pool],
            decode.consensus.others,
            decode.consensus.labels,
        ).prepare()
    if decode.edit is not None:
        editor = read_editor(loaded.folder)
        predictor = editor.predictor
        thresholds = editor.thresholds(build_operating_point(decode.edit))
    elif (compared and decode.consensus.labels > 0) or (predict and has_editor(loaded.folder)):
        predictor = read_editor(loaded.folder).predictor
    return Guide(selector, predictor, consensus, editor, thresholds)


def fit_to_encoder(
    model: ReportModel,
    dataset: ReportDataset,
    recipe: Recipe,
    reporter: Reporter,
    summaries: ImageStatistics | None,
    film: ImageStatistics,
) -> tuple[ReportSelector | None, ReportEditor, DocumentFrequencies]:
    """Fit on the studies of training, at most 5,000 of them; their images are not cropped.

    Statistics of the maps of an image are given by `summaries` or computed; `film` are those of its
    grey levels.
    """
    decode, studies = recipe.decode, dataset.studies
    rows = training_rows(len(studies))
    clean = get_cleaner(recipe.data.tokenizer.cleaner)
    raw = studies.texts(dataset.target)
    reports = full_references(raw, clean=clean).texts
    patients = patients_of(dataset)
    maps = read_summaries(model, dataset, recipe, rows, reporter, summaries)
    films = _read_statistics(film, dataset, rows)
    found = [torch.cat(both, dim=1) for both in zip(maps, films, strict=True)]
    num_views = max(map(len, found))
    vectors = study_vectors(found, num_views)
    weigh = partial(column_weights, vectors.shape[1], num_views, maps=1.0)
    training = TrainingStudies(
        vectors,
        [reports[i] for i in rows],
        [patients[i] for i in rows],
        weigh(film=0.0 if decode.select is None else decode.select.film),
    )
    selector = None
    if decode.select is not None:
        with reporter.progress("selection", len(PENALTIES), "penalties") as advance:
            selector = fit_selector(
                training,
                pool_size=decode.select.pool,
                weights=build_utility(decode.select),
                advance=advance,
            )
    with reporter.progress("findings for editing", 1, "fits") as advance:
        raw = [raw[i] for i in rows]
        editor = fit_editor(vectors, raw, training.reports, training.patients, weigh(film=0.0))
        advance()
    return selector, editor, DocumentFrequencies.of(training.reports)


@torch.no_grad()
def read_summaries(
    model: ReportModel,
    dataset: ReportDataset,
    recipe: Recipe,
    rows: range,
    reporter: Reporter,
    summaries: ImageStatistics | None = None,
) -> list[Tensor]:
    """Statistics of the maps of some studies' images, (views, k) each, given or computed."""
    if summaries is not None:
        return _read_statistics(summaries, dataset, rows)
    decode = recipe.decode
    part = slice(rows.start, rows.stop, rows.step)
    num_workers = recipe.data.num_workers if dataset.features is None else 0
    batches = in_order(dataset, decode.batch_size, num_workers=num_workers, part=part)
    model.eval()
    device, options = next(model.parameters()).device, build_decode(decode, recipe.train.precision)
    found: list[Tensor] = []
    with (
        reporter.progress("statistics of images", len(rows), "studies") as advance,
        autocast(device, options.precision),
    ):
        for batch in batches:
            encoded = model.encode_images(batch.to(device), options)
            maps = model.summaries(encoded).split(batch.num_views.tolist())
            found += [each.cpu() for each in maps]
            advance(len(batch.ids))
    return found


def _read_statistics(
    statistics: ImageStatistics, dataset: ReportDataset, rows: range
) -> list[Tensor]:
    chosen = [(study, dataset.selection.of(study)) for study in (dataset.studies[i] for i in rows)]
    return [torch.cat([statistics(s.images[v.number], v) for v in own]) for s, own in chosen]


def patients_of(dataset: ReportDataset) -> list[str]:
    """Whose each study is; a study without a patient is one of its own."""
    return [study.patient_id or f"study {study.id}" for study in dataset.studies]


def study_features(
    model: ReportModel, batch: Batch, guide: Guide, options: DecodeOptions
) -> tuple[Batch, np.ndarray]:
    """A batch encoded, with features of its studies as the guide was fitted on, float32 (b, d)."""
    mean = guide.predictor.mean if guide.predictor is not None else None
    mean = guide.selector.mean if guide.selector is not None else mean
    assert mean is not None, "something was fitted"
    assert batch.images is not None, "the film's statistics are of images"
    encoded, film = model.encode_images(batch, options), film_of(batch.images, model.pixel_stats)
    found = torch.cat([model.summaries(encoded).float(), film], dim=1)
    num_views = max(1, len(mean) // found.shape[1])
    return encoded, study_vectors(found.split(batch.num_views.tolist()), num_views)


def select_reports(
    guide: Guide, vectors: np.ndarray, decode: Decode, num: int = 1
) -> list[list[Draft]]:
    """The reports selected for each study, the best first."""
    assert decode.select is not None, "decode.method select has settings"
    assert guide.selector is not None, "and a selector"
    if not num:
        return [[] for _ in vectors]
    weights, pool_size = build_utility(decode.select), decode.select.pool
    selected = guide.selector.select(vectors, weights, pool_size, num)
    return [[Draft(report) for report, _ in found.top] for found in selected]


def choose_reports(
    guide: Guide,
    candidates: Sequence[Sequence[Draft]],
    vectors: np.ndarray,
    probabilities: np.ndarray | None,
) -> list[Draft]:
    """The best candidate of each study, from features (b, d) and probabilities (b, l)."""
    rule = guide.consensus
    assert rule is not None, "decode.method consensus has a rule"
    assert guide.selector is not None, "and a selector"
    predicted = rule.weights.combine(guide.selector.predict(vectors))[:, : len(rule.pool)]
    if probabilities is None:
        probabilities = np.zeros((len(vectors), len(ABNORMAL)))
    return [
        own[rule.choose([draft.text for draft in own], utilities, found)]
        for own, utilities, found in zip(candidates, predicted, probabilities, strict=True)
    ]


def edit_reports(
    guide: Guide, probabilities: np.ndarray | None, drafts: Sequence[Draft]
) -> list[WrittenReport]:
    """The reports edited, or as they are without an editor; probabilities (b, l)."""
    reports = []
    for i, draft in enumerate(drafts):
        written = WrittenReport(draft.text)
        known: tuple[float, ...] = ()
        if probabilities is not None:
            known = tuple(map(float, probabilities[i]))
            if guide.editor is not None:
                written = guide.editor.edit(draft.text, probabilities[i], guide.thresholds)
        reports.append(replace(written, source=draft.source, draft=draft.text, probabilities=known))
    return reports


def edit_at_sensitivities(guide: Guide, reports: Sequence[WrittenReport]) -> dict[float, list[str]]:
    """The same drafts edited at other operating points of all findings; none without an editor."""
    if guide.editor is None:
        return {}
    predictor, found = guide.editor.predictor, {}
    for sensitivity in SENSITIVITIES:
        chosen = zip(predictor.names, predictor.at_sensitivity(sensitivity), strict=True)
        thresholds = {name: float(above) for name, above in chosen if np.isfinite(above)}
        found[sensitivity] = [
            guide.editor.edit(each.draft, np.array(each.probabilities), thresholds).text
            for each in reports
        ]
    return found


def made_by(report: WrittenReport, guide: Guide) -> str:
    """How one report was made: "decoded" or "selected", and ", by consensus" or ", edited"."""
    made = "decoded" if report.source == "decoder" else "selected"
    made += ", by consensus" if guide.consensus is not None else ""
    return made + (", edited" if guide.editor is not None else "")
