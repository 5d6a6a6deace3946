"""Selection of training reports by the features of a report model's own encoder."""

import torch
from torch import Tensor

from radrep.build import build_decode, build_utility
from radrep.data.batch import Batch
from radrep.data.dataset import ReportDataset, in_order
from radrep.data.text import get_cleaner
from radrep.device import autocast
from radrep.errors import CheckpointError
from radrep.generation.contract import DecodeOptions
from radrep.guidance.image_features import NUM_SUMMARIES, study_vectors, summarize_maps
from radrep.guidance.selection import (
    PENALTIES,
    ReportSelector,
    TrainingStudies,
    fit_selector,
    training_rows,
)
from radrep.metrics.protocol import full_references
from radrep.models.base import ReportModel
from radrep.progress import Reporter
from radrep.recipe.recipe import Recipe
from radrep.recipe.training import Decode
from radrep.weights.checkpoint import Loaded
from radrep.weights.selector_file import read_selector


def selector_for(loaded: Loaded, decode: Decode) -> ReportSelector | None:
    """The selector of a checkpoint where reports are selected, None where they are decoded.

    Raises CheckpointError if it has none or its pool is too small.
    """
    if decode.method != "select" or decode.select is None:
        return None
    selector = read_selector(loaded.folder)
    if decode.select.pool > selector.pool_size:
        raise CheckpointError(
            f"decode.select.pool is {decode.select.pool} and {loaded.folder} was trained with "
            f"{selector.pool_size}; take at most as many"
        )
    return selector


@torch.no_grad()
def fit_to_encoder(
    model: ReportModel, dataset: ReportDataset, recipe: Recipe, reporter: Reporter
) -> ReportSelector:
    """Fit on the studies of training, at most 5,000 of them; their images are not cropped."""
    decode, studies = recipe.decode, dataset.studies
    assert decode.select is not None, "there is something to fit"
    rows = training_rows(len(studies))
    clean = get_cleaner(recipe.data.tokenizer.cleaner)
    reports = full_references(studies.texts(dataset.target), clean=clean).texts
    patients = [study.patient_id or f"study {study.id}" for study in studies]
    part = slice(rows.start, rows.stop, rows.step)
    num_workers = recipe.data.num_workers if dataset.features is None else 0
    batches = in_order(dataset, decode.batch_size, num_workers=num_workers, part=part)
    model.eval()
    device, options = next(model.parameters()).device, build_decode(decode, recipe.train.precision)
    found: list[Tensor] = []
    with (
        reporter.progress("features for selection", len(rows), "studies") as advance,
        autocast(device, options.precision),
    ):
        for batch in batches:
            found += [each.cpu() for each in _summaries(model, batch.to(device), options)]
            advance(len(batch.ids))
    training = TrainingStudies(
        study_vectors(found, max(map(len, found))),
        [reports[i] for i in rows],
        [patients[i] for i in rows],
    )
    with reporter.progress("selection", len(PENALTIES), "penalties") as advance:
        return fit_selector(
            training,
            pool_size=decode.select.pool,
            weights=build_utility(decode.select),
            advance=advance,
        )


def select_reports(
    model: ReportModel,
    batch: Batch,
    selector: ReportSelector,
    decode: Decode,
    options: DecodeOptions,
) -> list[str]:
    """The report selected for each study of a batch."""
    assert decode.select is not None, "decode.method select has settings"
    summaries = _summaries(model, batch, options)
    num_views = len(selector.mean) // (NUM_SUMMARIES * summaries[0].shape[-1])
    vectors = study_vectors(summaries, max(num_views, 1))
    weights, pool_size = build_utility(decode.select), decode.select.pool
    return [found.report for found in selector.select(vectors, weights, pool_size)]


def _summaries(model: ReportModel, batch: Batch, options: DecodeOptions) -> list[Tensor]:
    """`summarize_maps` of each study, (views, 12, c)."""
    maps = model.feature_maps(model.encode_images(batch, options))
    return list(summarize_maps(maps).split(batch.num_views.tolist()))
