"""Names of what an evaluation measures, and of the controls that it compares a model with.

Recipes, scores, pages, model cards and the terminal read them. Imports nothing, since recipes do.
A new metric is a row here, computed in nlg.py (TEXT), labeler/scores.py (FINDINGS; its column is
in viz/html/page.py), classification.py (LABELS) or models/contrastive.py (RETRIEVAL). Its interval
needs it among the statistics and figures there. RadEval's metrics are in radeval.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TEXT, FINDINGS, LABELS, RETRIEVAL, LOSS = "text", "findings", "labels", "retrieval", "loss"
FINDINGS_F1 = "findings F1 (rules)"  # never CheXbert F1


@dataclass(frozen=True)
class Metric:
    """A metric.

    Protocols: TEXT on whitespace tokens (`radrep.metrics.protocol`), FINDINGS by the rule labeller,
    LABELS on a discriminator's probabilities, RETRIEVAL on paired embeddings, LOSS in training.
    """

    name: str  # key in scores files and, after "val/", in recipes
    title: str  # as papers and pages write it
    protocol: str
    higher_is_better: bool = True
    decimals: int = 3  # shown


@dataclass(frozen=True)
class Control:
    """A system that a model is compared with."""

    name: str  # of the system in scores files
    title: str  # on pages
    of_model: bool  # whether the model under test writes its reports, from other inputs


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *(Metric(f"bleu{n}", f"BLEU-{n}", TEXT) for n in (1, 2, 3, 4)),
        Metric("meteor", "METEOR", TEXT),
        Metric("rouge_l", "ROUGE-L", TEXT),
        Metric("cider", "CIDEr", TEXT),
        # 14 observations, 13 without No Finding, or the 5 of the CheXpert competition.
        Metric("14 micro f1", "micro F1-14", FINDINGS),
        Metric("14 macro f1", "macro F1-14", FINDINGS),
        Metric("14 by report f1", "F1-14 by report", FINDINGS),
        Metric("13 micro f1", "micro F1-13", FINDINGS),
        Metric("13 macro f1", "macro F1-13", FINDINGS),
        Metric("13 with side micro f1", "micro F1-13 with side", FINDINGS),
        Metric("5 micro f1", "micro F1-5", FINDINGS),
        Metric("5 macro f1", "macro F1-5", FINDINGS),
        Metric("side accuracy", "side accuracy", FINDINGS),
        Metric("auroc", "AUROC", LABELS),
        Metric("average_precision", "average precision", LABELS),
        Metric("brier", "Brier score", LABELS, higher_is_better=False),
        Metric("calibration_error", "calibration error", LABELS, higher_is_better=False),
        Metric("f1", "F1", LABELS),
        Metric("precision", "precision", LABELS),
        Metric("recall", "recall", LABELS),
        *(
            Metric(f"{direction}_r{k}", f"{direction.replace('_', ' ')} R@{k}", RETRIEVAL)
            for direction in ("image_to_text", "text_to_image")
            for k in (1, 5, 10)
        ),
        Metric("loss", "loss", LOSS, higher_is_better=False),
    )
}

MODEL = "model"  # the one run that an evaluation is of
SHUFFLED = Control("shuffled control", "Shuffled control", of_model=True)
BLANK = Control("blank-image control", "Blank-image control", of_model=True)
# Of a model that reads context, see `radrep.evaluation.controls`.
OTHER_CONTEXT = Control("context of another study", "Context of another study", of_model=True)
NO_CONTEXT = Control("without context", "Without context", of_model=True)
NEAREST = Control("nearest neighbour", "Nearest neighbour", of_model=False)
SELECTION = Control("selection", "Expected-utility selection", of_model=False)
# The same from histogram and spectra of the grey levels, which show no anatomy.
FILM = Control("film statistics", "Selection by film statistics alone", of_model=False)
CONSTANTS = tuple(
    Control(f"constant, best {metric}", f"Constant report, best {METRICS[metric].title}", False)
    for metric in ("bleu4", "cider", "rouge_l")
)
CONTROLS: Mapping[str, Control] = {
    control.name: control
    for control in (
        *(SHUFFLED, BLANK, OTHER_CONTEXT, NO_CONTEXT),
        *(NEAREST, SELECTION, FILM, *CONSTANTS),
    )
}


def metric_names(protocol: str) -> tuple[str, ...]:
    """The metrics scored in one way, in the order of the table."""
    return tuple(name for name, metric in METRICS.items() if metric.protocol == protocol)
