"""Labels of one radiograph by a vision encoder, a mean and one layer.

With a convolutional backbone it is SDAM's disease discriminator. With an X-ray Mamba it is a stage
of supervised pretraining, an addition to the published ones.

Letters: b studies, v images of all of them, n patches, c width of a patch, k labels, w words.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.models.base import VisionModel
from radrep.modules.backbone import Backbone

if TYPE_CHECKING:  # it imports timm, which takes seconds
    from radrep.models.xray_mamba import XrayMamba


class Discriminator(VisionModel):
    """A vision encoder whose mean patch gives the probability of each label.

    As published (CSR-LMCA, Deng et al., 2025) it is a ResNet-34 with fourteen sigmoid outputs, the
    observations of CheXpert. Every image of a study is taught the labels of its study. Our own
    additions: a second layer learns which of some frequent words the report has; the encoder may
    be an X-ray Mamba, and one that is `frozen` has a linear probe here. A backbone freezes itself.
    """

    backbone: Backbone  # either this
    encoder: "XrayMamba"  # or this, under the name that it has in the other stages
    # Above which a label is called present, (k,); 1, which nothing exceeds, until validation.
    thresholds: Tensor

    def __init__(
        self,
        vision: "Backbone | XrayMamba",
        *,
        num_labels: int,
        num_words: int = 0,
        dropout: float = 0.0,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(vision, Backbone):
            self.vision, self.backbone, dim = "backbone", vision, vision.out_dim
        else:
            self.vision, self.encoder, dim = "encoder", vision, vision.dim
            vision.requires_grad_(not frozen)
        self.frozen = frozen
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, num_labels)
        self.words = nn.Linear(dim, num_words) if num_words else None
        self.register_buffer("thresholds", torch.ones(num_labels))

    def frozen_encoder(self) -> nn.Module | None:
        """The backbone or its frozen stages, or a frozen X-ray Mamba."""
        if self.vision == "backbone":
            return self.backbone.fixed_part()
        return self.encoder if self.frozen else None

    def num_loss_terms(self, batch: Batch) -> int:
        """Images."""
        return int(batch.num_views.sum())

    def label_thresholds(self) -> Tensor:
        """The probabilities above which labels are called present, (k,)."""
        return self.thresholds

    def set_label_thresholds(self, thresholds: Tensor) -> None:
        """Keep the thresholds that validation chose."""
        self.thresholds.copy_(thresholds)

    def logits(self, patches: Tensor) -> Tensor:
        """Log-odds of each label, from patches (v, n, c) to (v, k)."""
        return self.classifier(self.dropout(patches.mean(dim=1)))

    def probabilities(self, batch: Batch) -> Tensor:
        """Probability of each label, an image a row, float32 (v, k)."""
        return self.logits(self.features(batch)).float().sigmoid()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Binary cross-entropy over the labels that are known, divided by all of all images.

        So an image of which little is known weighs little. To it is added the mean of the words',
        which stand behind the labels.
        """
        pooled = self.dropout(self.features(batch).mean(dim=1))
        labels = spread_labels(batch)
        num_labels = self.classifier.out_features
        loss = _cross_entropy(self.classifier(pooled), labels[:, :num_labels])
        if self.words is not None:
            loss = loss + _cross_entropy(self.words(pooled), labels[:, num_labels:])
        return {"loss": loss}


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Over what is not NaN, divided by all: (v, k) and (v, k) -> a scalar."""
    losses = F.binary_cross_entropy_with_logits(
        logits.float(), labels.nan_to_num(), weight=(~labels.isnan()).float(), reduction="sum"
    )
    return losses / labels.numel()


def spread_labels(batch: Batch) -> Tensor:
    """The labels of each image, which are those of its study, and words: (b, k + w) to v rows."""
    assert batch.labels is not None, "a batch to learn from has labels"
    views = batch.num_views
    times = views.to(batch.labels.device, non_blocking=True)
    return batch.labels.repeat_interleave(times, dim=0, output_size=int(views.sum()))
