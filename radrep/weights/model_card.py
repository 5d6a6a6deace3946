"""MODEL_CARD.md: data, training, scores and limits of a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radrep.build import label_source
from radrep.metrics.bootstrap import Interval
from radrep.metrics.classification import LabelScores
from radrep.metrics.names import FINDINGS_F1, METRICS
from radrep.metrics.scorecard import Scorecard, ScoreTable
from radrep.recipe.recipe import Recipe
from radrep.sections import target_name

MODEL_CARD = "MODEL_CARD.md"
_METRICS = ("bleu1", "bleu4", "meteor", "rouge_l", "cider")
_FINDINGS = ("14 micro f1", "14 macro f1", "5 micro f1", "side accuracy")
_NOT_CLINICAL = (
    "- **Not for clinical use.** It was never tested in care and must not be used for it."
)

_LIMITS = f"""## Limits

{_NOT_CLINICAL}
- Its reports use the language of its training reports and may name findings that are not present
  or omit findings that are.
- Word-overlap scores reward the most frequent sentences: compare them with the constant reports.
- Findings are labelled by radrep's own rules ("{FINDINGS_F1}"), not by radiologists.
- Its input is one or two radiographs of a study, {{context}}. It knows only
  the population, devices and reporting style of its training data.
"""


_DISCRIMINATOR_LIMITS = f"""## Limits

{_NOT_CLINICAL}
- Its labels come from a table or from rules applied to reports, not from radiologists who read the
  images.
- Its maps show the places that raise the score of a label. They do not localise lesions.
- Labels with few positive images are unreliable; the counts stand beside the scores.
"""


@dataclass(frozen=True)
class ReportEvaluation:
    """What a card shows of an evaluation of reports."""

    split: str
    ids_sha256: str
    decode: Mapping[str, Any]
    card: Scorecard


@dataclass(frozen=True)
class LabelEvaluation:
    """What a card shows of an evaluation of a discriminator."""

    split: str
    num_studies: int
    num_images: int
    scores: LabelScores


def describe_model(
    recipe: Recipe, evaluated: ReportEvaluation | LabelEvaluation | None, reached: str = ""
) -> str:
    """Write a model card in Markdown, before any evaluation with what training `reached`."""
    data, model = recipe.data, recipe.model
    labels = label_source(model)
    if labels is not None:
        aim = f", to predict the labels of their {labels[0]} (uncertain ones: {labels[1]})"
    else:
        aim = f", to write {target_name(data.target)}" if recipe.task == "train" else ""
    masked = ""
    if data.saliency is not None and data.images != "views":
        masked = f", and the frontal one under the mask of `{data.saliency.discriminator}`"
    views = "1 view" if data.images == "frontal+mask" else f"At most {data.max_views} views"
    lines = [
        f"# {recipe.out.name}",
        "",
        f"A chest X-ray model of radrep (`{model.name}`). **Not for clinical use.**",
        "",
        "## Data",
        "",
        f"- Trained on the training studies of the prepared folder `{data.prepared}`{aim}",
        f"- {views} per study{masked}, {data.image_size} x {data.image_size} pixels",
        *(f"- Starts from {source}" for source in _hub_revisions(model.model_dump())),
        f"- Seed {recipe.train.seed}; the checkpoint is the best in {recipe.train.monitor}",
        "",
        "## Scores",
        "",
    ]
    if evaluated is None:
        later = ["", "Not evaluated yet: `radrep eval` writes its scores here."]
        lines += [reached, *(later if recipe.task == "train" else ()), ""]
    elif isinstance(evaluated, LabelEvaluation):
        lines += _label_scores(evaluated)
    else:
        lines += _scores(evaluated)
    context = "without history and prior studies"
    if data.context:
        names = ", ".join(name.replace("_", " ") for name in data.context)
        context = f"and where they are known {names}"
    limits = _DISCRIMINATOR_LIMITS if labels else _LIMITS.format(context=context)
    return "\n".join(lines) + "\n" + limits


def _hub_revisions(section: Mapping[str, Any]) -> Iterator[str]:
    """The weights of model hubs that a section names with a revision."""
    if section.get("revision"):
        yield f"`{section['name']}` at revision `{section['revision']}`"
    for value in section.values():
        if isinstance(value, Mapping):
            yield from _hub_revisions(value)


def _label_scores(found: LabelEvaluation) -> list[str]:
    rows = [
        [row.name, str(row.num_known), str(row.num_present)]
        + [_cell(value) for value in (row.auroc, row.average_precision, row.f1)]
        for row in found.scores.rows
    ]
    head = f"Split `{found.split}`, {found.num_studies} studies with {found.num_images} images. "
    titles = ["label", "known", "present", "AUROC", "average precision", "F1"]
    return [f"{head}Thresholds were chosen on validation.", "", *_table(titles, rows), ""]


def _scores(found: ReportEvaluation) -> list[str]:
    used = {key: value for key, value in found.decode.items() if value is not None}
    if used.get("method") != "consensus":
        used.pop("consensus", None)
        if used["method"] != "select":
            used.pop("select", None)
    decode = [f"{key} {value}" for key, value in used.items()]
    lines = [
        f"Split `{found.split}`, {found.card.num_studies} studies (SHA-256 of their ids "
        f"`{found.ids_sha256}`); 95 % bootstrap intervals over studies.",
        f"Decoding: {', '.join(decode)}.",
        "",
    ]
    for scored in found.card.protocols:
        cut = f", {scored.num_cut} references cut" if scored.num_cut else ""
        tokenizer = f" by the tokenizer of {scored.tokenizer}" if scored.tokenizer else ""
        lines.append(f"Protocol `{scored.protocol}`{cut}{tokenizer}:")
        lines += ["", *_score_table(scored, _METRICS), ""]
    return [*lines, "Findings F1 (rules):", "", *_score_table(found.card.findings, _FINDINGS), ""]


def _score_table(scored: ScoreTable, metrics: tuple[str, ...]) -> list[str]:
    rows = [
        [system.name]
        + [_cell(system.scores.get(key), system.intervals.get(key)) for key in metrics]
        for system in scored.systems
    ]
    return _table(["system", *(METRICS[metric].title for metric in metrics)], rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return [head, "|---" * len(titles) + "|", *body]


def _cell(value: float | None, interval: Interval | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else "")
