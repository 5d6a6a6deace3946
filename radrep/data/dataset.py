"""Prepared studies as batches, in an order that seed and epoch alone decide."""

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from radrep.data.batch import Batch
from radrep.data.context.reader import ContextReader
from radrep.data.context.study_context import StudyContext
from radrep.data.image_selection import ImageSelection, View
from radrep.data.preprocess import Preprocess, crop_map
from radrep.data.saliency_store import SaliencyImages
from radrep.data.store import Fold, PreparedStudies, StoredStudy
from radrep.data.study import Image, Study
from radrep.data.text import target_text
from radrep.data.tokenizer import ReportCodec
from radrep.errors import DataError

# Eight thousand studies of full shards: shuffled well enough, and in every operating system's
# cache of files.
_SHARDS_TOGETHER = 16


class ModelStudies(PreparedStudies):
    """Studies as a model is given them: stored images and, where it takes them, masked ones."""

    def __init__(
        self,
        prepared: Path,
        split: str,
        *,
        target: str | None = None,
        fold: Fold | None = None,
        masks: SaliencyImages | None = None,
    ) -> None:
        super().__init__(prepared, split, target=target, fold=fold)
        self.masks = masks
        self._target, self._fold = target, fold

    def whole_split(self) -> "ModelStudies":
        """The studies of the split on disk, of which a fold has a part; itself without a fold."""
        if self._fold is None:
            return self
        return ModelStudies(self.prepared, "train", target=self._target, masks=self.masks)

    def read_views(
        self, index: int, choose: Callable[[Study], Sequence[View]]
    ) -> tuple[Study, list[tuple[View, np.ndarray]]]:
        """A study with the images chosen of it, bare or masked, uint8 (h, w) each."""
        stored = self.open(index)
        views = choose(stored.study)
        return stored.study, [(view, self._pixels(stored, view)) for view in views]

    def read_view(self, index: int, view: View) -> np.ndarray:
        """One image of a study, as `read_views` reads it."""
        return self._pixels(self.open(index), view)

    def _pixels(self, stored: StoredStudy, view: View) -> np.ndarray:
        if not view.masked:
            return stored.image(view.number)
        if self.masks is None:
            raise DataError(
                f"study {stored.study.id} has no masked image here. Make them with: radrep prepare "
                f"saliency --data {self.prepared} --checkpoint RUN"
            )
        return self.masks.masked(stored.study.id)


@dataclass(frozen=True)
class Sample:
    """One study, ready to be put into a batch."""

    id: str
    views: "Views"
    tokens: Tensor
    labels: Tensor | None = None
    label_buckets: Tensor | None = None
    token_weights: Tensor | None = None
    seed: int = 0
    context: tuple[Tensor, Tensor] | None = None  # ids and kinds
    prior: "Views | None" = None


@dataclass(frozen=True)
class Views:
    """The views of a study in one of their forms, the others None."""

    images: Tensor | None = None
    early_maps: Tensor | None = None
    features: Tensor | None = None


