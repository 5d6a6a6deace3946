"""What an evaluation scores against: the studies of a split and the baselines that go with them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from radrep.build import build_tokenizer
from radrep.data.dataset import ModelStudies
from radrep.data.manifest import read_shards
from radrep.data.store import PreparedStudies
from radrep.data.text import get_cleaner
from radrep.data.tokenizer import UNKNOWN
from radrep.errors import DataError
from radrep.evaluation.controls import nearest_studies
from radrep.metrics.baselines import best_constants
from radrep.metrics.protocol import published_references
from radrep.metrics.scorecard import Corpus
from radrep.progress import Reporter
from radrep.saliency.read_split import read_split
from radrep.weights.checkpoint import Loaded

SHUFFLE_SEED = 0


@dataclass(frozen=True)
class ScoredStudies:
    """The studies that systems are scored on.

    Attributes:
        split: Name of the split, empty where references have none.
        ids: Their ids, in order.
        corpus: Their references, and what the protocols need.
        val: Raw reports of validation, on which constants are chosen; may be none.
        target: Which text of a study is the reference.
        num_without_text: Studies of the split that are left out for want of it.
        prepared: The studies in a prepared folder, else None.
        train: Its training studies, else None.
    """

    split: str
    ids: tuple[str, ...]
    corpus: Corpus
    val: Sequence[str]
    target: str
    num_without_text: int = 0
    prepared: ModelStudies | None = None
    train: ModelStudies | None = None

    @cached_property
    def ids_sha256(self) -> str:
        """Hash of the ids in order: equal hashes, equal studies."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    def constants(self, reporter: Reporter) -> dict[str, str]:
        """The best constant reports by the name of the baseline; none without training reports.

        They are training reports, chosen on validation under the published protocol.
        """
        corpus = self.corpus
        if corpus.vocabulary is None or not self.val:
            return {}
        chosen_on = published_references(
            self.val,
            clean=corpus.clean,
            vocabulary=corpus.vocabulary,
            max_tokens=corpus.max_tokens,
        ).texts
        with reporter.progress("constant baselines", 1, "searches") as advance:
            found = best_constants(corpus.cleaned_train, chosen_on)
            advance()
        return {f"constant, best {metric}": constant.report for metric, constant in found.items()}

    def nearest(self, reporter: Reporter) -> list[str] | None:
        """The cleaned report of each study's nearest training study, None without images."""
        if self.prepared is None or self.train is None:
            return None
        texts = self.corpus.cleaned_train
        return [texts[i] for i in nearest_studies(self.train, self.prepared, reporter)]


def studies_of_run(loaded: Loaded, split: str | None, reporter: Reporter) -> ScoredStudies:
    """The studies of a split of the data that a run was trained on.

    Args:
        loaded: The run's checkpoint.
        split: "train", "val" or "test"; by default test, or val where the data has no test study.
        reporter: Who is told of that.

    Raises:
        DataError: If the prepared folder is missing or the split is empty.
        CheckpointError: If the discriminator of its masked images is asked for and cannot be had.
    """
    data = loaded.recipe.data
    name = split or default_split(data.prepared, reporter)
    studies, train, val = (
        read_split(data, part, masked_by=loaded.saliency) for part in (name, "train", "val")
    )
    codec = loaded.codec
    shorten = partial(codec.shorten, max_tokens=data.max_tokens)
    corpus = Corpus(
        references=studies.texts(data.target),
        clean=get_cleaner(data.tokenizer.cleaner),
        train=train.texts(data.target),
        vocabulary=_vocabulary(loaded, train),
        max_tokens=data.max_tokens,
        shorten=shorten if codec.language_model else None,
        tokenizer=codec.language_model,
    )
    return ScoredStudies(
        split=name,
        ids=tuple(studies.ids),
        corpus=corpus,
        val=val.texts(data.target),
        target=data.target,
        num_without_text=studies.num_without_text,
        prepared=studies,
        train=train,
    )


def _vocabulary(loaded: Loaded, train: PreparedStudies) -> tuple[str, ...]:
    """The words of a run; those of the training reports where it was imported without data."""
    words = loaded.tokenizer.vocabulary
    return words if words != (UNKNOWN,) else build_tokenizer(loaded.recipe.data, train).vocabulary


def default_split(prepared: Path, reporter: Reporter) -> str:
    """Test, or val where a data set came without its test studies.

    Raises:
        DataError: If there is no such folder.
    """
    if not prepared.is_dir():
        raise DataError(
            f"{prepared} not found: the run was trained on it. Prepare the data again there"
        )
    if read_shards(prepared, "test"):
        return "test"
    reporter.warn(f"{prepared} has no test study, so the validation split is scored")
    return "val"


def shuffled(reports: Sequence[str]) -> list[str]:
    """Give every study the report that was written for another study's images.

    A report depends on its own images alone, so this is what shuffling the images would give. A
    random cycle leaves no study with its own.
    """
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(reports))
    dealt = list(reports)
    for here, there in zip(order, np.roll(order, 1), strict=True):
        dealt[here] = reports[there]
    return dealt
