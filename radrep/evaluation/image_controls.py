"""The controls that answer with a training report chosen by image features.

Features are of the packaged EfficientNet-Lite0 of ImageNet, so they are the same for all systems.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from radrep.data.image_selection import ImageSelection
from radrep.data.preprocess import Preprocess
from radrep.device import best_device
from radrep.evaluation.eval_set import EvalSet
from radrep.guidance.film_statistics import NUM_FILM_STATISTICS
from radrep.guidance.image_features import (
    FilmStatistics,
    StageSummaries,
    column_weights,
    study_vectors,
)
from radrep.guidance.selection import (
    PENALTIES,
    TrainingStudies,
    UtilityWeights,
    cross_fit,
    training_rows,
)
from radrep.metrics.names import FILM, NEAREST, SELECTION
from radrep.modules.backbone import PACKAGED_WEIGHTS, Backbone
from radrep.progress import Reporter
from radrep.training.features.cache import cached_features
from radrep.training.features.entry import FeatureStore
from radrep.training.features.selected_images import SelectedImages

EXTRACTOR = "tf_efficientnet_lite0"
POOL_SIZE = 300
# On folds of IU X-Ray's training split the best of those tried in words and findings together.
WEIGHTS = UtilityWeights(rouge=5.0, labels=5.0)
FILM_WEIGHT = 0.5  # of the film's statistics, where those of the network's maps weigh 1
_IMAGE_SIZE = 224
# Of the last map, in front of its standard deviations and of the statistics of the film.
_MEANS = slice(-2 * 1280 - NUM_FILM_STATISTICS, -1280 - NUM_FILM_STATISTICS)
_SELECTION = ImageSelection("views", max_views=2)
_BLOCK = 1024  # studies compared with all of training at once


def image_controls(studies: EvalSet, reporter: Reporter) -> dict[str, list[str]]:
    """The cleaned training reports of both controls; none without images."""
    if studies.prepared is None or studies.train is None:
        return {}
    train, asked = (
        SelectedImages.find(each, _SELECTION) for each in (studies.train, studies.prepared)
    )
    features = _features([train, asked], reporter)
    reports = studies.corpus.cleaned_train
    return {
        NEAREST.name: [reports[i] for i in find_nearest(train, asked, features)],
        SELECTION.name: _select(train, asked, features, reports, reporter, maps=1.0),
        FILM.name: _select(train, asked, features, reports, reporter, maps=0.0),
    }


class _Statistics(nn.Module):
    """Of a backbone's maps and of the film: normalised images (v, 3, h, w) to (v, 1, k)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.maps = StageSummaries(backbone)
        self.film = FilmStatistics((backbone.mean, backbone.std))

    def forward(self, images: Tensor) -> Tensor:
        """One row of statistics an image, in place of patches."""
        return torch.cat([self.maps(images), self.film(images)], dim=2)


def _features(splits: list[SelectedImages], reporter: Reporter) -> FeatureStore:
    """The statistics of every image, those of the last map at the end."""
    backbone = Backbone(
        name=EXTRACTOR,
        weights=f"package:{PACKAGED_WEIGHTS}",
        image_size=_IMAGE_SIZE,
        frozen=True,
    )
    statistics = _Statistics(backbone)
    return cached_features(
        {statistics: splits},
        Preprocess(size=_IMAGE_SIZE, mean=backbone.mean, std=backbone.std),
        device=best_device(),
        reporter=reporter,
    )[statistics]


def find_nearest(
    train: SelectedImages, asked: SelectedImages, features: FeatureStore
) -> np.ndarray:
    """For each study the index of the training study with the largest cosine of features, (n,).

    Features are the means of the last map, over the first two views. No study is its own neighbour.
    """
    known, wanted = (_embed(split, features) for split in (train, asked))
    places = {id_: i for i, id_ in enumerate(train.ids)}
    nearest = []
    for start in range(0, len(wanted), _BLOCK):
        cosines = wanted[start : start + _BLOCK] @ known.T
        for row, id_ in enumerate(asked.ids[start : start + _BLOCK]):
            if id_ in places:
                cosines[row, places[id_]] = -torch.inf
        nearest.append(cosines.argmax(dim=1))
    return torch.cat(nearest).numpy()


def _embed(selected: SelectedImages, features: FeatureStore) -> Tensor:
    """Vectors of length 1, (n, c)."""
    rows = [
        torch.stack([features.read(key)[0, _MEANS] for key in keys]).mean(dim=0)
        for keys in selected.keys
    ]
    return nn.functional.normalize(torch.stack(rows), dim=1)


def _select(
    train: SelectedImages,
    asked: SelectedImages,
    features: FeatureStore,
    reports: Sequence[str],
    reporter: Reporter,
    *,
    maps: float,
) -> list[str]:
    """By expected utility; no patient's own report reaches what is selected for the patient.

    `maps` is the weight of what the network sees, beside the film's grey levels.
    """
    rows = training_rows(len(reports))
    vectors = _vectors(train, features, rows)
    studies = TrainingStudies(
        vectors,
        [reports[i] for i in rows],
        [train.patients[i] for i in rows],
        column_weights(vectors.shape[1], _SELECTION.max_views, maps=maps, film=FILM_WEIGHT),
    )
    name = "selection control" if maps else "film control"
    with reporter.progress(name, len(PENALTIES), "penalties") as advance:
        found = cross_fit(
            studies,
            _vectors(asked, features, range(len(asked.keys))),
            asked.patients,
            pool_size=POOL_SIZE,
            weights=WEIGHTS,
            advance=advance,
        )
    return [each.report for each in found]


def _vectors(selected: SelectedImages, features: FeatureStore, rows: range) -> np.ndarray:
    chosen = (selected.keys[i] for i in rows)
    views = _SELECTION.max_views
    return study_vectors((torch.stack([*map(features.read, keys)]) for keys in chosen), views)
