"""BLEU, METEOR, ROUGE-L and CIDEr with pycocoevalcap's values, on whitespace tokens.

pycocoevalcap's METEOR program is run; its other scorers would count every reference again for every
system. Scores come with the statistics from which a bootstrap computes them for any sample.
"""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pycocoevalcap.meteor import meteor as meteor_wrapper

from radrep.errors import DataError
from radrep.metrics.names import TEXT, metric_names
from radrep.metrics.ngrams import MAX_N, NgramTable, ReferenceNgrams
from radrep.metrics.rouge import CommonSubsequences, count_words, rouge_l

METRICS = metric_names(TEXT)

# METEOR 1.5, task "rank", English: its defaults, which the COCO scorer uses (Denkowski and
# Lavie, 2014). Weights of the stages exact, stem, synonym, paraphrase.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_NUM_METEOR_COUNTS = 23

_JAVA_OPTIONS = ("_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")
_JAVA_CHATTER = ("Picked up ", "NOTE: Picked up ", "WARNING: ", "... ")
_JAVA_ERROR = re.compile(
    r"Exception|Error|could not|cannot|unable|too (small|large)|memory|unrecognized", re.I
)
_JAVA_LINES = 3


@dataclass(frozen=True)
class BleuCounts:
    """Statistics of corpus BLEU of n reports."""

    matches: np.ndarray  # clipped, of 1-grams to 4-grams, (n, 4)
    totals: np.ndarray  # n-grams of the generated reports, (n, 4)
    lengths: np.ndarray  # tokens of the generated reports, (n,)
    reference_lengths: np.ndarray  # (n,)


@dataclass(frozen=True)
class NlgScores:
    """Scores of n generated reports."""

    corpus: Mapping[str, float | None]  # by METRICS; "meteor" is None where it was not computed
    per_report: Mapping[str, np.ndarray]  # of "meteor" (where computed), "rouge_l", "cider", (n,)
    bleu_counts: BleuCounts
    meteor_counts: np.ndarray | None  # for `corpus_meteor`, (n, 23)
    notes: tuple[str, ...]  # such as why METEOR is missing

    def reference_facts(self) -> np.ndarray:
        """Lengths of the references, (n,)."""
        return self.bleu_counts.reference_lengths

    def statistics(self) -> np.ndarray:
        """BLEU matches (4), totals (4) and lengths (2), ROUGE-L, CIDEr, METEOR's 23 if computed."""
        values = [self.per_report["rouge_l"], self.per_report["cider"]]
        meteor = [] if self.meteor_counts is None else [self.meteor_counts]
        columns = [*vars(self.bleu_counts).values(), *values, *meteor]
        return np.column_stack(columns).astype(np.float64)

    def figures(self, sums: np.ndarray, num_studies: int) -> dict[str, np.ndarray]:
        """Corpus scores of s samples of num_studies reports, (s,) each, from summed statistics."""
        bleu = corpus_bleu(sums[:, 0:4], sums[:, 4:8], sums[:, 8], sums[:, 9])
        figures = {f"bleu{k + 1}": bleu[:, k] for k in range(MAX_N)}
        if sums.shape[1] > 12:
            figures["meteor"] = corpus_meteor(sums[:, 12:])
        return figures | {"rouge_l": sums[:, 10] / num_studies, "cider": sums[:, 11] / num_studies}

    def part(self, kept: np.ndarray) -> dict[str, float]:
        """Corpus scores of the reports in a mask, (n,), CIDEr with the frequencies of all."""
        sums = self.statistics()[kept].sum(axis=0, keepdims=True)
        return {name: float(v[0]) for name, v in self.figures(sums, int(kept.sum())).items()}


def score_nlg(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    meteor: Literal["auto", "skip"] = "auto",
) -> NlgScores:
    """Score one system as `score_systems` does."""
    return score_systems({"generated": (references, hypotheses)}, meteor=meteor)["generated"]


