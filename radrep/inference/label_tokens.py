"""Label tokens are fitted on a report model's frozen encoder, before its training."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from radrep.build import label_tokens_section
from radrep.data.dataset import ModelStudies, ReportDataset
from radrep.data.image_selection import View
from radrep.data.study import Image
from radrep.guidance.image_features import study_vectors
from radrep.guidance.label_tokens import (
    StudyBuckets,
    assign_buckets,
    bucket_edges,
    label_buckets,
)
from radrep.guidance.labels import NEVER, abnormal_labels, cross_fit_labels
from radrep.guidance.selection import MAX_STUDIES, assign_folds, training_rows
from radrep.inference.guide import patients_of, read_summaries
from radrep.metrics.labeler.vocabulary import ABNORMAL
from radrep.models.base import LabelTokenModel
from radrep.progress import Reporter
from radrep.recipe.recipe import Recipe
from radrep.weights.folds import learned_reports_of, lineage


def fit_label_tokens(
    model: LabelTokenModel,
    datasets: Sequence[ReportDataset],
    recipe: Recipe,
    reporter: Reporter,
    summaries: Callable[[Image, View], Tensor] | None = None,
) -> list[StudyBuckets]:
    """Fill a model's label tokens; return what the studies of training and other sets are given.

    A training study is given what is predicted by a fit without its patient's fold. An observation
    that is too rare in some fold stays unknown for all studies. The same data give the same result.

    Args:
        model: With label tokens.
        datasets: That of training first.
        recipe: That of the model.
        reporter: Receives progress messages.
        summaries: Statistics of an image, (1, k); computed without.
    """
    section, tokens = label_tokens_section(recipe.model), model.label_tokens
    assert section is not None, "the recipe has label tokens"
    assert tokens is not None, "and so has its model"
    dataset, *others = datasets
    studies = dataset.studies
    rows, patients = training_rows(len(studies)), patients_of(dataset)
    folds, labels = assign_folds(patients), abnormal_labels(studies.texts(dataset.target))

    def read(of: ReportDataset, part: range) -> np.ndarray:
        found = read_summaries(model, of, recipe, part, reporter, summaries)
        return study_vectors(found, tokens.num_views)

    vectors = read(dataset, rows)
    with reporter.progress("findings for label tokens", 1, "fits") as advance:
        whole, parts = cross_fit_labels(
            vectors, labels[rows], [patients[i] for i in rows], folds[rows], ABNORMAL
        )
        advance()
    edges = {fold: bucket_edges(part, section.buckets) for fold, part in parts.items()}
    own = bucket_edges(whole, section.buckets)
    rare = ~np.isfinite([own, *edges.values()]).all(axis=(0, 2))
    for each in (own, *edges.values()):
        each[rare] = NEVER
    tokens.fill(whole, own)

    predicted = np.zeros(labels.shape, np.int64)
    for block in [rows] if len(rows) == len(studies) else _blocks(studies):
        vectors = vectors if block == rows else read(dataset, block)
        for fold, part in parts.items():
            of_fold = folds[block] == fold
            buckets = assign_buckets(part.probabilities(vectors[of_fold]), edges[fold])
            predicted[np.arange(len(studies))[block][of_fold]] = buckets
    start = recipe.model.starting_weights
    for path in filter(None, (*start.backbone, start.encoder)):
        if any(learned_reports_of(each, recipe.data.prepared) for each in lineage(path)):
            reporter.warn(
                f"{path}, or what it started from, learned from the reports of "
                f"{recipe.data.prepared}, so that findings are predicted too surely for its "
                "training studies, and label tokens trusted too much"
            )
    auroc = whole.auroc()[~rare]
    mean = f", mean AUROC {auroc.mean():.2f} out of fold" if len(auroc) else ""
    reporter.info("labels", f"{len(auroc)} findings are predicted{mean} (model.label_tokens)")
    given = StudyBuckets(
        _by_study(studies, predicted),
        _by_study(studies, label_buckets(labels, own)),
        unknown=section.buckets,
        gold=section.gold,
        dropped=section.dropped,
    )
    found = [given]
    for other in others:
        blocks = [tokens.predict(read(other, block)) for block in _blocks(other.studies)]
        found.append(StudyBuckets(_by_study(other.studies, np.concatenate(blocks))))
    model.train()
    return found


def _blocks(studies: ModelStudies) -> list[range]:
    """Few enough studies at a time for their features to be held."""
    every = range(len(studies))
    return [every[start : start + MAX_STUDIES] for start in every[::MAX_STUDIES]]


def _by_study(studies: ModelStudies, buckets: np.ndarray) -> dict[str, Tensor]:
    return dict(zip(studies.ids, torch.from_numpy(buckets), strict=True))
