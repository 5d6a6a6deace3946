"""The studies of a split that an evaluation scores reports on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from radrep.build import build_dataset, build_preprocess, build_tokenizer
from radrep.data.dataset import ModelStudies, in_order
from radrep.data.manifest import read_shards
from radrep.data.study import HELD_OUT, Study
from radrep.data.text import get_cleaner
from radrep.data.tokenizer import UNKNOWN
from radrep.errors import DataError
from radrep.metrics.scorecard import Corpus
from radrep.parallel.processes import count_cores
from radrep.progress import Reporter
from radrep.recipe.data import Data
from radrep.saliency.masked_split import read_split
from radrep.weights.checkpoint import Loaded


@dataclass(frozen=True)
class EvalSet:
    """The studies that systems are scored on."""

    split: str  # "" where references have none
    ids: tuple[str, ...]
    corpus: Corpus
    val: Sequence[str]  # raw reports, on which constants are chosen; may be empty
    target: str  # section that is the reference
    num_without_text: int = 0  # studies left out because they lack it
    prepared: ModelStudies | None = None  # the studies in a prepared folder
    train: ModelStudies | None = None  # its training studies
    folds: "tuple[EvalSet, ...]" = ()  # of a cross-validation, in the order of the studies

    @cached_property
    def ids_sha256(self) -> str:
        """Hash of the ids in order: equal hashes, equal studies."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()


def studies_of_run(loaded: Loaded, split: str | None, reporter: Reporter) -> EvalSet:
    """The studies of a split of the data that a run was trained on; by default `default_split`."""
    data = loaded.recipe.data
    name = split or default_split(data, reporter)
    studies, train, val = (
        read_split(data, part, masked_by=loaded.saliency) for part in (name, "train", "val")
    )
    words, codec = loaded.tokenizer.vocabulary, loaded.codec
    if words == (UNKNOWN,):  # of a run imported without data
        words = build_tokenizer(data, train).vocabulary
    shorten = partial(codec.shorten, max_tokens=data.max_tokens)
    corpus = Corpus(
        references=studies.texts(data.target),
        clean=get_cleaner(data.tokenizer.cleaner),
        train=train.texts(data.target),
        vocabulary=words,
        max_tokens=data.max_tokens,
        shorten=shorten if codec.language_model else None,
        tokenizer=codec.language_model,
    )
    return EvalSet(
        split=name,
        ids=tuple(studies.ids),
        corpus=corpus,
        val=val.texts(data.target),
        target=data.target,
        num_without_text=studies.num_without_text,
        prepared=studies,
        train=train,
    )


def batches_of(
    loaded: Loaded,
    studies: ModelStudies,
    size: int,
    labels: Callable[[Study], np.ndarray] | None = None,
    context_of: Callable[[int], int | None] | None = None,
    *,
    part: slice = slice(None),
    num_workers: int | None = None,
) -> DataLoader[Any]:
    """Batches of some studies in order, prepared for the model of a checkpoint.

    For `context_of` see `radrep.data.context`.
    """
    data = loaded.recipe.data
    preprocess = build_preprocess(data, loaded.model)
    dataset = build_dataset(
        loaded.recipe,
        studies,
        preprocess=preprocess,
        codec=loaded.codec,
        labels=labels,
        context_of=context_of,
    )
    if num_workers is None:
        num_workers = min(data.num_workers, count_cores())
    return in_order(dataset, size, num_workers=num_workers, part=part)


def pool(folds: Sequence[EvalSet]) -> EvalSet:
    """What the folds of a cross-validation held out, as one set.

    It has no training reports of its own: they differ from fold to fold.
    """
    first, corpora = folds[0], [part.corpus for part in folds]
    words = {word for corpus in corpora for word in corpus.vocabulary or ()}
    return replace(
        first,
        ids=tuple(id_ for part in folds for id_ in part.ids),
        corpus=replace(
            first.corpus,
            references=[text for corpus in corpora for text in corpus.references],
            train=(),
            vocabulary=words,
        ),
        val=(),
        num_without_text=sum(part.num_without_text for part in folds),
        prepared=None,
        train=None,
        folds=tuple(folds),
    )


def default_split(data: Data, reporter: Reporter) -> str:
    """Test, or val where a data set has no test study; of a fold what it holds out."""
    prepared = data.prepared
    if not prepared.is_dir():
        raise DataError(
            f"{prepared} not found: the run was trained on it. Prepare the data again there"
        )
    if data.fold is not None:
        return HELD_OUT
    if read_shards(prepared, "test"):
        return "test"
    reporter.warn(f"{prepared} has no test study, so the validation split is scored")
    return "val"
