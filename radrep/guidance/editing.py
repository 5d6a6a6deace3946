"""Edit a report until the rule labeller reads from it what was decided about some observations.

Sentences that contradict a decision are taken out, or cut to what they else deny. An observation
that is present and not named gets the commonest short training sentence that names it alone
(Replace-and-Report, Kale et al., ACL Findings 2023; operating points as in RadFusion,
arXiv 2608.10505). What nothing was decided about stays as it was written.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from radrep.errors import DataError
from radrep.guidance.labels import LabelPredictor, abnormal_labels, fit_labels
from radrep.metrics.labeler import label_report, label_reports
from radrep.metrics.labeler import vocabulary as o
from radrep.metrics.labeler.words import split_sentences
from radrep.sections import MARKER, SECTIONS, TWO_SECTIONS

Origin = Literal["generated", "shortened", "inserted"]
Source = Literal["decoder", "training reports"]

_TOLD_APART = 0.7  # AUROC out of fold
_LONGEST = 12  # words of a sentence that is put in
# A sentence that measures, or compares with a study which the reader may not have.
_UNFIT = re.compile(
    r"\d|\b(?:again|changed?|compar\w*|decreas\w*|developed|improv\w*|increas\w*|interval|new|now|"
    r"persist\w*|previous\w*|prior|remain\w*|resolv\w*|stable|unchanged|worse\w*|xxxx|unk)\b",
    re.I,
)
_SIDE = re.compile(r"\b(?:left|right)(?:[- ]sided)?\s|\bbilateral(?:ly)?\s", re.I)
# What is normal in words that name no observation, so that the labeller has no negative for it.
_LUNGS = re.compile(r"\blungs?\b.*\b(?:clear|normal|unremarkable)\b|\bclear lungs?\b", re.I)
_BONES = re.compile(
    r"\b(?:bones?|bony|osseous|skelet\w*|ribs?)\b.*\b(?:intact|normal|unremarkable|without|no)\b|"
    r"\b(?:intact|normal|unremarkable|no)\b.*\b(?:bones?|bony|osseous|skelet\w*|ribs?)\b",
    re.I,
)
_CHEST = re.compile(
    r"\b(?:no|without)\b.*\b(?:abnormalit\w*|disease|process|findings?)\b|\bnormal (?:chest|exam)|"
    r"\bchest\b.*\b(?:normal|unremarkable)\b",
    re.I,
)
_IN_THE_LUNG = (o.OPACITY, o.LESION, o.EDEMA, o.CONSOLIDATION, o.PNEUMONIA, o.ATELECTASIS)
_NORMAL = dict.fromkeys(_IN_THE_LUNG, _LUNGS) | {o.FRACTURE: _BONES}


@dataclass(frozen=True)
class Sentence:
    """A sentence of an edited report."""

    text: str
    origin: Origin = "generated"
    observation: str = ""  # that an inserted one names
    probability: float | None = None  # of that observation
    section: str | None = None  # findings or impression, where it is known


@dataclass(frozen=True)
class WrittenReport:
    """A report and, where it was edited, its sentences and those that were taken out."""

    text: str
    sentences: tuple[Sentence, ...] = ()
    removed: tuple[str, ...] = ()
    source: Source = "decoder"
    draft: str = ""  # before editing
    probabilities: tuple[float, ...] = ()  # of `ABNORMAL`, where they were predicted

    @property
    def changes(self) -> tuple[Sentence, ...]:
        """The sentences that the model did not write so."""
        return tuple(s for s in self.sentences if s.origin != "generated")

    def by_section(self, target: str) -> tuple[Sentence, ...]:
        """All its sentences, each with its section, of a model with this target."""
        section = target if target in SECTIONS else None
        section = SECTIONS[0] if target == TWO_SECTIONS else section
        found = []
        for sentence in self.sentences or map(Sentence, split_report(self.text)):
            if sentence.text == MARKER:
                section = SECTIONS[1]
            else:
                found.append(replace(sentence, section=section))
        return tuple(found)


@dataclass(frozen=True)
class SentenceBank:
    """Training sentences to put in, by the observation that they name, and alone deny."""

    present: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[frozenset[str], str] = field(default_factory=dict)

    @classmethod
    def build(cls, reports: Iterable[str]) -> "SentenceBank":
        """Collect them from training reports as the model writes them.

        For each observation, of the sentences of at most 12 words that name it and nothing else,
        their sides left out, without comparison and measure: the most frequent, of equally
        frequent ones the most like all sentences that name it (by the Jaccard index of their
        words). An observation without such a sentence cannot be put in.
        """
        counts = Counter(_SIDE.sub("", s) for report in reports for s in split_report(report))
        words = {sentence: frozenset(sentence.split()) for sentence in counts}
        naming: dict[str, list[frozenset[str]]] = {}
        candidates: dict[str, list[str]] = {}
        absent: dict[frozenset[str], str] = {}
        by_frequency = sorted(counts, key=lambda s: (-counts[s], s))
        for sentence, found in zip(by_frequency, label_reports(by_frequency), strict=True):
            states = {n: s for n, s in found.states.items() if s != "absent" and n != o.NO_FINDING}
            for name in (name for name, state in states.items() if state == "positive"):
                naming.setdefault(name, []).append(words[sentence])
            if len(sentence.split()) > _LONGEST or _UNFIT.search(sentence):
                continue
            named = {mention.observation for mention in found.mentions}
            if len(named) == 1 and list(states.values()) == ["positive"]:
                (name,) = states
                if not found.sides.get(name) and not _sounds_normal(sentence):
                    candidates.setdefault(name, []).append(sentence)
            elif states and set(states.values()) == {"negative"} and o.NO_FINDING not in named:
                absent.setdefault(frozenset(states), sentence)

        def typical(name: str, sentence: str) -> tuple[int, float]:
            own = words[sentence]
            alike = sum(len(own & other) / len(own | other) for other in naming[name])
            return counts[sentence], alike

        chosen = {
            name: max(sentences, key=lambda s: typical(name, s))
            for name, sentences in candidates.items()
        }
        return cls(chosen, absent)


def split_report(report: str) -> list[str]:
    """The sentences of a report, with their full stops."""
    starts = [start for start, _ in split_sentences(report)]
    if not starts:
        return [report.strip()] if report.strip() else []
    ends = [*starts[1:], len(report)]
    starts[0] = 0
    return [report[a:b].strip() for a, b in zip(starts, ends, strict=True)]


def _sounds_normal(sentence: str) -> bool:
    return any(pattern.search(sentence) for pattern in (_LUNGS, _BONES, _CHEST))


@lru_cache(maxsize=2**16)
def _states(sentence: str) -> Mapping[str, str]:
    return label_report(sentence).states


def edit_report(
    report: str,
    decisions: Mapping[str, bool],
    bank: SentenceBank,
    probabilities: Mapping[str, float] | None = None,
) -> WrittenReport:
    """Make a report agree with decisions, observation to whether it is present.

    Where an observation is decided present and the bank has no sentence for it, the report keeps
    its own sentences about it. Observations are of `ABNORMAL`. Both sections of a report of two are
    edited; what is missing stands where the first sentence was taken out, or first.
    """
    wanted = {
        name: present
        for name, present in decisions.items()
        if not present or name in bank.present or _states(report)[name] == "positive"
    }
    kept: list[Sentence] = []
    removed: list[str] = []
    gap = None  # where the first sentence was taken out
    for text in split_report(report):
        if not _contradicts(text, wanted):
            kept.append(Sentence(text))
            continue
        removed.append(text)
        gap = len(kept) if gap is None else gap
        if shorter := _without(text, wanted, bank):
            kept.append(Sentence(shorter, "shortened"))
    missing = [
        Sentence(bank.present[name], "inserted", name, (probabilities or {}).get(name))
        for name in o.ABNORMAL
        if wanted.get(name) and not any(_states(s.text)[name] == "positive" for s in kept)
    ]
    place = gap or 0
    sentences = (*kept[:place], *missing, *kept[place:])
    text = " ".join(s.text for s in sentences) if removed or missing else report
    return WrittenReport(text, sentences, tuple(removed))


def _contradicts(sentence: str, wanted: Mapping[str, bool]) -> bool:
    states = _states(sentence)
    for name, present in wanted.items():
        if not present and states[name] in ("positive", "uncertain"):
            return True
        if present and states[name] in ("negative", "uncertain"):
            return True
        normal = _NORMAL.get(name)
        if present and states[name] == "absent" and normal and normal.search(sentence):
            return True
    abnormal = any(present for name, present in wanted.items() if name != o.DEVICES)
    names_nothing = all(states[name] == "absent" for name in o.ABNORMAL)
    return (
        abnormal and names_nothing and bool(_CHEST.search(sentence)) and not _BONES.search(sentence)
    )


def _without(sentence: str, wanted: Mapping[str, bool], bank: SentenceBank) -> str:
    """The training sentence that denies what a denying sentence denies rightly, or ""."""
    states = _states(sentence)
    if any(states[name] in ("positive", "uncertain") for name in o.ABNORMAL):
        return ""
    denied = {name for name in o.ABNORMAL if states[name] == "negative"}
    return bank.absent.get(frozenset(n for n in denied if not wanted.get(n)), "")


@dataclass(frozen=True)
class OperatingPoint:
    """Where observations are called present, and which of them are decided about at all.

    By default those whose calls at the threshold of the greatest F score are right often enough.
    Mappings are by observation, `sensitivity` or a number for all of AUROC .7 or more.
    """

    beta: float = 0.5
    min_precision: float = 0.3
    sensitivity: float | Mapping[str, float] | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportEditor:
    """Predicts observations from a study's features, and edits its report to agree."""

    predictor: LabelPredictor
    bank: SentenceBank

    def thresholds(self, point: OperatingPoint) -> dict[str, float]:
        """By observation that is decided about; raise DataError where one is too rare for it."""
        predictor = self.predictor
        chosen = predictor.at_f_score(point.beta)
        precise = predictor.precision(chosen) >= point.min_precision
        found = {
            name: float(threshold)
            for name, threshold, ok in zip(predictor.names, chosen, precise, strict=True)
            if ok and np.isfinite(threshold)
        }
        wanted = point.sensitivity
        if isinstance(wanted, float | int):
            good = predictor.auroc() >= _TOLD_APART
            wanted = {name: wanted for name, ok in zip(predictor.names, good, strict=True) if ok}
            found = {}  # one operating point for all
        for name, sensitivity in (wanted or {}).items():
            found[name] = float(predictor.at_sensitivity(sensitivity)[predictor.names.index(name)])
        rare = [name for name, threshold in found.items() if not np.isfinite(threshold)]
        if rare:
            raise DataError(
                f"{', '.join(rare)}: too few training studies have it for a sensitivity to be "
                "chosen; leave it out"
            )
        return found | dict(point.thresholds)

    def edit(
        self, report: str, probabilities: np.ndarray, thresholds: Mapping[str, float]
    ) -> WrittenReport:
        """Edit the report of a study whose observations have these probabilities, (l,)."""
        known = dict(zip(self.predictor.names, map(float, probabilities), strict=True))
        decisions = {name: known[name] > threshold for name, threshold in thresholds.items()}
        return edit_report(report, decisions, self.bank, known)


def fit_editor(
    vectors: np.ndarray,
    raw: Sequence[str],
    reports: Sequence[str],
    patients: Sequence[str],
    columns: np.ndarray | None = None,
) -> ReportEditor:
    """Fit on training studies: features (n, d), raw reports, and as the model writes them.

    `columns` are the weights of the features, (d,), by default all alike.
    """
    labels = abnormal_labels(raw)
    predictor = fit_labels(vectors, labels, patients, o.ABNORMAL, columns=columns)
    return ReportEditor(predictor, SentenceBank.build(reports))
