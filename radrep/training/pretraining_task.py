"""Validation of pretraining; and what pretraining must not learn from."""

import numpy as np
import torch

from radrep.device import autocast
from radrep.errors import DataError
from radrep.models.base import EmbeddingModel
from radrep.models.contrastive import retrieval_recall
from radrep.preparation.inspection import Overlap, find_overlap
from radrep.preparation.overlap import read_split_fingerprints
from radrep.progress import Reporter
from radrep.recipe.data import Data
from radrep.training.accelerator import gather
from radrep.training.validation import Validation, mean_loss, moved


class PretrainingTask:
    """Loss on validation and, for a model that embeds images and reports, retrieval."""

    def __init__(self, validation: Validation) -> None:
        self.validation = validation

    def validate(self) -> dict[str, float]:
        """Loss and, by `EmbeddingModel`s, recall@1/5/10 in both directions over the split."""
        model = self.validation.model
        model.eval()
        scores = self._retrieval(model) if isinstance(model, EmbeddingModel) else self._loss()
        model.train()
        return {f"val/{name}": value for name, value in scores.items()}

    def _loss(self) -> dict[str, float]:
        on = self.validation
        batches = moved(on.batches(on.recipe.train.batch_size), on.accelerator.device)
        return {"loss": mean_loss(gather(on.accelerator, [on.loss(batch) for batch in batches]))}

    @torch.no_grad()
    def _retrieval(self, model: EmbeddingModel) -> dict[str, float]:
        """Embed every study once; the loss is that of one batch with all of them."""
        on = self.validation
        mine: list[tuple[tuple[str, ...], np.ndarray, np.ndarray]] = []  # whole batches
        with autocast(on.accelerator.device, on.recipe.train.precision):
            for batch in moved(on.batches(on.recipe.train.batch_size), on.accelerator.device):
                assert batch.images is not None, "nothing is frozen, so nothing is cached"
                assert batch.tokens is not None, "a batch to learn from has tokens"
                assert batch.lengths is not None, "a batch to learn from has lengths"
                images = model.embed_images(batch.images, batch.num_views)
                texts = model.embed_texts(batch.tokens, batch.lengths)
                vectors = (images.float().cpu().numpy(), texts.float().cpu().numpy())
                mine.append((batch.ids, *vectors))
        ids, *columns = map(np.concatenate, zip(*gather(on.accelerator, mine), strict=True))
        images, texts = (torch.from_numpy(column[np.argsort(ids)]) for column in columns)
        logits = model.logit_scale().float().cpu() * images @ texts.T
        targets = torch.arange(len(logits))
        losses = [torch.nn.functional.cross_entropy(x, targets) for x in (logits, logits.T)]
        return {"loss": float(sum(losses)) / 2, **retrieval_recall(images, texts)}


def refuse_test_studies(data: Data, reporter: Reporter) -> None:
    """Raise DataError if train or val share studies, patients or images with a folder's test.

    The test split of the data's own folder is never read; where a published split shares some with
    it all the same, a warning names the counts.
    """
    num_test = len(read_split_fingerprints(data.prepared, "test").studies)
    reporter.info("test", f"the {num_test} test studies of {data.prepared} are not read")
    own = find_overlap(data.prepared, data.prepared, splits=("train", "val"))
    if own.is_leak:
        reporter.warn(f"train and val of {data.prepared} share {_shared(own)} with its test")
    for folder in data.exclude_test_of:
        shared = find_overlap(data.prepared, folder, splits=("train", "val"))
        if shared.is_leak:
            exact = ""
            if shared.images is None:
                exact = (
                    f". Its images have {shared.image_sizes[1]} pixels and those of "
                    f"{data.prepared} {shared.image_sizes[0]}; of one size they compare exactly"
                )
            raise DataError(
                f"train and val of {data.prepared} share {_shared(shared)} with the test split of "
                f"{folder} (data.exclude_test_of): what is pretrained on them has seen that "
                f"test. Prepare other data, or take the folder from data.exclude_test_of{exact}"
            )
        reporter.info("test", f"none of the test studies of {folder} is in train or val")
    if not data.exclude_test_of:
        reporter.info(
            "test",
            "data.exclude_test_of is empty: the test studies of other sets were not searched for. "
            "Name the prepared folders that will be tested on",
        )


def _shared(shared: Overlap) -> str:
    images = f"{shared.images} images"
    if shared.images is None:
        images = f"{shared.near} near-duplicate images (difference hashes, {shared.max_bits} bits)"
    return f"{shared.studies} studies, {shared.patients} patients and {images}"
