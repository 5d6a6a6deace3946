"""The nearest-neighbour baseline: the report of the training study whose images look most alike.

Alike is told by a fixed extractor, the EfficientNet-Lite0 of ImageNet that comes with radrep, so
that the baseline is the same for every system that is scored on a prepared folder.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from radrep.data.dataset import ModelStudies
from radrep.data.preprocess import Preprocess
from radrep.data.selection import ImageSelection
from radrep.device import best_device
from radrep.modules.backbone import PACKAGED_WEIGHTS, Backbone
from radrep.progress import Reporter
from radrep.training.feature_cache import FeatureStore, cached_features

EXTRACTOR = "tf_efficientnet_lite0"
_IMAGE_SIZE = 224
_SELECTION = ImageSelection("views", max_views=2)
_BLOCK = 1024  # studies compared with all of training at once


class _Pooled(nn.Module):
    """The mean of a backbone's patches, as one patch: (v, 3, h, w) -> (v, 1, c)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.backbone(images)
        return patches.mean(dim=1, keepdim=True)


def nearest_studies(train: ModelStudies, studies: ModelStudies, reporter: Reporter) -> np.ndarray:
    """Find for each study the training study with the largest cosine of image features.

    Features are averaged over the first two views of a study; they are kept in the cache.

    Args:
        train: The training studies.
        studies: The studies to find neighbours for; none is its own neighbour.
        reporter: Who is told how it goes.

    Returns:
        Indices into the training studies, (n,).
    """
    backbone = Backbone(
        name=EXTRACTOR,
        weights=f"package:{PACKAGED_WEIGHTS}",
        image_size=_IMAGE_SIZE,
        frozen=True,
    )
    features = cached_features(
        _Pooled(backbone),
        Preprocess(size=_IMAGE_SIZE, mean=backbone.mean, std=backbone.std),
        (train, studies),
        selection=_SELECTION,
        device=best_device(),
        reporter=reporter,
    )
    known, asked = _embed(train, features), _embed(studies, features)
    places = {study.id: i for i, study in enumerate(train)}
    nearest = []
    for start in range(0, len(asked), _BLOCK):
        cosines = asked[start : start + _BLOCK] @ known.T
        for row in range(len(cosines)):
            itself = places.get(studies[start + row].id)
            if itself is not None:
                cosines[row, itself] = -torch.inf
        nearest.append(cosines.argmax(dim=1))
    return torch.cat(nearest).numpy()


def _embed(studies: ModelStudies, features: FeatureStore) -> Tensor:
    """Vectors of length 1, (n, c)."""
    rows = []
    for study in studies:
        views: Sequence[Tensor] = [
            features(study.images[view.number], view) for view in _SELECTION.of(study)
        ]
        rows.append(torch.cat(list(views)).mean(dim=0))
    return nn.functional.normalize(torch.stack(rows), dim=1)
