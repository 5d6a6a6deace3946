"""How well each of some candidate reports would answer each training study.

A utility is CIDEr-D, with the document frequencies of the training reports, plus weighted ROUGE-L
and label F1 (`radrep.metrics.labeler`). It is linear in the weights, so its parts are kept apart.

Letters: n studies, m candidates.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radrep.metrics.labeler import OBSERVATIONS, label_reports
from radrep.metrics.labeler.scores import LABEL_SETS
from radrep.metrics.ngrams import NgramTable, ReferenceNgrams
from radrep.metrics.rouge import CommonSubsequences, count_words, rouge_l

PARTS = ("cider", "rouge", "labels")
# Two reports without a finding agree, but less than two with the same one: at 1, calling every
# study normal would earn more than any attempt to name what is there.
BOTH_NORMAL = 0.3


@dataclass(frozen=True)
class Pool:
    """Candidate reports, the most frequent first, and of which study each is the own one."""

    reports: tuple[str, ...]
    only_holder: np.ndarray  # the one study with this report, -1 where several have it, (m,)


def build_pool(reports: Sequence[str], size: int) -> Pool:
    """The most frequent distinct ones of cleaned training reports; of equal ones the first."""
    counts = Counter(filter(None, reports))
    chosen = [report for report, _ in counts.most_common(size)]
    first = {report: i for i, report in reversed(list(enumerate(reports)))}
    holders = [first[report] if counts[report] == 1 else -1 for report in chosen]
    return Pool(tuple(chosen), np.array(holders, dtype=np.int64))


def utility_parts(reports: Sequence[str], pool: Pool) -> np.ndarray:
    """The utilities of a pool for the studies that have these cleaned reports, (3, n, m).

    Order of the parts: PARTS. A study's own report, where no other has it, counts as it does for
    the other studies on average: it will not be there for a new study.
    """
    parts = np.stack(
        [
            _cider(reports, pool.reports),
            _rouge(reports, pool.reports),
            _label_f1(reports, pool.reports),
        ]
    )
    own = np.flatnonzero(pool.only_holder >= 0)
    if len(reports) > 1:
        of_own = parts[:, pool.only_holder[own], own]
        others = (parts[:, :, own].sum(axis=1) - of_own) / (len(reports) - 1)
        parts[:, pool.only_holder[own], own] = others
    return parts


def _cider(reports: Sequence[str], candidates: Sequence[str]) -> np.ndarray:
    table = NgramTable([*reports, *candidates])
    return ReferenceNgrams(table, reports).score_table(table.rows_of(candidates))


def _rouge(reports: Sequence[str], candidates: Sequence[str]) -> np.ndarray:
    distinct, places = np.unique(reports, return_inverse=True)
    lengths = np.array([count_words(text) for text in distinct])
    subsequences = CommonSubsequences(distinct.tolist())
    columns = [rouge_l(subsequences.lengths(c), lengths, count_words(c)) for c in candidates]
    return np.stack(columns, axis=1)[places]


def _label_f1(reports: Sequence[str], candidates: Sequence[str]) -> np.ndarray:
    """F1 of the 13 observations without No Finding that each pair calls positive."""
    return f1_of_positives(positive_labels(reports), positive_labels(candidates))


def f1_of_positives(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """F1 of each pair of label sets, 0 or 1, (n, l) and (m, l) -> (n, m)."""
    in_both = theirs @ ours.T
    in_either = theirs.sum(axis=1)[:, None] + ours.sum(axis=1)
    return np.where(in_either == 0, BOTH_NORMAL, 2 * in_both / np.maximum(in_either, 1))


def positive_labels(reports: Sequence[str]) -> np.ndarray:
    """Which of `ABNORMAL` each report calls positive, 0 or 1, (n, 13)."""
    names = [OBSERVATIONS[i] for i in LABEL_SETS["13"]]
    found = label_reports(list(reports))
    return np.array([[f.states[n] == "positive" for n in names] for f in found], dtype=np.float64)
