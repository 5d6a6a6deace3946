"""Everything that is said of some systems on the same studies, under every protocol.

A system is one way to write the reports: a model, the same model with other images, a constant.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from radrep.metrics.bootstrap import (
    Difference,
    Interval,
    Resamples,
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


@dataclass(frozen=True)
class Corpus:
    """What reports are scored against.

    Attributes:
        references: Raw reference reports, n.
        clean: The cleaner of the data set.
        train: Raw training reports; none where they are not at hand.
        vocabulary: Words of the training vocabulary, for the published protocol; None without
            training reports, and then there is no published protocol.
        max_tokens: Length of the training targets in ids.
        shorten: Cuts a cleaned report to that many sub-words of a language model; None where no
            language model wrote the reports.
        tokenizer: Name of the tokenizer that `shorten` uses.
    """

    references: Sequence[str]
    clean: Callable[[str], str]
    train: Sequence[str] = ()
    vocabulary: Collection[str] | None = None
    max_tokens: int = 60
    shorten: Callable[[str], str] | None = None
    tokenizer: str = ""

    def protocols(self) -> list[References]:
        """The references as each protocol scores them, `full` last."""
        found = []
        if self.vocabulary is not None:
            found.append(
                published_references(
                    self.references,
                    clean=self.clean,
                    vocabulary=self.vocabulary,
                    max_tokens=self.max_tokens,
                )
            )
        if self.shorten is not None:
            found.append(
                published_llm_references(self.references, clean=self.clean, shorten=self.shorten)
            )
        return [*found, full_references(self.references, clean=self.clean)]

    @cached_property
    def cleaned_train(self) -> Sequence[str]:
        """The training reports, cleaned and complete."""
        return full_references(self.train, clean=self.clean).texts

    def seen(self) -> np.ndarray | None:
        """Which cleaned references are word for word in training, (n,) of bool; None: no train."""
        if not self.train:
            return None
        known = set(self.cleaned_train)
        whole = full_references(self.references, clean=self.clean).texts
        return np.array([text in known for text in whole])


@dataclass(frozen=True)
class SystemScores:
    """Scores of one system.

    Attributes:
        name: What it is.
        scores: Metric to value, None where it was not computed.
        intervals: Metric to its 95 % bootstrap interval over studies.
    """

    name: str
    scores: Mapping[str, float | None]
    intervals: Mapping[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same studies.

    Attributes:
        first: Name of one system.
        second: Name of the other.
        differences: Metric to first minus second.
    """

    first: str
    second: str
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class ProtocolScores:
    """All systems under one protocol.

    Attributes:
        protocol: "published", "published_llm" or "full".
        tokenizer: What cuts the references under published_llm, else empty.
        num_cut: References that the protocol cuts.
        systems: In the order given.
        comparisons: Those asked for.
        on_seen: System to metric to value, on references seen verbatim in training; empty where
            there are none.
        on_unseen: The same on all other references.
    """

    protocol: str
    tokenizer: str
    num_cut: int
    systems: tuple[SystemScores, ...]
    comparisons: tuple[Comparison, ...]
    on_seen: Mapping[str, Mapping[str, float]]
    on_unseen: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class FindingsCard:
    """Agreement on clinical findings, by our rules.

    Attributes:
        systems: Every figure of each system, uncertain findings taken for none.
        comparisons: Those asked for.
        uncertain_is_positive: System to figure to value, uncertain findings taken for positive.
        tables: System to the counts of each observation.
        num_sides: System to the number of findings whose side was compared.
    """

    systems: tuple[SystemScores, ...]
    comparisons: tuple[Comparison, ...]
    uncertain_is_positive: Mapping[str, Mapping[str, float | None]]
    tables: Mapping[str, Sequence[LabelCounts]]
    num_sides: Mapping[str, int]


@dataclass(frozen=True)
class Scorecard:
    """What was found.

    Attributes:
        num_studies: Studies scored.
        num_seen: References seen verbatim in training, None where training is not at hand.
        protocols: Under each protocol.
        findings: Clinical findings.
        diversity: System to the variety and lengths of its reports.
        per_report: System to CIDEr of each report under `full`, (n,).
        notes: Lines for the reader.
    """

    num_studies: int
    num_seen: int | None
    protocols: tuple[ProtocolScores, ...]
    findings: FindingsCard
    diversity: Mapping[str, Diversity]
    per_report: Mapping[str, np.ndarray]
    notes: tuple[str, ...]


def score_card(
    corpus: Corpus,
    systems: Mapping[str, Sequence[str]],
    comparisons: Sequence[tuple[str, str]] = (),
    *,
    meteor: Literal["auto", "skip"] = "auto",
) -> Scorecard:
    """Score systems on the same studies.

    Args:
        corpus: What they are scored against.
        systems: Name to the reports as they are scored, see `scored_predictions`, in the order of
            the references.
        comparisons: Pairs of names to compare.
        meteor: "auto" computes METEOR if Java runs; "skip" leaves it out.

    Raises:
        DataError: If there is no report, the numbers differ, or no reference has a word.
    """
    wanted = corpus.protocols()
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
        resamples = resample(own)
        protocols.append(
            ProtocolScores(
                protocol=references.protocol,
                tokenizer=corpus.tokenizer if references.protocol == "published_llm" else "",
                num_cut=references.num_cut,
                systems=_describe(resamples),
                comparisons=_compare(resamples, comparisons),
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
    resamples = resample(scores)
    return FindingsCard(
        systems=_describe(resamples),
        comparisons=_compare(resamples, comparisons),
        uncertain_is_positive={
            name: score_findings(named, found, uncertain_is_positive=True).corpus
            for name, found in written.items()
        },
        tables={name: score.table() for name, score in scores.items()},
        num_sides={name: score.num_sides for name, score in scores.items()},
    )


def _describe(systems: Mapping[str, Resamples]) -> tuple[SystemScores, ...]:
    return tuple(
        SystemScores(name, dict(found.scores.corpus), bootstrap_intervals(found))
        for name, found in systems.items()
    )


def _compare(
    systems: Mapping[str, Resamples], pairs: Sequence[tuple[str, str]]
) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(first, second, paired_bootstrap(systems[first], systems[second]))
        for first, second in pairs
    )


def _parts(scores: Mapping[str, NlgScores], kept: np.ndarray | None) -> dict[str, dict[str, float]]:
    if kept is None or not kept.any():
        return {}
    return {name: score.part(kept) for name, score in scores.items()}
