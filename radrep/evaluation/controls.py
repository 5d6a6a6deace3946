"""The controls that a model is compared with, see `radrep.metrics.names`.

- shuffled: the same reports, permuted over the studies;
- blank-image: the reports that the model writes for black images;
- nearest neighbour: the report of the training study with the most similar images, by the packaged
  EfficientNet-Lite0 of ImageNet, so that it is the same for all systems;
- constants: one training report for every study, chosen on validation.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from radrep.build import build_preprocess, build_selection
from radrep.data.batch import Batch
from radrep.data.dataset import ModelStudies
from radrep.data.preprocess import Preprocess
from radrep.data.selection import ImageSelection
from radrep.device import best_device
from radrep.evaluation.eval_set import EvalSet
from radrep.inference.decode import report_model, write_reports
from radrep.metrics.baselines import best_constants
from radrep.metrics.names import CONSTANTS, NEAREST, SHUFFLED
from radrep.metrics.protocol import published_references
from radrep.modules.backbone import PACKAGED_WEIGHTS, Backbone
from radrep.progress import Reporter
from radrep.recipe.training import Decode
from radrep.training.feature_cache import FeatureStore, SelectedImages, cached_features
from radrep.weights.checkpoint import Loaded

EXTRACTOR = "tf_efficientnet_lite0"
SHUFFLE_SEED = 0
_IMAGE_SIZE = 224
_SELECTION = ImageSelection("views", max_views=2)
_BLOCK = 1024  # studies compared with all of training at once


def shuffled_control(reports: Sequence[str]) -> dict[str, list[str]]:
    """Give every study the report of another one; none where there is one study.

    A report depends on its own images alone, so this is what shuffled images would give.
    """
    if len(reports) < 2:
        return {}
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(reports))
    permuted = list(reports)
    for here, there in zip(order, np.roll(order, 1), strict=True):
        permuted[here] = reports[there]
    return {SHUFFLED.name: permuted}


def write_blank(loaded: Loaded, studies: EvalSet, decode: Decode) -> list[str]:
    """Reports for black images: one for each number of views, shared by its studies."""
    data = loaded.recipe.data
    assert studies.prepared is not None, "the studies of a run are prepared"
    model = report_model(loaded)
    side = loaded.prepared_size
    black = build_preprocess(data, model).evaluate(np.zeros((side, side), np.uint8))
    selection = build_selection(data)
    views = [len(selection.of(study)) for study in studies.prepared]
    counts = sorted(set(views))
    batches = [Batch.of_study(str(n), [black] * n) for n in counts]
    precision, seed = loaded.recipe.train.precision, loaded.recipe.train.seed
    written = write_reports(model, batches, loaded.codec, decode, precision=precision, seed=seed)
    report = dict(zip(counts, (text for _, text in written), strict=True))
    return [report[n] for n in views]


def by_fold(
    control: Callable[[EvalSet, Reporter], dict[str, list[str]]],
    studies: EvalSet,
    reporter: Reporter,
) -> dict[str, list[str]]:
    """The reports of a control for every study; in a cross-validation fitted fold by fold."""
    if not studies.folds:
        return control(studies, reporter)
    found = [control(part, reporter) for part in studies.folds]
    names = [name for name in found[0] if all(name in part for part in found)]
    return {name: [text for part in found for text in part[name]] for name in names}


def constant_reports(studies: EvalSet, reporter: Reporter) -> dict[str, list[str]]:
    """One training report for all studies, chosen on validation; none without both."""
    corpus = studies.corpus
    if corpus.vocabulary is None or not studies.val:
        return {}
    chosen_on = published_references(
        studies.val,
        clean=corpus.clean,
        vocabulary=corpus.vocabulary,
        max_tokens=corpus.max_tokens,
    ).texts
    with reporter.progress("constant baselines", 1, "searches") as advance:
        found = best_constants(corpus.cleaned_train, chosen_on)
        advance()
    reports = {f"constant, best {metric}": constant.report for metric, constant in found.items()}
    return {each.name: [reports[each.name]] * len(studies.ids) for each in CONSTANTS}


def nearest_control(studies: EvalSet, reporter: Reporter) -> dict[str, list[str]]:
    """The cleaned report of each study's nearest training study; none without images."""
    if studies.prepared is None or studies.train is None:
        return {}
    texts = studies.corpus.cleaned_train
    nearest = nearest_studies(studies.train, studies.prepared, reporter)
    return {NEAREST.name: [texts[i] for i in nearest]}


class _Pooled(nn.Module):
    """The mean of a backbone's patches, as one patch: (v, 3, h, w) -> (v, 1, c)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.backbone(images)
        return patches.mean(dim=1, keepdim=True)


def nearest_studies(train: ModelStudies, studies: ModelStudies, reporter: Reporter) -> np.ndarray:
    """For each study the index of the training study with the largest cosine of features, (n,).

    Features are means over the first two views. No study is its own neighbour.
    """
    backbone = Backbone(
        name=EXTRACTOR,
        weights=f"package:{PACKAGED_WEIGHTS}",
        image_size=_IMAGE_SIZE,
        frozen=True,
    )
    selected = [SelectedImages.find(split, _SELECTION) for split in (train, studies)]
    features = cached_features(
        _Pooled(backbone),
        Preprocess(size=_IMAGE_SIZE, mean=backbone.mean, std=backbone.std),
        selected,
        device=best_device(),
        reporter=reporter,
    )
    known, asked = (_embed(split, features) for split in selected)
    places = {id_: i for i, id_ in enumerate(train.ids)}
    ids = studies.ids
    nearest = []
    for start in range(0, len(asked), _BLOCK):
        cosines = asked[start : start + _BLOCK] @ known.T
        for row, id_ in enumerate(ids[start : start + _BLOCK]):
            if id_ in places:
                cosines[row, places[id_]] = -torch.inf
        nearest.append(cosines.argmax(dim=1))
    return torch.cat(nearest).numpy()


def _embed(selected: SelectedImages, features: FeatureStore) -> Tensor:
    """Vectors of length 1, (n, c)."""
    rows = [torch.cat([*map(features.read, keys)]).mean(dim=0) for keys in selected.keys]
    return nn.functional.normalize(torch.stack(rows), dim=1)
