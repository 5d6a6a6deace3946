"""Prepared studies as batches, in an order that seed and epoch alone decide."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from radrep.data.batch import Batch
from radrep.data.images import read_image
from radrep.data.preprocess import Preprocess
from radrep.data.study import Study
from radrep.data.tokenizer import ReportCodec
from radrep.errors import DataError


@dataclass(frozen=True)
class View:
    """One image that a model is given.

    Attributes:
        path: Relative to the prepared folder.
        saliency: It is masked by a saliency map.
    """

    path: str
    saliency: bool = False


def views_of(study: Study, *, pair: str, max_views: int) -> tuple[View, ...]:
    """The images of a study that a model is given.

    Args:
        study: The study.
        pair: "views" for its views in order, or "saliency" for the first one bare and masked.
        max_views: At most this many views; a study with fewer has fewer, never a copied one.

    Raises:
        DataError: If pair is "saliency" and the prepared folder has no masked image.
    """
    if pair == "views":
        return tuple(View(image.path) for image in study.images[:max_views])
    first = study.images[0]
    if first.saliency is None:
        raise DataError(
            f"study {study.id} has no saliency image, which data.pair: saliency asks for; "
            "use data.pair: views, or prepare the masked images first"
        )
    return View(first.path), View(first.saliency, saliency=True)


@dataclass(frozen=True)
class Sample:
    """One study, ready to be put into a batch."""

    id: str
    images: Tensor | None
    features: Tensor | None
    tokens: Tensor


class ReportDataset(Dataset[Sample]):
    """The studies of a split with pixels or cached features, and the tokens of their reports.

    Args:
        studies: The studies.
        texts: Raw report text of each study.
        views: Views of each study.
        prepared: The prepared folder.
        preprocess: What turns pixels into network input.
        codec: What turns text into ids.
        max_tokens: Length at which the ids are cut.
        random_crop: Crop at random, as in training, by a seed drawn from (seed, epoch, study).
        seed: Seed of the crops.
        features: Gives the cached patches of a view, (n, c), in place of its pixels.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        texts: Sequence[str],
        views: Sequence[tuple[View, ...]],
        *,
        prepared: Path,
        preprocess: Preprocess,
        codec: ReportCodec,
        max_tokens: int,
        random_crop: bool = False,
        seed: int = 0,
        features: Callable[[View], Tensor] | None = None,
    ) -> None:
        self.studies = studies
        self.texts = texts
        self.views = views
        self._prepared = prepared
        self._preprocess = preprocess
        self._tokens = [torch.tensor(codec.encode(text, max_tokens)) for text in texts]
        self._random_crop = random_crop
        self._seed = seed
        self._features = features

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of (epoch, index of the study)."""
        epoch, index = key
        views = self.views[index]
        images = features = None
        if self._features is not None:
            features = torch.stack([self._features(view) for view in views])  # (views, n, c)
        else:
            images = torch.stack([self._pixels(view, epoch, index) for view in views])
        return Sample(self.studies[index].id, images, features, self._tokens[index])

    def _pixels(self, view: View, epoch: int, index: int) -> Tensor:
        pixels = read_image(self._prepared / view.path)
        if not self._random_crop:
            return self._preprocess.evaluate(pixels, saliency=view.saliency)
        # Its own generator: the same cut whatever worker or process does it, and however often
        # a run was interrupted. A masked image is cut where its bare twin is.
        generator = torch.Generator().manual_seed(hash((self._seed, epoch, index)) & 0x7FFFFFFF)
        return self._preprocess.train(pixels, generator, saliency=view.saliency)


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples side by side, padding the tokens with 0."""
    images = [s.images for s in samples if s.images is not None]
    features = [s.features for s in samples if s.features is not None]
    views = images or features
    return Batch(
        ids=tuple(s.id for s in samples),
        num_views=torch.tensor([len(v) for v in views]),
        images=torch.cat(images) if images else None,
        features=torch.cat(features) if features else None,
        tokens=pad_sequence([s.tokens for s in samples], batch_first=True),
        lengths=torch.tensor([len(s.tokens) for s in samples]),
    )


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Batches of one epoch for one process, a function of seed and epoch alone.

    All processes see disjoint parts of one permutation and the same number of batches: the last
    round is filled up from the front of the permutation when it does not divide evenly.

    Args:
        num_studies: Studies in all.
        batch_size: Studies a batch and process.
        seed: Seed of the permutations.
        num_processes: Processes that train together.
        process: Number of this one.
    """

    def __init__(
        self,
        num_studies: int,
        batch_size: int,
        *,
        seed: int,
        num_processes: int = 1,
        process: int = 0,
    ) -> None:
        self._num_studies = num_studies
        self._batch_size = batch_size
        self._seed = seed
        self._num_processes = num_processes
        self._process = process
        self._epoch = 0
        self._first_batch = 0

    @property
    def num_batches(self) -> int:
        """Batches of a whole epoch."""
        return -(-self._num_studies // (self._batch_size * self._num_processes))

    def set_start(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch and the batch that iteration begins with."""
        self._epoch, self._first_batch = epoch, first_batch

    def __len__(self) -> int:
        return self.num_batches - self._first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(self._num_studies, generator=generator).tolist()
        order += order[: -len(order) % self._num_processes]
        for batch in range(self._first_batch, self.num_batches):
            size = self._batch_size * self._num_processes
            together = order[batch * size : (batch + 1) * size]
            mine = together[self._process :: self._num_processes]
            yield [(self._epoch, index) for index in mine]


def in_order(
    dataset: ReportDataset, batch_size: int, *, num_workers: int, part: slice = slice(None)
) -> "DataLoader[Any]":
    """Batches of a split (or a part of it) in its own order, for evaluation."""
    indices = range(len(dataset))[part]
    batches = [
        [(0, index) for index in indices[start : start + batch_size]]
        for start in range(0, len(indices), batch_size)
    ]
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=num_workers)
