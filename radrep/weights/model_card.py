"""MODEL_CARD.md: data, training, scores and limits of a model."""

from collections.abc import Iterator, Mapping
from typing import Any

from radrep.build import label_source
from radrep.metrics.names import FINDINGS_F1, METRICS
from radrep.recipe.recipe import Recipe

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
- Its input is one or two radiographs of a study, without history and prior studies. It knows only
  the population, devices and reporting style of its training data.
"""


_DISCRIMINATOR_LIMITS = f"""## Limits

{_NOT_CLINICAL}
- Its labels come from a table or from rules applied to reports, not from radiologists who read the
  images.
- Its maps show the places that raise the score of a label. They do not localise lesions.
- Labels with few positive images are unreliable; the counts stand beside the scores.
"""


def describe_model(recipe: Recipe, scores: Mapping[str, Any] | None, reached: str = "") -> str:
    """Write a model card in Markdown.

    Args:
        recipe: The recipe of its run.
        scores: Content of scores-<split>.json; None before any evaluation.
        reached: The best validation score of training, shown before any evaluation.
    """
    data, model = recipe.data, recipe.model
    labels = label_source(model)
    if labels is not None:
        aim = f", to predict the labels of their {labels[0]} (uncertain ones: {labels[1]})"
    else:
        aim = f", to write {data.target}" if recipe.task == "train" else ""
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
    if scores is None:
        lines.append(reached)
        if recipe.task == "train":
            lines += ["", "Not evaluated yet: `radrep eval` writes its scores here."]
        lines.append("")
    else:
        lines += _label_scores(scores) if labels else _scores(scores)
    return "\n".join(lines) + "\n" + (_DISCRIMINATOR_LIMITS if labels else _LIMITS)


def _hub_revisions(section: Mapping[str, Any]) -> Iterator[str]:
    """The weights of model hubs that a section names with a revision."""
    if section.get("revision"):
        yield f"`{section['name']}` at revision `{section['revision']}`"
    for value in section.values():
        if isinstance(value, Mapping):
            yield from _hub_revisions(value)


def _label_scores(scores: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Split `{scores['split']}`, {scores['num_studies']} studies with "
        f"{scores['num_images']} images. Thresholds were chosen on validation.",
        "",
        "| label | known | present | AUROC | average precision | F1 |",
        "|---|---|---|---|---|---|",
    ]
    for row in scores["labels"]:
        figures = [row[name] for name in ("auroc", "average_precision", "f1")]
        shown = ["-" if value is None else f"{value:.3f}" for value in figures]
        counts = [str(row["num_known"]), str(row["num_present"])]
        lines.append(f"| {' | '.join([row['name'], *counts, *shown])} |")
    return [*lines, ""]


def _scores(scores: Mapping[str, Any]) -> list[str]:
    decode = [f"{key} {value}" for key, value in scores["decode"].items() if value is not None]
    lines = [
        f"Split `{scores['split']}`, {scores['num_studies']} studies (SHA-256 of their ids "
        f"`{scores['ids_sha256']}`); 95 % bootstrap intervals over studies.",
        f"Decoding: {', '.join(decode)}.",
        "",
    ]
    for protocol, scored in scores["protocols"].items():
        cut = scored["references_cut"]
        cut_text = f", {cut} references cut" if cut else ""
        tokenizer = f" by the tokenizer of {scored['tokenizer']}" if scored["tokenizer"] else ""
        lines += [f"Protocol `{protocol}`{cut_text}{tokenizer}:", "", *_table(scored, _METRICS), ""]
    return [*lines, "Findings F1 (rules):", "", *_table(scores["findings"], _FINDINGS), ""]


def _table(scored: Mapping[str, Any], metrics: tuple[str, ...]) -> list[str]:
    titles = [METRICS[metric].title for metric in metrics]
    lines = [f"| system | {' | '.join(titles)} |", "|---" * (len(metrics) + 1) + "|"]
    for system in scored["systems"]:
        cells = [
            _cell(system["scores"].get(metric), system["intervals"].get(metric))
            for metric in metrics
        ]
        lines.append(f"| {system['name']} | {' | '.join(cells)} |")
    return lines


def _cell(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
