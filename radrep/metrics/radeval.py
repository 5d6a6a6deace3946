"""Model-based clinical metrics of the RadEval package (Xu et al., EMNLP 2025 demonstrations).

Their models' weights come from the Hugging Face hub. RadEval and each metric are loaded on demand;
a metric that cannot be loaded is left out with a note.
"""

import importlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import numpy as np

from radrep.errors import DataError

_INSTALL = "needs pip install 'radrep[clinical]'"
# Release 2.2.1 imports RadGraph under a name that a case-sensitive file system does not find
# (github.com/jbdel/RadEval/issues/27), and counts CheXbert's labels with a private function of
# scikit-learn that changed before 1.8, the oldest it takes (issues/29).
_FIXED = (
    "RadEval from its repository instead of its release 2.2.1: "
    "pip install git+https://github.com/jbdel/RadEval"
)
_MAX_REASON = 120  # characters of an error: the hub's run over many lines


@dataclass(frozen=True)
class ClinicalMetric:
    """A metric as RadEval offers it."""

    radeval_name: str
    needs: str  # requirements, for the user
    per_report: bool = True  # else the score is of all reports together


CLINICAL_METRICS: Mapping[str, ClinicalMetric] = {
    # Zhang et al., ICLR 2020; layer 5, rescaled: not comparable with BERTScore on another model.
    "bertscore": ClinicalMetric(
        "bertscore", "the weights distilbert-base-uncased from the Hugging Face hub"
    ),
    # Smit et al., EMNLP 2020
    "chexbert": ClinicalMetric(
        "f1chexbert",
        "the weights StanfordAIMI/RRG_scorers (chexbert.pth) and the tokenizer bert-base-uncased "
        f"from the Hugging Face hub, an NVIDIA GPU, and {_FIXED}",
        per_report=False,
    ),
    # Delbrouck et al., Findings of EMNLP 2022
    "radgraph": ClinicalMetric(
        "radgraph",
        "the weights StanfordAIMI/RRG_scorers (radgraph-xl.tar.gz) and the encoder they name from "
        f"the Hugging Face hub, and {_FIXED}",
    ),
    # Yu et al., Patterns 2023 (RadCliQ-v1); counts errors, so lower is better
    "radcliq": ClinicalMetric(
        "radcliq",
        "the weights StanfordAIMI/RRG_scorers (radgraph.tar.gz, chexbert.pth), the encoder they "
        "name, bert-base-uncased and distilroberta-base from the Hugging Face hub, and "
        f"{_FIXED}",
    ),
    # Ostmeier et al., Findings of EMNLP 2024
    "green": ClinicalMetric(
        "green",
        "the weights StanfordAIMI/GREEN-radllama2-7b from the Hugging Face hub, which run code of "
        "their own, and memory for 7 billion parameters: 14 GB on a GPU, 28 GB on a CPU",
    ),
}


@dataclass(frozen=True)
class ClinicalScores:
    """Scores of n generated reports."""

    values: Mapping[str, float]  # by RadEval's names; of radcliq_v1, lower is better
    per_report: Mapping[str, np.ndarray]  # (n,), where the metric has them
    notes: tuple[str, ...]  # why a metric was not computed, and its requirements


def check_clinical_metrics(metrics: Sequence[str]) -> None:
    """Raise DataError early for names that are not in `CLINICAL_METRICS`."""
    if unknown := [name for name in metrics if name not in CLINICAL_METRICS]:
        raise DataError(
            f"no clinical metric {', '.join(unknown)}: choose from {', '.join(CLINICAL_METRICS)}"
        )


def score_clinical(
    references: Sequence[str], hypotheses: Sequence[str], metrics: Sequence[str]
) -> ClinicalScores:
    """Score generated reports, one per reference, with the `CLINICAL_METRICS` that can load."""
    check_clinical_metrics(metrics)
    names = list(dict.fromkeys(metrics))
    if reason := _unavailable():
        return ClinicalScores({}, {}, tuple(f"{name}: {reason}" for name in names))
    values: dict[str, float] = {}
    per_report: dict[str, np.ndarray] = {}
    notes = []
    for name in names:
        metric = CLINICAL_METRICS[name]
        try:
            with _isolated():
                found = _compute(metric, list(references), list(hypotheses))
        except Exception as error:  # of the hub, torch, RadEval: all mean "not this one"
            notes.append(f"{name}: not computed ({_shorten(error)}). It needs {metric.needs}")
            continue
        values |= {key: float(figures.mean()) for key, figures in found.items()}
        if metric.per_report:
            per_report |= found
    return ClinicalScores(values, per_report, tuple(notes))


def _compute(
    metric: ClinicalMetric, references: list[str], hypotheses: list[str]
) -> dict[str, np.ndarray]:
    """Values by RadEval's names: (n,) where reports have them, otherwise ()."""
    evaluator = importlib.import_module("radeval").RadEval(
        metrics=[metric.radeval_name],
        per_sample=metric.per_report,
        detailed=not metric.per_report,  # unrounded
        show_progress=False,
    )
    results = evaluator(refs=references, hyps=hypotheses)
    found = {
        key: np.asarray(figures, dtype=np.float64)
        for key, figures in results.items()
        if not isinstance(figures, Mapping)  # F1 by label
    }
    shape = (len(references),) if metric.per_report else ()
    for key, figures in found.items():
        if figures.shape != shape or not np.isfinite(figures).all():
            expected = f"{len(references)} numbers" if metric.per_report else "a number"
            raise ValueError(f"RadEval gave no {expected} for {key}")
    if not found:
        raise ValueError("RadEval gave nothing")
    return found


def _unavailable() -> str:
    """Why no metric can be computed; "" if RadEval is installed and weights can be had.

    The hub's client retries each file that its cache lacks with growing pauses, four minutes for
    CheXbert alone, so a hub that does not answer is found here.
    """
    try:
        with _isolated():
            importlib.import_module("radeval")
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "radeval"
        return _INSTALL if absent else f"RadEval cannot be imported ({_shorten(error)})"
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return ""
    try:
        answer = get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        failed = answer.status_code >= 500  # also of a proxy before it
    except Exception:  # of the HTTP library, another one in each version of the client
        failed = True
    advice = "with the weights in its cache, set HF_HUB_OFFLINE=1"
    return f"{constants.ENDPOINT} does not answer; {advice}" if failed else ""


@contextmanager
def _isolated() -> Iterator[None]:
    """Keep RadEval's warning filters and its output on stdout from the caller."""
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


def _shorten(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 3] + "..."
