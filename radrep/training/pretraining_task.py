"""Pretrain an X-ray Mamba: stage 1 on images alone, stage 2 on images and their reports."""

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from radrep.device import autocast
from radrep.errors import DataError, RecipeError
from radrep.models.base import EmbeddingModel
from radrep.models.contrastive import retrieval_recall
from radrep.preparation.inspection import Overlap, find_overlap
from radrep.preparation.overlap import read_split_fingerprints
from radrep.progress import Reporter
from radrep.recipe.data import Data
from radrep.recipe.recipe import Recipe
from radrep.training.run import Training, TrainResult, is_main_process, newest_run
from radrep.weights import checkpoint


def pretrain(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Pretrain from the start in a new folder, or go on where a run stands.

    Args:
        recipe: The recipe; when resuming, the run's own.
        out: The run's folder. Without it, the recipe's, with -2, -3, ... where a run is already.
        resume: Go on in that folder.
        reporter: Who is told how it goes; the main process alone speaks.

    Raises:
        RecipeError: If the recipe is of another task or asks for what this machine cannot do.
        DataError: If the prepared folder is missing or a split is empty.
        CheckpointError: If `out` holds a run already, there is nothing to go on from, or the
            weights of an earlier stage do not fit.
        Interrupted: If the user stopped it; --resume goes on.
    """
    if recipe.task != "pretrain":
        raise RecipeError("this recipe", [("task", f"'{recipe.task}' is done by: radrep train")])
    last = checkpoint.last_checkpoint(newest_run(out or recipe.out)) if resume else None
    return Pretraining(recipe, last, reporter or Reporter()).run(out)


class Pretraining(Training):
    """Pretraining, validated by its loss and, for image-report contrast, by retrieval."""

    def __init__(self, recipe: Recipe, last: Path | None, reporter: Reporter) -> None:
        _refuse_test_studies(recipe.data, reporter if is_main_process() else Reporter())
        super().__init__(recipe, last, reporter)

    def validate(self) -> dict[str, float]:
        """Loss on validation and, in stage 2, recall@1/5/10 in both directions over all of it."""
        batches = self.val_batches()
        self.model.eval()
        if isinstance(self.model, EmbeddingModel):
            scores = self._retrieval(self.model, batches)
        else:
            parts = self._gather([self.val_loss(batches)])
            scores = {"loss": sum(loss for loss, _ in parts) / sum(count for _, count in parts)}
        self.model.train()
        return {f"val/{name}": value for name, value in scores.items()}

    @torch.no_grad()
    def _retrieval(self, model: EmbeddingModel, batches: Any) -> dict[str, float]:
        """Embed every study once; the loss is that of one batch with all of them."""
        rows: list[tuple[str, Tensor, Tensor]] = []
        with autocast(self.accelerator.device, self.recipe.train.precision):
            for batch in batches:
                batch = batch.to(self.accelerator.device)
                images = model.embed_images(batch.images, batch.num_views)
                texts = model.embed_texts(batch.tokens, batch.lengths)
                rows += zip(batch.ids, images.float().cpu(), texts.float().cpu(), strict=True)
        rows = sorted(self._gather(rows), key=lambda row: row[0])
        images, texts = (torch.stack(column) for column in list(zip(*rows, strict=True))[1:])
        logits = model.logit_scale().float().cpu() * images @ texts.T
        targets = torch.arange(len(logits))
        losses = [torch.nn.functional.cross_entropy(x, targets) for x in (logits, logits.T)]
        return {"loss": float(sum(losses)) / 2, **retrieval_recall(images, texts)}

    def _gather(self, mine: list[Any]) -> list[Any]:
        return gather_object(mine) if self.accelerator.num_processes > 1 else mine


def _refuse_test_studies(data: Data, reporter: Reporter) -> None:
    """Refuse to learn from what a later test is to be about, and tell what could not be checked.

    The test split of the data's own folder is never read. What may share its patients or images
    all the same, in a split that was published so, is warned of.

    Raises:
        DataError: If studies for training or validation, their patients or images, are in the test
            split of a folder that is held out.
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
    if shared.images is None:
        images = f"{shared.near} images that look alike (difference hashes, {shared.max_bits} bits)"
    else:
        images = f"{shared.images} images"
    return f"{shared.studies} studies, {shared.patients} patients and {images}"