@dataclass(eq=False)
class ReportDataset(Dataset[Sample]):
    """The studies of a split with pixels or cached features, and the tokens of their reports.

    Everything is read when it is asked for: a data set of any size takes the same memory. The seed
    of a random crop is drawn from (seed, epoch, study). `features` gives the cached patches of an
    image, (n, c), in place of its pixels, with `early` those of a square map that later stages of
    a backbone go on from; `labels` those of a study, (14,), NaN where not known; `label_buckets`
    those of a study in training, (13,), by its id and a seed drawn likewise; `token_weights` the
    weights in the loss of the tokens of a report, (l,); `context` what is read with the images.
    """

    studies: ModelStudies
    _: KW_ONLY
    target: str
    selection: ImageSelection
    preprocess: Preprocess
    codec: ReportCodec
    max_tokens: int
    random_crop: bool = False
    seed: int = 0
    features: Callable[[Image, View], Tensor] | None = None
    early: bool = False
    labels: Callable[[Study], np.ndarray] | None = None
    label_buckets: Callable[[str, int], Tensor] | None = None
    token_weights: Callable[[Sequence[int]], Tensor] | None = None
    context: ContextReader | None = None

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of (epoch, index of the study), as `EpochOrder` counts epochs."""
        epoch, index = key
        study, views = self._views(index, self.selection.of, key)
        tokens = self.codec.encode(target_text(study.sections, self.target), self.max_tokens)
        labels = None if self.labels is None else torch.from_numpy(self.labels(study))
        buckets = None
        if self.label_buckets is not None:
            buckets = self.label_buckets(study.id, mix_seed(self.seed, epoch, index))
        context = prior = None
        if self.context is not None:
            found = self.context.read(self.studies, index, mix_seed(self.seed, epoch, index, 2))
            context, prior = self.context.encode(found.texts), self._prior(found, key)
        return Sample(
            study.id,
            views,
            torch.tensor(tokens),
            labels,
            buckets,
            token_weights=None if self.token_weights is None else self.token_weights(tokens),
            seed=mix_seed(self.seed, epoch, index, 1),  # another one than that of a crop
            context=context,
            prior=prior,
        )

    def _prior(self, context: StudyContext, key: tuple[int, int]) -> Views | None:
        """The bare images of the study before, cut as those of the study itself."""
        if context.prior is None:
            return None
        return self._views(context.prior, self.selection.bare, key)[1]

    def _views(
        self, index: int, choose: Callable[[Study], Sequence[View]], key: tuple[int, int]
    ) -> tuple[Study, Views]:
        """A study and those of its images that are chosen, cut as the sample of a key is."""
        epoch, place = key
        if self.features is None:
            study, read = self.studies.read_views(index, choose)
            fitted = [self._fit(pixels, view, epoch, place) for view, pixels in read]
            return study, Views(images=torch.stack(fitted))
        study = self.studies[index]
        given = [self.features(study.images[view.number], view) for view in choose(study)]
        if not self.early:
            return study, Views(features=torch.stack(given))  # (views, n, c)
        maps = [self._fit_map(patches, epoch, place) for patches in given]
        return study, Views(early_maps=torch.stack(maps))

    def _fit_map(self, patches: Tensor, epoch: int, index: int) -> Tensor:
        """A map of early stages, (n, c), as (c, rows, columns); of random crops the part of it."""
        side = math.isqrt(len(patches))
        whole = patches.unflatten(0, (side, side)).permute(2, 0, 1)
        if not self.random_crop:
            return whole
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, index))
        return crop_map(whole, generator)

    def _fit(self, pixels: np.ndarray, view: View, epoch: int, index: int) -> Tensor:
        if not self.random_crop:
            return self.preprocess.evaluate(pixels, saliency=view.masked)
        # Its own generator: the same cut whatever worker or process does it, and however often
        # a run was interrupted. A masked image is cut where its bare twin is.
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, index))
        return self.preprocess.train(pixels, generator, saliency=view.masked)


def mix_seed(*numbers: int) -> int:
    """One seed of 31 bits out of whole numbers of at least 0, by the rounds of xxHash64.

    On CPython 3.8 to 3.14 it equals `hash(numbers)`, which no other Python promises.
    """
    mask = (1 << 64) - 1
    mixed = 2870177450012600261
    for number in numbers:
        mixed = (mixed + number * 14029467366897019727) & mask
        mixed = (mixed << 31 | mixed >> 33) & mask
        mixed = mixed * 11400714785074694791 & mask
    mixed += len(numbers) ^ 2870177450012600261 ^ 3527539
    return mixed & 0x7FFFFFFF


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples side by side, padding the tokens with 0."""
    labels = [s.labels for s in samples if s.labels is not None]
    buckets = [s.label_buckets for s in samples if s.label_buckets is not None]
    weights = [s.token_weights for s in samples if s.token_weights is not None]
    batch = batch_inputs(
        [s.id for s in samples],
        [s.views for s in samples],
        [s.context for s in samples],
        [s.prior for s in samples],
    )
    return replace(
        batch,
        tokens=pad_sequence([s.tokens for s in samples], batch_first=True),
        lengths=torch.tensor([len(s.tokens) for s in samples]),
        labels=torch.stack(labels) if labels else None,
        label_buckets=torch.stack(buckets) if buckets else None,
        token_weights=pad_sequence(weights, batch_first=True) if weights else None,
        seeds=tuple(s.seed for s in samples),
    )


