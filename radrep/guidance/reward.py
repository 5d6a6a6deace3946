"""What a drawn report is worth beside the report of its study, as a reward.

Self-critical training (Rennie et al., CVPR 2017) maximises such a reward: CIDEr-D with the document
frequencies of the training reports, ROUGE-L, and the F1 of the abnormal findings that the rule
labeller reads.

Letters: b studies, k drawn reports of each.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from radrep.metrics.labeler import OBSERVATIONS, Findings, label_report
from radrep.metrics.labeler.scores import LABEL_SETS
from radrep.metrics.ngrams import DocumentFrequencies, NgramTable, ReferenceNgrams
from radrep.metrics.rouge import CommonSubsequences, count_words, rouge_l

ABNORMAL = tuple(OBSERVATIONS[i] for i in LABEL_SETS["13"])
# A rare observation weighs by the square root of how much more frequent the commonest one is, so
# that its few studies do not outweigh all others.
_MOST_WEIGHT = 3.0


@dataclass(frozen=True)
class RewardWeights:
    """The weights of the parts, and the F1 of two reports that both name nothing abnormal."""

    cider: float = 0.1  # CIDEr-D reaches 10
    rouge: float = 0.5
    labels: float = 1.0
    both_empty: float = 0.3


@dataclass(frozen=True)
class Rewards:
    """Parts of the rewards of drawn reports, (b, k) each."""

    cider: np.ndarray
    rouge: np.ndarray
    labels: np.ndarray
    findings: tuple[Findings, ...]  # of the first study's reports, then of the second's


class RewardScorer:
    """Scores drawn reports against those of their studies.

    `references` are the training reports as words, by study; `raw` as they were written, for their
    findings.
    """

    def __init__(
        self, references: Mapping[str, str], raw: Mapping[str, str], weights: RewardWeights
    ) -> None:
        self.weights = weights
        self._references = references
        self._frequencies = DocumentFrequencies(list(references.values()))
        self.abnormal = {id_: named_abnormal(label_report(text)) for id_, text in raw.items()}
        counts = np.array([[n in own for n in ABNORMAL] for own in self.abnormal.values()]).sum(0)
        shares = counts.max() / np.maximum(counts, 1)
        self._label_weights = dict(
            zip(ABNORMAL, np.minimum(np.sqrt(shares), _MOST_WEIGHT).tolist(), strict=True)
        )

    def score(self, ids: Sequence[str], drawn: Sequence[str], texts: Sequence[str]) -> Rewards:
        """Score k drawn reports of each study, as `texts` of words and as they were `drawn`."""
        references = [self._references[id_] for id_ in ids]
        k = len(texts) // len(ids)
        findings = tuple(map(label_report, drawn))
        labels = [
            self.label_f1(self.abnormal[ids[i // k]], named_abnormal(own))
            for i, own in enumerate(findings)
        ]
        return Rewards(
            cider=self._cider(references, texts).reshape(-1, k),
            rouge=_rouge(references, texts, k),
            labels=np.array(labels).reshape(-1, k),
            findings=findings,
        )

    def label_f1(self, reference: Iterable[str], named: Iterable[str]) -> float:
        """F1 of the abnormal findings, rare ones weighing more; `both_empty` where there is none.

        A finding counts once as named and once as being in the reference.
        """
        reference, named = set(reference), set(named)
        if not reference and not named:
            return self.weights.both_empty
        right, in_both, in_named = (
            sum(self._label_weights[name] for name in names)
            for names in (reference & named, reference, named)
        )
        return 2 * right / (in_both + in_named)

    def _cider(self, references: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        table = NgramTable([*references, *texts])
        counted = ReferenceNgrams(table, references, self._frequencies)
        rows = np.repeat(table.rows_of(references), len(texts) // len(references))
        return counted.score_pairs(rows, table.rows_of(texts))[1]


def _rouge(references: Sequence[str], texts: Sequence[str], k: int) -> np.ndarray:
    """ROUGE-L, (b, k)."""
    found = []
    for i, reference in enumerate(references):
        own = texts[i * k : (i + 1) * k]
        common = CommonSubsequences(own).lengths(reference)
        lengths = np.array([count_words(text) for text in own])
        found.append(rouge_l(common, count_words(reference) + np.zeros(k), lengths))
    return np.stack(found)


def named_abnormal(findings: Findings) -> frozenset[str]:
    """The abnormal observations that a report calls present."""
    return frozenset(name for name in ABNORMAL if findings.states[name] == "positive")


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """How much better each of a study's reports is than the mean of the others: (b, k) -> (b, k).

    The baseline does not depend on the report itself, so that the gradient has no bias; of the
    advantages of a study the sum is 0.
    """
    k = rewards.shape[1]
    advantages: np.ndarray = (rewards - rewards.mean(axis=1, keepdims=True)) * (k / (k - 1))
    return advantages
