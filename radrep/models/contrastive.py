"""Stage 2 of MambaXray-VL: image-report contrast.

Source: MambaXray-VL (arXiv 2410.00379). On purpose unlike the released code: the temperature is
bounded, and negatives come from all processes.

Letters: v images, b studies, n tokens, l report tokens, j width that images and reports share.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.device import without_autocast
from radrep.models.base import VisionModel
from radrep.models.xray_mamba import XrayMamba, average_views


class _Gather(torch.autograd.Function):
    """Rows of all processes, whose gradients go back to where the rows came from."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def contrastive_loss(
    images: Tensor, texts: Tensor, scale: Tensor, *, gather: bool = True
) -> Tensor:
    """Symmetric cross-entropy between matching rows, against the rows of all processes.

    Rows are (b, j), of length 1, and as many in each process. Each scores its own; the mean of the
    losses, and of the gradients as several devices average them, is that of one process with all.
    """
    all_images, all_texts, first = images, texts, 0
    if gather and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        # One collective for both, so that no two can cross on the way back.
        all_images, all_texts = _Gather.apply(torch.stack([images, texts], dim=1)).unbind(1)
        first = dist.get_rank() * len(images)
    matching = torch.arange(first, first + len(images), device=images.device)
    # Cosines near 1 times a scale of up to 100 need all their digits.
    with without_autocast(images.device):
        to_texts = F.cross_entropy(scale * images @ all_texts.T, matching)
        to_images = F.cross_entropy(scale * texts @ all_images.T, matching)
    return (to_texts + to_images) / 2


class ContrastivePretraining(VisionModel):
    """Bring the images of a study and its report close together, apart from all others.

    The text encoder is one of transformers, with hidden states of text_dim, and should have no
    pooling layer, which would get no gradient.
    """

    max_scale = 100.0

    def __init__(
        self,
        *,
        encoder: XrayMamba,
        text_encoder: nn.Module,
        text_dim: int,
        projection_dim: int = 2048,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.text_encoder = text_encoder
        self.project_image = nn.Linear(encoder.dim, projection_dim)
        self.project_text = nn.Linear(text_dim, projection_dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def num_loss_terms(self, batch: Batch) -> int:
        """Studies."""
        return len(batch.ids)

    def logit_scale(self) -> Tensor:
        """Factor in front of the cosine."""
        return self.log_scale.exp()

    def embed_images(self, images: Tensor, num_views: Tensor) -> Tensor:
        """Embed studies by their images: (v, 3, h, w), (b,) -> (b, j)."""
        tokens = average_views(self.encoder(images), num_views)
        return F.normalize(self.project_image(tokens.mean(dim=1)).float(), dim=-1)

    def embed_texts(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Embed reports by the hidden state of their last token: (b, l), (b,) -> (b, j)."""
        attended = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        given = self.text_encoder(input_ids=tokens, attention_mask=attended.long())
        rows = torch.arange(len(tokens), device=tokens.device)
        last = given.last_hidden_state[rows, lengths - 1]  # (b, text_dim)
        return F.normalize(self.project_text(last).float(), dim=-1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """See `contrastive_loss`; in evaluation each process stands alone."""
        assert batch.images is not None, "a batch to learn from has images"
        assert batch.tokens is not None, "a batch to learn from has tokens"
        assert batch.lengths is not None, "a batch to learn from has lengths"
        with torch.no_grad():  # in place: clamped on the way, it would get no gradient to come back
            self.log_scale.clamp_(max=math.log(self.max_scale))
        images = self.embed_images(batch.images, batch.num_views)
        texts = self.embed_texts(batch.tokens, batch.lengths)
        return {"loss": contrastive_loss(images, texts, self.logit_scale(), gather=self.training)}


def retrieval_recall(
    image_embeddings: Tensor, text_embeddings: Tensor, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Share of studies whose own report, or images, are among the k nearest of all.

    Embeddings are (b, j), of length 1; the keys are "image_to_text_r<k>" and "text_to_image_r<k>".
    Equally near ones share the places they take, so that a collapsed model scores as by chance.
    """
    if len(image_embeddings) != len(text_embeddings) or len(image_embeddings) == 0:
        raise ValueError(
            f"{len(image_embeddings)} image and {len(text_embeddings)} text embeddings cannot be "
            "paired"
        )
    cosines = image_embeddings @ text_embeddings.T
    recall: dict[str, float] = {}
    for name, scores in (("image_to_text", cosines), ("text_to_image", cosines.T)):
        own = scores.diagonal()[:, None]
        nearer = (scores > own).sum(dim=1)
        equal = (scores == own).sum(dim=1)  # itself among them
        for k in ks:
            hits = ((k - nearer) / equal).clamp(0, 1)
            recall[f"{name}_r{k}"] = hits.float().mean().item()
    return recall
