"""Scores of several systems on the same studies, under every protocol.

A system is one way to write the reports: a model, the same model on other images, a constant.
Metrics are named in names.py.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from radrep.metrics.bootstrap import (
    Difference,
    Interval,
    Resampled,
    bootstrap_intervals,
    paired_bootstrap,
    resample,
)
from radrep.metrics.diversity import Diversity, measure_diversity
from radrep.metrics.labeler import label_reports
from radrep.metrics.labeler.scores import LabelCounts, score_findings
from radrep.metrics.nlg import NlgScores, score_systems
from radrep.metrics.protocol import (
    References,
    full_references,
    published_llm_references,
    published_references,
)
from radrep.sections import split_sections, without_markers


@dataclass(frozen=True)
class Corpus:
    """What reports are scored against."""

    references: Sequence[str]  # raw
    clean: Callable[[str], str]
    train: Sequence[str] = ()  # raw reports; empty where not available
    vocabulary: Collection[str] | None = None  # of training; else no published protocol
    max_tokens: int = 60  # of the training targets
    shorten: Callable[[str], str] | None = None  # cuts to sub-words of a language model
    tokenizer: str = ""  # name of the tokenizer that `shorten` uses

    def protocols(self) -> list[References]:
        """The references as each protocol scores them, `full` last."""
        raw, clean, found = self.references, self.clean, []
        if (words := self.vocabulary) is not None:
            found.append(
                published_references(raw, clean=clean, vocabulary=words, max_tokens=self.max_tokens)
            )
        if self.shorten is not None:
            found.append(published_llm_references(raw, clean=clean, shorten=self.shorten))
        return [*found, full_references(raw, clean=clean)]

    def section(self, name: str) -> tuple["Corpus", list[int]]:
        """The references that have a section, as that section alone, and their places."""
        texts = [split_sections(text)[name] for text in self.references]
        kept = [place for place, text in enumerate(texts) if text]
        train = [own for text in self.train if (own := split_sections(text)[name])]
        return replace(self, references=[texts[place] for place in kept], train=train), kept

    @cached_property
    def cleaned_train(self) -> Sequence[str]:
        """The training reports, cleaned and complete."""
        return full_references(self.train, clean=self.clean).texts

    def seen(self) -> np.ndarray | None:
        """Which cleaned references also occur verbatim in training, (n,) of bool, or None."""
        if not self.train:
            return None
        known = set(self.cleaned_train)
        whole = full_references(self.references, clean=self.clean).texts
        return np.array([text in known for text in whole])


@dataclass(frozen=True)
class SystemScores:
    """Scores of one system, None where one was not computed, and 95 % bootstrap intervals."""

    name: str
    scores: Mapping[str, float | None]
    intervals: Mapping[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """Metric to the difference of two systems on the same studies, first minus second."""

    first: str
    second: str
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class ScoreTable:
    """Systems scored in one way, in the order given, and their comparisons."""

    systems: tuple[SystemScores, ...]
    comparisons: tuple[Comparison, ...]

    def value(self, system: str, metric: str) -> float | None:
        """The score of a system; None where it has none."""
        return next((s.scores.get(metric) for s in self.systems if s.name == system), None)

    def interval(self, system: str, metric: str) -> Interval | None:
        """The interval of a score."""
        return next((s.intervals.get(metric) for s in self.systems if s.name == system), None)

    def difference(self, first: str, second: str, metric: str) -> Difference | None:
        """First minus second, paired by study; None where the two were not compared."""
        for pair in self.comparisons:
            found = pair.differences.get(metric)
            if found is not None and (pair.first, pair.second) == (first, second):
                return found
            if found is not None and (pair.first, pair.second) == (second, first):
                return replace(found, value=-found.value, low=-found.high, high=-found.low)
        return None

    def relation(self, first: str, second: str, metric: str) -> str | None:
        """Whether the first score is "higher" or "lower" than the second, or "level".

        A difference counts where its 95 % interval excludes zero, or, of systems that were not
        compared, where their own intervals do not meet; None without intervals.
        """
        difference = self.difference(first, second, metric)
        if difference is not None:
            low, high = difference.low, difference.high
        else:
            ours, theirs = self.interval(first, metric), self.interval(second, metric)
            if ours is None or theirs is None:
                return None
            low, high = ours.low - theirs.high, ours.high - theirs.low
        return "higher" if low > 0 else "lower" if high < 0 else "level"


@dataclass(frozen=True)
class ProtocolScores(ScoreTable):
    """All systems under one protocol."""

    protocol: str  # "published", "published_llm" or "full"
    tokenizer: str  # what cuts the references under published_llm
    num_cut: int  # references that the protocol cuts
    on_seen: Mapping[str, Mapping[str, float]]  # on references verbatim in training
    on_unseen: Mapping[str, Mapping[str, float]]  # on all others


@dataclass(frozen=True)
class FindingsCard(ScoreTable):
    """Agreement on clinical findings by the rule labeller, uncertain findings as absent.

    Its mappings are by system.
    """

    uncertain_is_positive: Mapping[str, Mapping[str, float | None]]  # the same scores
    tables: Mapping[str, Sequence[LabelCounts]]  # counts of each observation
    num_sides: Mapping[str, int]  # findings whose side was compared


@dataclass(frozen=True)
class Scorecard:
    """Scores of some systems on the same studies."""

    num_studies: int
    num_seen: int | None  # references verbatim in training; None without training reports
    protocols: tuple[ProtocolScores, ...]  # `full` last
    findings: FindingsCard
    diversity: Mapping[str, Diversity]
    per_report: Mapping[str, np.ndarray]  # CIDEr of each report under `full`, (n,)
    notes: tuple[str, ...]  # lines for the reader

    @property
    def full(self) -> ProtocolScores:
        """Scores against complete references."""
        return self.protocols[-1]


def score_card(
    corpus: Corpus,
    systems: Mapping[str, Sequence[str]],
    comparisons: Sequence[tuple[str, str]] = (),
    *,
    meteor: Literal["auto", "skip"] = "auto",
) -> Scorecard:
    """Score systems on the same studies, and compare some pairs of them.

    A system is the reports of `scored_predictions`, in the order of the references. Reports of two
    sections are scored as one text.

    Raises:
        DataError: If there is no report, the numbers differ, or no reference has a word.
    """
    wanted = [replace(each, texts=without_markers(each.texts)) for each in corpus.protocols()]
    systems = {name: without_markers(reports) for name, reports in systems.items()}
    scores = score_systems(
        {
            f"{references.protocol} {name}": (references.texts, reports)
            for references in wanted
            for name, reports in systems.items()
        },
        meteor=meteor,
    )
    seen = corpus.seen()
    protocols = []
    for references in wanted:
        own = {name: scores[f"{references.protocol} {name}"] for name in systems}
        protocols.append(
            ProtocolScores(
                *_bootstrap(own, comparisons),
                protocol=references.protocol,
                tokenizer=corpus.tokenizer if references.protocol == "published_llm" else "",
                num_cut=references.num_cut,
                on_seen=_parts(own, seen),
                on_unseen=_parts(own, None if seen is None else ~seen),
            )
        )
    whole = wanted[-1].texts
    return Scorecard(
        num_studies=len(corpus.references),
        num_seen=None if seen is None else int(seen.sum()),
        protocols=tuple(protocols),
        findings=_findings(corpus.references, systems, comparisons),
        diversity={name: measure_diversity(whole, reports) for name, reports in systems.items()},
        per_report={name: scores[f"full {name}"].per_report["cider"] for name in systems},
        notes=tuple(dict.fromkeys(note for score in scores.values() for note in score.notes)),
    )


def _findings(
    references: Sequence[str],
    systems: Mapping[str, Sequence[str]],
    comparisons: Sequence[tuple[str, str]],
) -> FindingsCard:
    distinct = dict.fromkeys(text for texts in (references, *systems.values()) for text in texts)
    labelled = dict(zip(distinct, label_reports(list(distinct)), strict=True))
    named = [labelled[text] for text in references]
    written = {name: [labelled[text] for text in reports] for name, reports in systems.items()}
    scores = {name: score_findings(named, found) for name, found in written.items()}
    return FindingsCard(
        *_bootstrap(scores, comparisons),
        uncertain_is_positive={
            name: score_findings(named, found, uncertain_is_positive=True).corpus
            for name, found in written.items()
        },
        tables={name: score.table() for name, score in scores.items()},
        num_sides={name: score.num_sides for name, score in scores.items()},
    )


def _bootstrap(
    scores: Mapping[str, Resampled], pairs: Sequence[tuple[str, str]]
) -> tuple[tuple[SystemScores, ...], tuple[Comparison, ...]]:
    """The scores of the systems with their intervals, and the comparisons."""
    found = resample(scores)
    systems = [
        SystemScores(name, dict(own.scores.corpus), bootstrap_intervals(own))
        for name, own in found.items()
    ]
    compared = [Comparison(a, b, paired_bootstrap(found[a], found[b])) for a, b in pairs]
    return tuple(systems), tuple(compared)


def _parts(scores: Mapping[str, NlgScores], kept: np.ndarray | None) -> dict[str, dict[str, float]]:
    if kept is None or not kept.any():
        return {}
    return {name: score.part(kept) for name, score in scores.items()}
