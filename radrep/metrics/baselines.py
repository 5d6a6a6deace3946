"""Constant baselines: the one training report that scores best when it answers every study.

The search gives pycocoevalcap's values, whose scorers would need hours: what depends on the
references alone is computed once, and each candidate then meets all in a few operations.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radrep.errors import DataError
from radrep.metrics.ngrams import MAX_N, NgramTable, ReferenceNgrams
from radrep.metrics.nlg import corpus_bleu
from radrep.metrics.rouge import CommonSubsequences, count_words, rouge_l

SEARCHED_METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider")


@dataclass(frozen=True)
class Constant:
    """The best constant report for one metric, and its score."""

    report: str
    value: float


def best_constants(
    train_reports: Sequence[str],
    val_references: Sequence[str],
    metrics: Sequence[str] = ("bleu4", "cider", "rouge_l"),
    *,
    max_candidates: int = 5000,
) -> dict[str, Constant]:
    """Find the training report that scores best on validation when repeated for every study.

    Candidates are the most frequent cleaned training reports; of equal ones the most frequent
    wins. Metrics are of SEARCHED_METRICS: METEOR's program would need hours.
    """
    unknown = [metric for metric in metrics if metric not in SEARCHED_METRICS]
    if unknown:
        raise DataError(
            f"no constant baseline for {', '.join(unknown)}: choose from "
            f"{', '.join(SEARCHED_METRICS)}"
        )
    counts = Counter(" ".join(report.split()) for report in train_reports)
    counts.pop("", None)
    candidates = [report for report, _ in counts.most_common(max_candidates)]
    if not candidates:
        raise DataError("no training report with a word in it: there is no constant to try")
    references = [" ".join(reference.split()) for reference in val_references]
    if not any(references):
        raise DataError("no validation reference has a word: there is nothing to score against")

    values = _score_ngrams(candidates, references)
    values["rouge_l"] = _score_rouge(candidates, references)
    best = {metric: int(np.argmax(values[metric])) for metric in metrics}
    return {m: Constant(candidates[i], float(values[m][i])) for m, i in best.items()}


def _score_ngrams(candidates: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """BLEU and CIDEr of each candidate on all references, (m,) each."""
    table = NgramTable([*references, *candidates])
    rows, reference_rows = table.rows_of(candidates), table.rows_of(references)
    matches, cider = ReferenceNgrams(table, references).score_constants(rows)
    bleu = corpus_bleu(
        matches,
        len(references) * table.totals(rows),
        len(references) * table.lengths[rows],
        table.lengths[reference_rows].sum(),
    )
    return {f"bleu{n + 1}": bleu[:, n] for n in range(MAX_N)} | {"cider": cider}


def _score_rouge(candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Mean ROUGE-L of each candidate on all references, (m,); equal references meet it once."""
    counts = Counter(references)
    repeats = np.array(list(counts.values()))
    reference_lengths = np.array([count_words(text) for text in counts])
    subsequences = CommonSubsequences(list(counts))
    values = np.empty(len(candidates))
    for i, report in enumerate(candidates):
        found = rouge_l(subsequences.lengths(report), reference_lengths, count_words(report))
        values[i] = np.average(found, weights=repeats)
    return values
