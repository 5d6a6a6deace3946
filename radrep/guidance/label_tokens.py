"""Label tokens: predicted observations as tokens that a report model reads beside the image.

One token an observation. Its probability, predicted from the features of a frozen encoder
(`radrep.guidance.labels`), falls into one of a few buckets from absent to present; one more bucket
means that nothing is known. Source: the diagnosis-driven prompts of PromptMRG (Jin et al., AAAI
2024). On purpose unlike it: the probabilities of training studies are out of fold, since a
classifier is too sure of studies that it was fitted on.

Letters: b studies, v views of all of them, l observations, k buckets or statistics of a view, d
features of a study, e width of a token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.guidance.image_features import study_vectors
from radrep.guidance.labels import NEVER, LabelPredictor
from radrep.metrics.labeler.vocabulary import ABNORMAL

_WIDEST = 2.0  # beta of the first threshold, and 1 / beta of the last one
_FITTED = ("mean", "scale", "weights", "slope", "bias")  # of a predictor, kept as buffers


def bucket_edges(predictor: LabelPredictor, num_buckets: int) -> np.ndarray:
    """The probabilities between the buckets, rising, (l, k - 1); NEVER where nothing was learned.

    They are the thresholds of the greatest F score out of fold, from beta 2, for recall, to 1 / 2,
    for precision. So the last bucket holds what is worth naming, however rare the observation and
    however weak its prediction.
    """
    betas = np.geomspace(_WIDEST, 1 / _WIDEST, num_buckets - 1) if num_buckets > 2 else [1.0]
    edges = np.stack([predictor.at_f_score(float(beta)) for beta in betas], axis=1)
    rising: np.ndarray = np.maximum.accumulate(edges, axis=1)
    return rising


def assign_buckets(probabilities: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bucket of each probability, (b, l) and (l, k - 1) -> (b, l); k where nothing is known."""
    found = (probabilities[:, :, None] > edges).sum(axis=2)
    return np.where(np.isfinite(edges).all(axis=1), found, edges.shape[1] + 1)


def label_buckets(labels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The buckets of labels 1, 0 and NaN: last, first and unknown, (b, l) -> (b, l)."""
    last = edges.shape[1]
    known = np.isfinite(edges).all(axis=1) & ~np.isnan(labels)
    return np.where(known, np.where(labels == 1, last, 0), last + 1)


@dataclass(frozen=True)
class StudyBuckets:
    """The buckets that studies are given.

    A share `gold` of the studies, drawn anew each epoch, has those of its own labels, a share
    `dropped` has unknown alone, all others have those predicted.
    """

    predicted: Mapping[str, Tensor]  # by study, int64 (l,)
    labelled: Mapping[str, Tensor] = field(default_factory=dict)
    unknown: int = 0
    gold: float = 0.0
    dropped: float = 0.0

    def __call__(self, study: str, seed: int) -> Tensor:
        """Those of a study, (l,), as the seed draws."""
        draw = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
        if draw < self.gold:
            return self.labelled[study]
        found = self.predicted[study]
        return torch.full_like(found, self.unknown) if draw < self.gold + self.dropped else found


class LabelTokens(nn.Module):
    """Predicts the buckets of the 13 observations from feature maps, and embeds them.

    Each bucket of each observation has an embedding of its own: so even the mean of the tokens,
    before a decoder has learned where to attend, shows which finding is present. What `fill` sets
    is a part of the weights; before it every bucket is unknown.

    Args:
        num_features: Statistics of an image, see `radrep.guidance.image_features`.
        num_views: Of a study's features, see `study_vectors`.
        dim: Width of a token.
    """

    def __init__(
        self, *, num_features: int, num_views: int, dim: int, num_buckets: int = 4
    ) -> None:
        super().__init__()
        if num_buckets < 2:
            raise ValueError(f"num_buckets ({num_buckets}) must be at least 2")
        self.num_views, self.num_buckets = num_views, num_buckets
        # (l, k + 1, e), the last of an observation: unknown.
        self.embeddings = nn.Parameter(torch.randn(len(ABNORMAL), num_buckets + 1, dim))
        size, num = num_views * num_features, len(ABNORMAL)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("weights", torch.zeros(size, num))
        self.register_buffer("slope", torch.zeros(num))
        self.register_buffer("bias", torch.full((num,), -torch.inf))
        self.register_buffer("edges", torch.full((num, num_buckets - 1), NEVER))

    def fill(self, predictor: LabelPredictor, edges: np.ndarray) -> None:
        """Take over a predictor of the observations in their order, and bucket edges (l, k - 1)."""
        fitted = {name: getattr(predictor, name) for name in _FITTED}
        for name, array in (fitted | {"edges": edges}).items():
            self.get_buffer(name).copy_(torch.from_numpy(array))

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """The buckets of studies by their features, (b, d) -> int64 (b, l)."""
        # In double precision, so that the batch does not move a probability over an edge.
        vectors = vectors.astype(np.float64)
        known = {name: self.get_buffer(name).cpu().numpy() for name in (*_FITTED, "edges")}
        edges = known.pop("edges")
        nothing = np.zeros((0, len(ABNORMAL)))
        predictor = LabelPredictor(ABNORMAL, **known, known=nothing, found=nothing)
        return assign_buckets(predictor.probabilities(vectors), edges)

    def read(self, batch: Batch, summaries: Callable[[Batch], Tensor]) -> Tensor:
        """The buckets of a batch, (b, l): its own, or by the statistics (v, k) of its images."""
        if batch.label_buckets is not None:
            return batch.label_buckets
        with torch.no_grad():
            found = summaries(batch)
        studies = found.detach().float().split(batch.num_views.tolist())
        vectors = study_vectors(studies, self.num_views)
        return torch.from_numpy(self.predict(vectors)).to(found.device)

    def forward(self, batch: Batch, summaries: Callable[[Batch], Tensor]) -> Tensor:
        """The tokens of a batch, (b, l, e); see `read`."""
        buckets = self.read(batch, summaries)
        return self.embeddings[torch.arange(buckets.shape[1], device=buckets.device), buckets]
