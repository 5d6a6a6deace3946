"""What an evaluation leaves: scores, predictions, the page, the model card."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radrep.atomic import atomic_write_text
from radrep.errors import DataError
from radrep.evaluation.page_studies import page_studies
from radrep.recipe.load import dump_recipe
from radrep.training.run_log import ENVIRONMENT
from radrep.viz.html.page import Page, render_page
from radrep.weights.checkpoint import Loaded, run_dir
from radrep.weights.model_card import MODEL_CARD, describe_model

if TYPE_CHECKING:
    from radrep.evaluation.evaluate import EvalResult


def check_out(out: Path | None) -> None:
    """Check where the scores go before the work of minutes that they come from.

    Raises:
        DataError: If it cannot be a folder.
    """
    if out is None:
        return
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise DataError(f"{out} cannot be made: {there} is a file; name a folder as --out")
    if not os.access(there, os.W_OK):
        raise DataError(f"{out} cannot be written: no permission at {there}; name another --out")


def write_evaluation(result: "EvalResult", loaded: Loaded | None) -> None:
    """Write the files that `EvalResult` names, and MODEL_CARD.md for a run.

    Args:
        result: What was found.
        loaded: The checkpoint that wrote the reports, if one did.
    """
    folder = result.scores_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever stops here leaves no scores that tell of other reports than those beside them.
    result.scores_file.unlink(missing_ok=True)
    rows = zip(
        result.studies.ids, result.studies.corpus.references, result.predictions, strict=True
    )
    lines = [
        json.dumps({"id": id_, "reference": reference, "generated": text}, ensure_ascii=False)
        for id_, reference, text in rows
    ]
    atomic_write_text(result.predictions_file, "".join(f"{line}\n" for line in lines))
    scores = scores_as_json(result)
    atomic_write_text(result.scores_file, json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    environment: dict[str, Any] = {}
    if loaded is not None:
        told = run_dir(loaded.folder) / ENVIRONMENT
        if told.is_file():
            environment = json.loads(told.read_text(encoding="utf-8"))
        atomic_write_text(folder / MODEL_CARD, describe_model(loaded.recipe, scores))
    page = Page(
        title=folder.resolve().name,
        scores=scores,
        studies=page_studies(result, loaded),
        recipe="" if loaded is None else dump_recipe(loaded.recipe),
        environment=environment,
    )
    atomic_write_text(result.page_file, render_page(page))


def scores_as_json(result: "EvalResult") -> dict[str, Any]:
    """The content of scores-<split>.json."""
    studies, card = result.studies, result.card
    decodes = {name: decode.model_dump() for name, decode in result.decodes.items()}
    return {
        "checkpoint": None if result.checkpoint is None else str(result.checkpoint),
        "split": studies.split,
        "num_studies": card.num_studies,
        "num_without_text": studies.num_without_text,
        "ids_sha256": studies.ids_sha256,
        "target": studies.target,
        # Of the one run; in a comparison of each by its name, and of none from outside.
        "decode": decodes if result.checkpoint is None else decodes[result.main],
        "model": result.main,
        "num_seen": card.num_seen,
        "protocols": {
            scored.protocol: {
                "tokenizer": scored.tokenizer,
                "references_cut": scored.num_cut,
                **_systems(scored),
                "on_seen": dict(scored.on_seen),
                "on_unseen": dict(scored.on_unseen),
            }
            for scored in card.protocols
        },
        "findings": {
            **_systems(card.findings),
            "uncertain_is_positive": dict(card.findings.uncertain_is_positive),
            "tables": {
                name: [asdict(row) for row in rows] for name, rows in card.findings.tables.items()
            },
            "num_sides": dict(card.findings.num_sides),
        },
        "diversity": {name: asdict(seen) for name, seen in card.diversity.items()},
        "constants": dict(result.constants),
        "clinical": dict(result.clinical),
        "notes": list(result.notes),
    }


def _systems(scored: Any) -> dict[str, Any]:
    """Systems and comparisons of a protocol, or of the findings."""
    return {
        "systems": [
            {
                "name": system.name,
                "scores": dict(system.scores),
                "intervals": {m: [i.low, i.high] for m, i in system.intervals.items()},
            }
            for system in scored.systems
        ],
        "comparisons": [
            {
                "first": pair.first,
                "second": pair.second,
                "differences": {m: asdict(found) for m, found in pair.differences.items()},
            }
            for pair in scored.comparisons
        ],
    }