def score_systems(
    systems: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    *,
    meteor: Literal["auto", "skip"] = "auto",
) -> dict[str, NlgScores]:
    """Score several systems, or one under several protocols, with one start of Java.

    Tokens are what stands between white space, so casing and punctuation count: prepare both
    sides with `radrep.metrics.protocol`. CIDEr takes its document frequencies from the references.
    METEOR's program loads tables for 5 to 15 seconds, so score all systems, (references, reports)
    by name, together; "auto" notes why it does not run.
    """
    pairs = {name: _tokenise(name, *texts) for name, texts in systems.items()}
    flat = [pair for texts in pairs.values() for pair in zip(*texts, strict=True)]
    ends = np.cumsum([len(references) for references, _ in pairs.values()])
    meteor_counts: dict[str, np.ndarray] = {}
    notes = []
    if meteor == "auto":
        try:
            counts = _count_meteor(flat)
        except _MeteorUnavailableError as reason:
            notes.append(f"METEOR skipped: {reason}")
        else:
            meteor_counts = dict(zip(pairs, np.split(counts, ends[:-1]), strict=True))
    rouge_values = dict(zip(pairs, np.split(_score_rouge(flat), ends[:-1]), strict=True))
    table = NgramTable(text for pair in flat for text in pair)
    ngrams: dict[tuple[str, ...], ReferenceNgrams] = {}
    scores = {}
    for name, (references, hypotheses) in pairs.items():
        key = tuple(references)
        if key not in ngrams:
            ngrams[key] = ReferenceNgrams(table, references)
        counted = rouge_values[name], meteor_counts.get(name)
        scores[name] = _score(table, ngrams[key], references, hypotheses, *counted, notes)
    return scores


def corpus_bleu(
    matches: np.ndarray, totals: np.ndarray, lengths: np.ndarray, reference_lengths: np.ndarray
) -> np.ndarray:
    """BLEU-1 to BLEU-4, (..., 4), from the sums of `BleuCounts` over a corpus.

    Papineni et al., 2002, with the tiny constants by which pycocoevalcap avoids zero divisions.
    """
    precisions = (matches + 1e-15) / (totals + 1e-9)
    means = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, MAX_N + 1))
    ratios = (lengths + 1e-15) / (reference_lengths + 1e-9)
    brevity_penalty = np.exp(np.minimum(0.0, 1 - 1 / ratios))
    return means * brevity_penalty[..., np.newaxis]


def corpus_meteor(counts: np.ndarray) -> np.ndarray:
    """METEOR, (...), from its statistics of one report or summed over many, (..., 23).

    Denkowski and Lavie, 2014; in METEOR 1.5's order: lengths of hypothesis and reference,
    function words of both, then for each of four stages the matched content words and the matched
    function words of both, then chunks (0 for a perfect match) and matched words of both.
    """
    counts = np.asarray(counts, dtype=np.float64)
    words, function_words = counts[..., 0:2], counts[..., 2:4]  # (..., 2): hypothesis, reference
    stages = counts[..., 4:20].reshape(*counts.shape[:-1], 4, 2, 2)  # stage, kind, side
    chunks, matched_words = counts[..., 20], counts[..., 21:23]
    kinds = np.array([_DELTA, 1 - _DELTA])  # weights of content and function words
    weighted_matches = np.einsum("...skt,s,k->...t", stages, _STAGE_WEIGHTS, kinds)
    weighted_words = _DELTA * (words - function_words) + (1 - _DELTA) * function_words
    # No match scores 0; ones in the place of such rows keep the divisions below silent.
    matched = np.all(weighted_matches > 0, axis=-1)
    weighted_matches = np.where(matched[..., np.newaxis], weighted_matches, 1.0)
    weighted_words = np.where(matched[..., np.newaxis], weighted_words, 1.0)
    precision, recall = np.moveaxis(weighted_matches / weighted_words, -1, 0)
    f_mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    mean_matched_words = np.where(matched, matched_words.mean(axis=-1), 1.0)
    score = f_mean * (1 - _GAMMA * (chunks / mean_matched_words) ** _BETA)
    return np.where(matched, np.maximum(score, 0.0), 0.0)


