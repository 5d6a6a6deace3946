"""Clinical metrics of the RadEval package (Xu et al., EMNLP 2025 demonstrations), on demand.

They run models whose weights come from the Hugging Face hub. RadEval and each metric are loaded
only when asked for; what cannot be loaded costs a line, never another metric.
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
# scikit-learn that changed before 1.8, the oldest it takes (issues/29). Both are mended in its
# repository.
_MENDED = (
    "RadEval from its repository instead of its release 2.2.1: "
    "pip install git+https://github.com/jbdel/RadEval"
)
_MAX_REASON = 120  # characters of an error: the hub's run over many lines


@dataclass(frozen=True)
class ClinicalMetric:
    """A metric as RadEval offers it.

    Attributes:
        radeval_name: What RadEval calls it.
        needs: What must be there to compute it, in words for the user.
        paper: Where it is defined.
        of_reports: Whether each report has a value, whose mean is the score; otherwise the score
            is of all reports together.
        lower_is_better: Whether it counts errors.
    """

    radeval_name: str
    needs: str
    paper: str
    of_reports: bool = True
    lower_is_better: bool = False


CLINICAL_METRICS: Mapping[str, ClinicalMetric] = {
    "bertscore": ClinicalMetric(
        "bertscore",
        # Layer 5, rescaled: not comparable with BERTScore on another model.
        needs="the weights distilbert-base-uncased from the Hugging Face hub",
        paper="Zhang et al., ICLR 2020",
    ),
    "chexbert": ClinicalMetric(
        "f1chexbert",
        needs=(
            "the weights StanfordAIMI/RRG_scorers (chexbert.pth) and the tokenizer "
            f"bert-base-uncased from the Hugging Face hub, an NVIDIA GPU, and {_MENDED}"
        ),
        paper="Smit et al., EMNLP 2020",
        of_reports=False,
    ),
    "radgraph": ClinicalMetric(
        "radgraph",
        needs=(
            "the weights StanfordAIMI/RRG_scorers (radgraph-xl.tar.gz) and the encoder they name "
            f"from the Hugging Face hub, and {_MENDED}"
        ),
        paper="Delbrouck et al., Findings of EMNLP 2022",
    ),
    "radcliq": ClinicalMetric(
        "radcliq",
        needs=(
            "the weights StanfordAIMI/RRG_scorers (radgraph.tar.gz, chexbert.pth), the encoder "
            "they name, bert-base-uncased and distilroberta-base from the Hugging Face hub, and "
            f"{_MENDED}"
        ),
        paper="Yu et al., Patterns 2023 (RadCliQ-v1)",
        lower_is_better=True,
    ),
    "green": ClinicalMetric(
        "green",
        needs=(
            "the weights StanfordAIMI/GREEN-radllama2-7b from the Hugging Face hub, which bring "
            "code that is run, and memory for 7 billion parameters: 14 GB on a GPU, 28 GB on a CPU"
        ),
        paper="Ostmeier et al., Findings of EMNLP 2024",
    ),
}


@dataclass(frozen=True)
class ClinicalScores:
    """Scores of n generated reports by the clinical metrics that could be computed.

    Attributes:
        values: Scores by RadEval's own names, several for some metrics (such as
            "radgraph_partial"). "radcliq_v1" is the mean over the reports, lower is better;
            RadEval itself prints its inverse.
        per_report: Values of single reports, (n,), under the same names, where the metric has
            them: CheXbert's F1 is of all reports together.
        notes: A line for each metric that was not computed: why, and what it needs.
    """

    values: Mapping[str, float]
    per_report: Mapping[str, np.ndarray]
    notes: tuple[str, ...]


def check_clinical_metrics(metrics: Sequence[str]) -> None:
    """Check names before the work of minutes that they are asked for after.

    Raises:
        DataError: If one is not in `CLINICAL_METRICS`.
    """
    if unknown := [name for name in metrics if name not in CLINICAL_METRICS]:
        raise DataError(
            f"no clinical metric {', '.join(unknown)}: choose from {', '.join(CLINICAL_METRICS)}"
        )


def score_clinical(
    references: Sequence[str], hypotheses: Sequence[str], metrics: Sequence[str]
) -> ClinicalScores:
    """Score generated reports with the metrics asked for, as far as they can be loaded here.

    Where the hub does not answer, or HF_HUB_OFFLINE is set, weights come from the hub's cache
    only, at once.

    Args:
        references: Reference reports.
        hypotheses: Generated reports, in the same order.
        metrics: Names out of `CLINICAL_METRICS`.

    Raises:
        DataError: If a metric is unknown, there is no report, or a reference lacks its report.
    """
    check_clinical_metrics(metrics)
    if len(references) != len(hypotheses):
        raise DataError(
            f"{len(references)} references but {len(hypotheses)} generated reports: "
            "each study needs one of both"
        )
    if not references:
        raise DataError("no report to score: the split is empty")
    names = list(dict.fromkeys(metrics))
    try:
        with _apart():
            importlib.import_module("radeval")
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "radeval"
        reason = _INSTALL if absent else f"RadEval cannot be imported ({_shorten(error)})"
        return ClinicalScores({}, {}, tuple(f"{name}: {reason}" for name in names))

    values: dict[str, float] = {}
    per_report: dict[str, np.ndarray] = {}
    notes = []
    with _hub_without_waiting() as advice:
        for name in names:
            metric = CLINICAL_METRICS[name]
            try:
                with _apart():
                    found = _compute(metric, list(references), list(hypotheses))
            except Exception as error:  # of the hub, torch, RadEval: all mean "not this one"
                notes.append(
                    f"{name}: not computed ({_shorten(error)}). It needs {metric.needs}{advice}"
                )
                continue
            values |= {key: float(figures.mean()) for key, figures in found.items()}
            if metric.of_reports:
                per_report |= found
    return ClinicalScores(values, per_report, tuple(notes))


def _compute(
    metric: ClinicalMetric, references: list[str], hypotheses: list[str]
) -> dict[str, np.ndarray]:
    """Run one metric.

    Returns:
        Values by RadEval's names: (n,) where reports have them, otherwise ().

    Raises:
        Exception: Whatever RadEval and what it loads raise.
        ValueError: If a figure is missing.
    """
    evaluator = importlib.import_module("radeval").RadEval(
        metrics=[metric.radeval_name],
        per_sample=metric.of_reports,
        detailed=not metric.of_reports,  # for figures that are not rounded
        show_progress=False,
    )
    results = evaluator(refs=references, hyps=hypotheses)
    found = {
        key: np.asarray(figures, dtype=np.float64)
        for key, figures in results.items()
        if not isinstance(figures, Mapping)  # F1 by label
    }
    shape = (len(references),) if metric.of_reports else ()
    for key, figures in found.items():
        if figures.shape != shape or not np.isfinite(figures).all():
            expected = f"{len(references)} numbers" if metric.of_reports else "a number"
            raise ValueError(f"RadEval gave no {expected} for {key}")
    if not found:
        raise ValueError("RadEval gave nothing")
    return found


@contextmanager
def _apart() -> Iterator[None]:
    """Keep what RadEval does to warnings and to standard output from everybody else."""
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _hub_without_waiting() -> Iterator[str]:
    """Hold the hub's client offline while the hub does not answer.

    The client would ask again and again for each file that its cache lacks, with growing pauses:
    four minutes for CheXbert alone.

    Yields:
        What to do about the hub, to end a note with.
    """
    # With RadEval, transformers is there, and its hub client.
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    if was_offline:
        advice = ". HF_HUB_OFFLINE is set: run once without it, then the weights are kept"
    elif not _hub_answers():
        advice = f". {constants.ENDPOINT} does not answer: bring the hub's cache from elsewhere"
        constants.HF_HUB_OFFLINE = True
    else:
        advice = ""
    try:
        yield advice
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _hub_answers() -> bool:
    """Whether the hub answers: neither it nor a proxy before it fails."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        answer = get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # of the HTTP library, another one in each version of the client
        return False
    return answer.status_code < 500


def _shorten(error: Exception) -> str:
    """The error in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 3] + "..."
