"""MODEL_CARD.md: what a model was made from, what it scores and what it is not for."""

from collections.abc import Mapping
from typing import Any

from radrep.build import label_source
from radrep.recipe.schema import Recipe

MODEL_CARD = "MODEL_CARD.md"
_METRICS = ("bleu1", "bleu4", "meteor", "rouge_l", "cider")
_FINDINGS = ("14 micro f1", "14 macro f1", "5 micro f1", "side accuracy")

_LIMITS = """## Limits

- **Not for clinical use.** It was never tested on patients' care, and nobody may be treated by it.
- Its reports are made of the language of its training reports and may name findings that are not
  there or leave out findings that are.
- Scores of word overlap reward the commonest sentences: read them beside the constant reports.
- Findings are told by radrep's own rules ("findings F1 (rules)"), not by radiologists.
- It knows one or two chest films of a study, no history and no earlier films, and only the
  population, machines and habits of reporting of its training data.
"""


_DISCRIMINATOR_LIMITS = """## Limits

- **Not for clinical use.** It was never tested on patients' care, and nobody may be treated by it.
- Its labels are those of a table or of rules that read reports, not of radiologists at the films.
- Its maps show the places that speak for a label. They outline no lesion.
- Labels that few images show are guessed; the counts stand beside the scores.
"""


def describe_model(recipe: Recipe, scores: Mapping[str, Any] | None, reached: str = "") -> str:
    """Write a model card.

    Args:
        recipe: What the model was trained by.
        scores: Content of scores-<split>.json; None before any evaluation.
        reached: What validation found during training, where nothing else is known.

    Returns:
        Markdown.
    """
    data, model = recipe.data, recipe.model
    labels = label_source(model)
    if labels is not None:
        aim = f", to tell the labels of their {labels[0]} (uncertain ones: {labels[1]})"
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
        f"- {views} a study{masked}, {data.image_size} x {data.image_size} pixels",
        f"- Seed {recipe.train.seed}; the checkpoint is the best in {recipe.train.monitor}",
        "",
        "## Scores",
        "",
    ]
    if scores is None:
        lines.append(reached)
        if recipe.task == "train":
            lines += ["", "Not evaluated yet: `radrep eval` puts its scores here."]
        lines.append("")
    else:
        lines += _label_scores(scores) if labels else _scores(scores)
    return "\n".join(lines) + "\n" + (_DISCRIMINATOR_LIMITS if labels else _LIMITS)


def _label_scores(scores: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Split `{scores['split']}`, {scores['num_studies']} studies, an image a row "
        f"({scores['num_images']}). Validation chose the thresholds.",
        "",
        "| label | known | present | AUROC | average precision | F1 |",
        "|---|---|---|---|---|---|",
    ]
    for row in scores["labels"]:
        figures = [row[name] for name in ("auroc", "average_precision", "f1")]
        told = ["-" if value is None else f"{value:.3f}" for value in figures]
        counts = [str(row["num_known"]), str(row["num_present"])]
        lines.append(f"| {' | '.join([row['name'], *counts, *told])} |")
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
        told = f", {cut} references cut" if cut else ""
        tokenizer = f" by the tokenizer of {scored['tokenizer']}" if scored["tokenizer"] else ""
        lines += [f"Protocol `{protocol}`{told}{tokenizer}:", "", *_table(scored, _METRICS), ""]
    return [*lines, "Findings F1 (rules):", "", *_table(scores["findings"], _FINDINGS), ""]


def _table(scored: Mapping[str, Any], metrics: tuple[str, ...]) -> list[str]:
    lines = [f"| system | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
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