def _tokenise(
    name: str, references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The texts of one system, checked, their tokens joined by single spaces."""
    if len(references) != len(hypotheses):
        raise DataError(
            f"{name}: {len(references)} references but {len(hypotheses)} generated reports; "
            "each study needs one of both"
        )
    if not references:
        raise DataError(f"{name}: no report to score; the split is empty")
    references = [" ".join(text.split()) for text in references]
    if not any(references):
        raise DataError(f"{name}: every reference is empty; there is nothing to score against")
    return references, [" ".join(text.split()) for text in hypotheses]


def _number_distinct(pairs: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The distinct pairs, and which of them each pair is, (n,)."""
    numbers = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    return list(numbers), np.array([numbers[pair] for pair in pairs])


def _score_rouge(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """ROUGE-L of every (reference, hypothesis), (n,)."""
    distinct, places = _number_distinct(pairs)
    of_references = {text: CommonSubsequences([text]) for text in {r for r, _ in distinct}}
    common = np.array([of_references[r].lengths(h)[0] for r, h in distinct])
    reference_lengths, lengths = np.array([(count_words(r), count_words(h)) for r, h in distinct]).T
    return rouge_l(common, reference_lengths, lengths)[places]


def _score(
    table: NgramTable,
    ngrams: ReferenceNgrams,
    references: Sequence[str],
    hypotheses: Sequence[str],
    rouge_values: np.ndarray,
    meteor_counts: np.ndarray | None,
    notes: Sequence[str],
) -> NlgScores:
    rows, own_rows = table.rows_of(references), table.rows_of(hypotheses)
    distinct, places = np.unique(np.stack([rows, own_rows]), axis=1, return_inverse=True)
    matches, cider = (found[places] for found in ngrams.score_pairs(*distinct))
    counts = BleuCounts(
        matches=matches,
        totals=table.totals(own_rows),
        lengths=table.lengths[own_rows],
        reference_lengths=table.lengths[rows],
    )
    bleu = corpus_bleu(*(values.sum(axis=0) for values in vars(counts).values()))
    per_report = {"rouge_l": rouge_values, "cider": cider}
    if meteor_counts is not None:
        per_report["meteor"] = corpus_meteor(meteor_counts)
    corpus: dict[str, float | None] = {
        **{f"bleu{k + 1}": float(bleu[k]) for k in range(MAX_N)},
        "meteor": None
        if meteor_counts is None
        else float(corpus_meteor(meteor_counts.sum(axis=0))),
        "rouge_l": float(rouge_values.mean()),
        "cider": float(cider.mean()),
    }
    if len(rouge_values) == 1:
        notes = [*notes, "CIDEr of a single study is always 0: its idf needs several studies"]
    return NlgScores(corpus, per_report, counts, meteor_counts, tuple(notes))


class _MeteorUnavailableError(Exception):
    """The reason."""


def _count_meteor(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Statistics of every (reference, hypothesis), (n, 23), from one run of METEOR's program.

    pycocoevalcap's own wrapper blocks when the program dies, and hides the statistics.
    """
    jar = Path(meteor_wrapper.__file__).with_name(meteor_wrapper.METEOR_JAR)
    command = ["java", "-jar", "-Xmx2G", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    pairs = [(_drop_separators(r), _drop_separators(h)) for r, h in pairs]
    distinct, places = _number_distinct(pairs)
    lines = [f"SCORE ||| {reference} ||| {hypothesis}\n" for reference, hypothesis in distinct]
    timeout_s = 300 + len(lines)
    try:
        done = subprocess.run(
            command,
            input="".join(lines),
            capture_output=True,
            cwd=jar.parent,  # it finds data/paraphrase-en.gz there
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
        )
    except FileNotFoundError:
        raise _MeteorUnavailableError(
            "no `java` on the PATH. It needs a Java runtime: `apt install default-jre-headless`, "
            "`conda install openjdk` or https://adoptium.net"
        ) from None
    except OSError as error:
        raise _MeteorUnavailableError(f"`java` cannot be started ({error})") from error
    except subprocess.TimeoutExpired:
        raise _MeteorUnavailableError(f"java did not answer in {timeout_s} s") from None
    # A Java virtual machine may write warnings of its own between the answers.
    fields = [line.split() for line in done.stdout.splitlines()]
    rows = [row for row in fields if len(row) == _NUM_METEOR_COUNTS]
    if done.returncode != 0 or len(rows) != len(lines):
        options = [f"{name}={os.environ[name]}" for name in _JAVA_OPTIONS if os.environ.get(name)]
        under = f", under {' '.join(options)}" if options else ""
        raise _MeteorUnavailableError(
            f"java ended with code {done.returncode} after {len(rows)} of {len(lines)} reports"
            f"{under}: {_java_reason(done.stderr, done.stdout)}. Test the runtime with "
            "`java -version`"
        )
    counts = np.array(rows, dtype=np.float64)
    # METEOR leaves the one chunk of a perfect match out of its sums and its penalty.
    stages = counts[:, 4:20].reshape(-1, 8, 2)
    perfect = np.all(stages.sum(axis=1) == counts[:, 0:2], axis=1) & (counts[:, 20] == 1)
    counts[perfect, 20] = 0
    return counts[places]


def _java_reason(*outputs: str) -> str:
    """The lines of Java's output that name its error: not the frames below it, nor its settings."""
    lines = [line.strip() for output in outputs for line in output.splitlines()]
    telling = [
        line
        for line in lines
        if line and not line.startswith("at ") and not line.startswith(_JAVA_CHATTER)
    ]
    named = [line for line in telling if _JAVA_ERROR.search(line)]
    return " / ".join(dict.fromkeys((named or telling[-1:])[:_JAVA_LINES])) or "it wrote nothing"


def _drop_separators(text: str) -> str:
    """The text without "|||", which separates fields; pycocoevalcap drops it as well."""
    return " ".join(text.replace("|||", "").split())
