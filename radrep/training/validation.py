"""What the validations of all tasks share."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from radrep.data.batch import Batch
from radrep.data.dataset import ReportDataset, in_order
from radrep.data.tokenizer import ReportCodec, Tokenizer
from radrep.device import autocast
from radrep.models.base import TrainableModel
from radrep.progress import Reporter
from radrep.recipe.recipe import Recipe


@dataclass(frozen=True)
class SampleReport:
    """A report of validation for a tracker, and a picture of its images and heatmaps, (h, w, 3)."""

    id: str
    reference: str
    generated: str
    picture: np.ndarray


@dataclass(frozen=True)
class Validation:
    """The validation split and the bare model; every process scores its own part of the split."""

    recipe: Recipe
    accelerator: Accelerator
    model: TrainableModel
    dataset: ReportDataset
    tokenizer: Tokenizer
    codec: ReportCodec
    num_workers: int
    reporter: Reporter

    @property
    def part(self) -> slice:
        """The studies of this process."""
        return slice(self.accelerator.process_index, None, self.accelerator.num_processes)

    def batches(self, batch_size: int) -> "DataLoader[Any]":
        """This process's part of the split."""
        return in_order(self.dataset, batch_size, num_workers=self.num_workers, part=self.part)

    @torch.no_grad()
    def loss(self, batch: Batch) -> tuple[float, int]:
        """Sum of a batch's loss terms, and how many they are."""
        count = self.model.num_loss_terms(batch)
        with autocast(self.accelerator.device, self.recipe.train.precision):
            return float(self.model.loss(batch)["loss"]) * count, count


def moved(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on a device."""
    for batch in batches:
        yield batch.to(device)


def mean_loss(parts: Iterable[tuple[float, int]]) -> float:
    """The mean over all terms of (sum, count) pairs."""
    sums, counts = zip(*parts, strict=True)
    return float(sum(sums) / sum(counts))