def batch_inputs(
    ids: Sequence[str],
    views: Sequence[Views],
    contexts: Sequence[tuple[Tensor, Tensor] | None],
    priors: Sequence[Views | None],
) -> Batch:
    """What studies are written from: their views, ids and kinds of texts, views of priors."""
    texts = [context for context in contexts if context is not None]
    tokens, kinds = (
        pad_sequence([pair[i] for pair in texts], batch_first=True) if texts else None
        for i in range(2)
    )
    names = tuple(ids)
    return Batch(
        ids=names,
        **stack_views(views),
        context=tokens,
        context_kinds=kinds,
        prior=Batch(names, **stack_views(priors)) if any(priors) else None,
    )


def stack_views(studies: Sequence[Views | None]) -> dict[str, Any]:
    """The fields of a batch that hold the views of its studies, of some None."""
    found: dict[str, Any] = {"num_views": torch.zeros(len(studies), dtype=torch.long)}
    for name in ("images", "early_maps", "features"):
        given = [None if views is None else getattr(views, name) for views in studies]
        if any(views is not None for views in given):
            counts = [0 if views is None else len(views) for views in given]
            found["num_views"] = torch.tensor(counts)
            found[name] = torch.cat([views for views in given if views is not None])
    return found


@dataclass(eq=False)
class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Batches of one epoch for one process, a function of seed and epoch alone.

    All processes see disjoint parts of one permutation and the same number of batches: the last
    round is filled up from the front of the permutation when it does not divide evenly. A set of
    many shards is shuffled as a slow disk can follow: the shards at random, then, a few of them at
    a time, the studies of these. A batch has `batch_size` studies in each process.

    Studies are read `repeats` times an epoch, each time as if in an epoch of its own.
    """

    shard_sizes: Sequence[int]
    batch_size: int
    _: KW_ONLY
    seed: int
    num_processes: int = 1
    process: int = 0
    repeats: np.ndarray | None = None  # of each study, (n,); None: once
    epoch: int = field(default=0, init=False)
    first_batch: int = field(default=0, init=False)

    @property
    def num_batches(self) -> int:
        """Batches of a whole epoch."""
        num = sum(self.shard_sizes) if self.repeats is None else int(self.repeats.sum())
        return -(-num // (self.batch_size * self.num_processes))

    def set_start(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch and the batch that iteration begins with."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return self.num_batches - self.first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = self._shuffled(generator)
        order += order[: -len(order) % self.num_processes]
        size = self.batch_size * self.num_processes
        for batch in range(self.first_batch, self.num_batches):
            mine = order[batch * size : (batch + 1) * size][self.process :: self.num_processes]
            yield [self._key(number) for number in mine]

    def _key(self, number: int) -> tuple[int, int]:
        """Epoch and study of a number of `_shuffled`."""
        time, index = divmod(number, sum(self.shard_sizes))
        most = 1 if self.repeats is None else int(self.repeats.max())
        return self.epoch * most + time, index

    def _shuffled(self, generator: torch.Generator) -> list[int]:
        """Studies by index, and by index + times * number of studies when they come again."""
        ends = np.cumsum(self.shard_sizes)
        studies = np.split(np.arange(ends[-1]), ends[:-1])  # of each shard
        if len(studies) > _SHARDS_TOGETHER:
            shards = torch.randperm(len(studies), generator=generator).tolist()
            studies = [studies[shard] for shard in shards]
        order: list[int] = []
        for first in range(0, len(studies), _SHARDS_TOGETHER):
            together = np.concatenate(studies[first : first + _SHARDS_TOGETHER])
            if self.repeats is not None:
                times = [
                    together[self.repeats[together] > time] + time * ends[-1]
                    for time in range(int(self.repeats.max()))
                ]
                together = np.concatenate(times)
            order += together[torch.randperm(len(together), generator=generator).numpy()].tolist()
        return order


def in_order(
    dataset: ReportDataset, batch_size: int, *, num_workers: int, part: slice = slice(None)
) -> "DataLoader[Any]":
    """Batches of a split (or a part of it) in its own order, for evaluation."""
    indices = range(len(dataset))[part]
    batches = [
        [(0, index) for index in indices[start : start + batch_size]]
        for start in range(0, len(indices), batch_size)
    ]
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=leave_stopping_to_parent,
        pin_memory=torch.cuda.is_available(),
    )


def leave_stopping_to_parent(_worker: int) -> None:
    """Have a worker process ignore Ctrl-C and what resource managers send to the whole group.

    A worker that ended first would cost the main process its checkpoint.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # no SIGUSR1 on Windows
            signal.signal(getattr(signal, name), signal.SIG_IGN)
