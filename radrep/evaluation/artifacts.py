"""The files of an evaluation: scores, predictions, the page, the model card."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from radrep.atomic import atomic_write_text, locked, make_folder
from radrep.errors import CheckpointError
from radrep.evaluation.page_studies import page_studies
from radrep.evaluation.result import EvalResult
from radrep.json_text import load_json
from radrep.recipe.load import dump_recipe
from radrep.recipe.training import Decode
from radrep.sections import split_sections, target_name
from radrep.viz.html.page import Page, render_page
from radrep.weights.checkpoint import Loaded
from radrep.weights.model_card import MODEL_CARD, ReportEvaluation, describe_model
from radrep.weights.run_folder import ENVIRONMENT, WEIGHTS, run_dir


def write_evaluation(result: EvalResult, loaded: Loaded | None) -> None:
    """Write the files that `EvalResult` names, and MODEL_CARD.md for a run."""
    make_folder(result.out)
    # Of two evaluations at a time one writes behind the other.
    with locked(result.out / ".evaluation.lock"):
        _write_files(result, loaded)


def _write_files(result: EvalResult, loaded: Loaded | None) -> None:
    # An interrupted evaluation leaves no scores of other reports than those beside them.
    result.scores_file.unlink(missing_ok=True)
    studies, keys = result.studies, ("id", "reference", "generated")
    rows = zip(studies.ids, studies.corpus.references, result.predictions, strict=True)
    written: list[dict[str, Any]] = [dict(zip(keys, row, strict=True)) for row in rows]
    if result.sections:
        for row in written:
            for key in keys[1:]:
                parts = split_sections(row[key])
                row |= {f"{key}_{section}": text for section, text in parts.items()}
    for row, own in zip(written, result.written, strict=False):  # empty where several runs are
        row["source"] = own.source
        if own.sentences:
            sentences = [asdict(sentence) for sentence in own.by_section(studies.target)]
            row |= {"sentences": sentences, "removed": own.removed}
    lines = [json.dumps(row, ensure_ascii=False) for row in written]
    atomic_write_text(result.predictions_file, "".join(f"{line}\n" for line in lines))
    text = json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n"
    atomic_write_text(result.scores_file, text)
    if loaded is not None:
        evaluated = ReportEvaluation(studies.split, studies.ids_sha256, result.decode, result.card)
        atomic_write_text(result.out / MODEL_CARD, describe_model(loaded.recipe, evaluated))
    atomic_write_text(result.page_file, render_page(make_page(result, loaded)))


def read_reports(
    out: Path, split: str, *, checkpoint: Path, weights: Sequence[Path], decode: Decode
) -> dict[str, str]:
    """Generated reports by id of an earlier evaluation in a folder.

    None are returned unless it was of this checkpoint (or folder of folds), decoded as now, and
    after all the `weights`, folders of checkpoints, were written.
    """
    scores, file = out / f"scores-{split}.json", out / f"predictions-{split}.jsonl"
    if not (scores.is_file() and file.is_file()):
        return {}
    try:
        text = scores.read_text(encoding="utf-8")
        saved = load_json(text)
        newest = max((folder / WEIGHTS).stat().st_mtime for folder in weights)
        made = saved["checkpoint"], saved["decode"]
        if scores.stat().st_mtime < newest or made != (str(checkpoint), decode.model_dump()):
            return {}
        # Not at other breaks, such as U+2028, which a report may have.
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
        rows = [load_json(line) for line in lines]
        reports = {row["id"]: row["generated"] for row in rows}
        same = scores.read_text(encoding="utf-8") == text
    # Files that are broken, or that another evaluation writes at this moment.
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return reports if same else {}


def _read_environment(file: Path) -> dict[str, Any]:
    try:
        environment = load_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; remove it to go without") from error
    if not isinstance(environment, dict):
        raise CheckpointError(f"{file} holds no versions by name; remove it to go without")
    return environment


def make_page(result: EvalResult, loaded: Loaded | None) -> Page:
    """The content of the page; heatmaps and provenance come from the checkpoint."""
    environment: dict[str, Any] = {}
    if loaded is not None and (file := run_dir(loaded.folder) / ENVIRONMENT).is_file():
        environment = _read_environment(file)
    studies = result.studies
    return Page(
        title=result.out.resolve().name,
        split=studies.split,
        target=target_name(studies.target),
        num_without_text=studies.num_without_text,
        card=result.card,
        sections=result.sections,
        main=result.main,
        made=result.made.get(result.main, ""),
        answer=result.conclusion.answer,
        evidence=[(item.about, item.sentences) for item in result.conclusion.evidence],
        rates=result.rates,
        constants=result.constants,
        clinical=result.clinical,
        notes=result.notes,
        provenance={
            "checkpoint": result.checkpoint or "none: reports of several or other systems",
            "split": f"{studies.split or 'none'}, {len(studies.ids)} studies",
            "without text": f"{studies.num_without_text} studies left out",
            "target": studies.target,
            "study ids, SHA-256": studies.ids_sha256,
            "decode": result.decode,
        },
        studies=page_studies(result, loaded),
        recipe="" if loaded is None else dump_recipe(loaded.recipe),
        environment=environment,
    )
