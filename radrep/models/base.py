"""The contract of models: what training, evaluation and generation ask of each.

A new model is one file here, one section in recipe/ and one branch in build.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, Self, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.generation.contract import DecodeOptions
from radrep.guidance.label_tokens import LabelTokens

Channels = tuple[float, float, float]


class _Module(Protocol):
    """The part of nn.Module that other rooms call."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...
    def to(self, device: torch.device) -> Self: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...


@runtime_checkable
class TrainableModel(_Module, Protocol):
    """An nn.Module that learns from batches; calling it is `loss`."""

    @property
    def pixel_stats(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation that its pixels are normalised by."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name; "loss" is the one that is minimised."""

    def num_loss_terms(self, batch: Batch) -> int:
        """How many tokens, images or studies the mean in "loss" is over."""

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters that learn at optim.encoder_lr."""

    def frozen_encoder(self) -> nn.Module | None:
        """The part that never changes, from pixels to features or to maps of early stages.

        Its output is cached.
        """

    def checkpoint_state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds."""


class VisionModel(nn.Module, ABC):
    """What the models around one vision encoder share, of a `TrainableModel`."""

    vision = "encoder"  # the part that turns pixels into features

    @property
    def pixel_stats(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation of the encoder's pixels."""
        encoder: Any = self.get_submodule(self.vision)
        return encoder.mean, encoder.std

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters of the encoder."""
        return list(self.get_submodule(self.vision).parameters())

    def frozen_encoder(self) -> nn.Module | None:
        """None: the encoder is trained."""
        return None

    def frozen_summaries(self) -> nn.Module | None:
        """None: see `ReportModel`."""
        return None

    def checkpoint_state(self) -> dict[str, Tensor]:
        """All weights."""
        return self.state_dict()

    def features(self, batch: Batch) -> Tensor:
        """What the encoder makes of a batch's images, or made of them before: (v, n, c)."""
        if batch.features is not None:
            return batch.features
        encoder: Any = self.get_submodule(self.vision)
        if batch.early_maps is not None:
            finished: Tensor = encoder.finish(batch.early_maps)
            return finished
        assert batch.images is not None, "a batch has images or features"
        encoded: Tensor = encoder(batch.images)
        return encoded

    def encode_images(self, batch: Batch, decode: DecodeOptions) -> Batch:
        """See `ReportModel`."""
        return self.with_features(batch)

    def with_features(self, batch: Batch) -> Batch:
        """A batch, and its views of prior studies, with features in place of images."""
        prior = None if batch.prior is None else self.with_features(batch.prior)
        features = self.features(batch)
        return replace(batch, images=None, early_maps=None, features=features, prior=prior)

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """See `TrainableModel`."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The same as `loss`, so that wrappers for several devices see one call."""
        return self.loss(batch)


def mean_token_loss(losses: Tensor, real: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over the real tokens, of losses times weights where there are any; (b, l) each.

    Not by a boolean index, whose number of rows a GPU would have to report before it goes on.
    """
    kept = losses if weights is None else losses * weights
    return torch.where(real, kept, 0.0).sum() / real.sum()


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for the moment."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


@runtime_checkable
class ReportModel(TrainableModel, Protocol):
    """A model that writes reports."""

    def encode_images(self, batch: Batch, decode: DecodeOptions) -> Batch:
        """The batch with features in place of images, as `write` computes them, for both calls."""

    def summaries(self, batch: Batch) -> Tensor:
        """Statistics of what the encoder makes of each image, of an encoded batch: (v, k)."""

    def frozen_summaries(self) -> nn.Module | None:
        """The module from pixels to these statistics, (v, 1, k), to be cached.

        None where they are trained, or follow from the features of `frozen_encoder`.
        """

    def write(
        self, batch: Batch, decode: DecodeOptions, generator: torch.Generator | None = None
    ) -> list[list[int]]:
        """The token ids of each study's report; the generator draws, when sampling."""

    def write_candidates(
        self, batch: Batch, decode: DecodeOptions, seed: int = 0
    ) -> list[list[list[int]]]:
        """The token ids of several reports of each study: finished beams, the best first.

        Then come `decode.num_samples` reports drawn by a seed, which do not depend on the batch.
        """

    def attention(self, batch: Batch, ids: list[int]) -> Tensor | None:
        """The attention of the one study's report to the patches before each token.

        That is (tokens, views, rows, columns), 1 in sum for each token; None without such maps.
        """


@runtime_checkable
class LabelTokenModel(ReportModel, Protocol):
    """A report model that can read label tokens."""

    label_tokens: LabelTokens | None


def reads_label_tokens(model: TrainableModel) -> TypeGuard[LabelTokenModel]:
    """Whether it is a report model with label tokens."""
    return isinstance(model, LabelTokenModel) and model.label_tokens is not None


@runtime_checkable
class PolicyModel(ReportModel, Protocol):
    """A report model that can learn from rewards of reports which it draws.

    An encoding, of whatever kind, serves all three calls below. The decoder's dropout is on in the
    likelihood alone: a drawn report is scored by the very distribution that it comes from.
    """

    def encode_studies(self, batch: Batch) -> Any:
        """The studies of a batch, as the decoder reads them."""

    def likelihood(self, encoded: Any, batch: Batch) -> Tensor:
        """The mean negative log-likelihood of the batch's reports: what `loss` is."""

    def draw(self, encoded: Any, uniforms: Tensor, temperature: float) -> list[list[int]]:
        """Draw k reports for each study by numbers in [0, 1), (b, k, l), without gradients.

        The ids of the first study's, then of the second's; each has its end unless l ids cut it.
        """

    def log_probs(self, encoded: Any, tokens: Tensor, temperature: float) -> Tensor:
        """Of each id of drawn reports, padded after their end: (b k, l) -> (b k, l)."""


@runtime_checkable
class LabelModel(TrainableModel, Protocol):
    """A model that classifies images."""

    def probabilities(self, batch: Batch) -> Tensor:
        """Probability of each label, one row per image, float32 (v, k)."""

    def label_thresholds(self) -> Tensor:
        """The probabilities above which labels are called present, (k,)."""

    def set_label_thresholds(self, thresholds: Tensor) -> None:
        """Keep the thresholds that validation chose, as a part of the weights."""


@runtime_checkable
class EmbeddingModel(TrainableModel, Protocol):
    """A model that embeds images and reports in one space, by vectors of length 1."""

    def embed_images(self, images: Tensor, num_views: Tensor) -> Tensor:
        """(v, 3, h, w) -> (b, j)."""

    def embed_texts(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(b, l) -> (b, j)."""

    def logit_scale(self) -> Tensor:
        """Factor in front of the cosine, a scalar."""
