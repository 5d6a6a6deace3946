"""radrep eval: score a trained model beside baselines, or several systems beside one another."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, table
from radrep.report.verdict import judge

if TYPE_CHECKING:
    from radrep.engine.evaluate import EvalResult
    from radrep.metrics.bootstrap import Difference, Interval
    from radrep.metrics.scorecard import Comparison, FindingsCard, ProtocolScores, SystemScores

FINDINGS = ("14 micro f1", "14 macro f1", "14 by report f1", "5 micro f1", "side accuracy")
COMPARED = ("bleu4", "meteor", "rouge_l", "cider")  # what fits beside its intervals


def evaluate(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A run or a checkpoint; several are compared.",
            show_default="the newest run under runs/",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="train, val or test.", show_default="test, or val where there is none"),
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="Reports of another system: JSON, JSONL, CSV or ReXrank's form."),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(help="For --predictions: a prepared folder, annotation.json or a table."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="How references are cleaned: iu, mimic, chexpert-plus or plain.",
            show_default="recognised by them",
        ),
    ] = None,
    clinical: Annotated[
        list[str] | None,
        typer.Option(help="A clinical metric of radrep\\[clinical], such as radgraph."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the scores go.", show_default="the run, or evaluations/"),
    ] = None,
    clean_predictions: Annotated[
        bool, typer.Option("--clean-predictions", help="Clean generated reports before scoring.")
    ] = False,
) -> None:
    """Score a trained run against reference reports, or compare systems.

    Example:  radrep eval runs/csr_lmca_iu_cpu --split val

    Compare:  radrep eval runs/csr_lmca_iu_cpu runs/emrrg_iu_cpu

    Outside:  radrep eval --predictions theirs.csv --references annotation.json --split test
    """
    from radrep.data.study import SPLITS
    from radrep.errors import RadrepError

    if split is not None and split not in SPLITS:
        raise RadrepError(f"--split must be one of {', '.join(SPLITS)}, got '{split}'")
    runs, predictions, clinical = runs or [], predictions or [], clinical or []
    if references is not None and not predictions:
        raise RadrepError("--references goes with --predictions: name the reports to score")

    from radrep.engine.compare import DATASETS, compare
    from radrep.engine.evaluate import evaluate as run_evaluate

    if dataset is not None and dataset not in DATASETS:
        raise RadrepError(f"--dataset must be one of {', '.join(DATASETS)}, got '{dataset}'")
    with TerminalReporter() as reporter:
        if predictions or len(runs) > 1:
            result = compare(
                runs,
                predictions,
                references=references,
                split=split,
                dataset=dataset,
                out=out,
                clean_predictions=clean_predictions,
                clinical=clinical,
                reporter=reporter,
            )
        else:
            result = run_evaluate(
                runs[0] if runs else None,
                split=split,
                out=out,
                clean_predictions=clean_predictions,
                clinical=clinical,
                reporter=reporter,
            )
    show_result(result)


def show_result(result: "EvalResult") -> None:
    """Print the scores of an evaluation."""
    studies, card = result.studies, result.card
    if result.checkpoint is not None:
        say(f"checkpoint  {result.checkpoint}")
    told = f"{studies.split or 'references'}, {card.num_studies} studies"
    say(f"split       {told} (ids {studies.ids_sha256[:12]})")
    for scored in card.protocols:
        say("")
        _show_protocol(scored, result)
    say("")
    _show_findings(card.findings, result.main)
    seen = card.diversity[result.main]
    say("")
    say(
        f"{seen.num_distinct} distinct reports for {seen.num_reports} studies; the most "
        f"frequent one is {seen.most_frequent_share:.0%} of them; "
        f"{seen.mean_length:.1f} words on average, {seen.length_ratio:.2f} of the references"
    )
    for name, value in result.clinical.items():
        say(f"{name}  {value:.3f}")
    for note in result.notes:
        say(note)
    say(f"Scores:  {result.scores_file}\nReports: {result.predictions_file}")
    say(f"Page:    {result.page_file}")
    scores = json.loads(result.scores_file.read_text(encoding="utf-8"))
    say(f"\n{judge(scores).answer}")


def _show_protocol(scored: "ProtocolScores", result: "EvalResult") -> None:
    title = f"protocol {scored.protocol}"
    if scored.num_cut:
        by = f" by the tokenizer of {scored.tokenizer}" if scored.tokenizer else ""
        title += f" ({scored.num_cut} of {result.card.num_studies} references cut{by})"
    metrics = tuple(scored.systems[0].scores)
    _show_systems(scored.systems, metrics, result.main, title)
    if scored.on_seen and scored.on_unseen:
        num_seen = result.card.num_seen or 0
        parts = (
            (f"on the {num_seen} references seen in training", scored.on_seen),
            (f"on the {result.card.num_studies - num_seen} others", scored.on_unseen),
        )
        rows = [
            (f"{result.main} {told}", *(part[result.main].get(metric) for metric in metrics))
            for told, part in parts
        ]
        table(("", *metrics), rows)
    _show_comparisons(scored.comparisons, COMPARED)


def _show_findings(card: "FindingsCard", main: str) -> None:
    sides = card.num_sides[main]
    title = f"findings F1 (rules), uncertain as absent; side accuracy of {sides} findings"
    _show_systems(card.systems, FINDINGS, main, title)
    _show_comparisons(card.comparisons, FINDINGS)
    rows = [
        (row.observation, row.in_references, row.in_generated, row.right, row.f1)
        for row in card.tables[main]
        if row.in_references or row.in_generated
    ]
    say("")
    table(("finding", "references", "generated", "right", "F1"), rows)


def _show_systems(
    systems: "tuple[SystemScores, ...]", metrics: tuple[str, ...], main: str, title: str
) -> None:
    rows: list[tuple[object, ...]] = []
    for system in systems:
        rows.append((system.name, *(system.scores[metric] for metric in metrics)))
        if system.name == main:
            bounds = (
                system.intervals.get(m) if system.scores[m] is not None else None for m in metrics
            )
            rows.append(("  95 % interval", *(_interval(bound) for bound in bounds)))
    table(("", *metrics), rows, title=title)


def _show_comparisons(comparisons: "tuple[Comparison, ...]", metrics: tuple[str, ...]) -> None:
    """Differences of systems that need an image or are compared; constants are in the page."""
    shown = [pair for pair in comparisons if not pair.second.startswith("constant")]
    if not shown:
        return
    rows = []
    for pair in shown:
        found = [pair.differences.get(metric) for metric in metrics]
        rows.append((f"{pair.first} - {pair.second}", *(f and f.value for f in found)))
        rows.append(("  95 % interval", *(f and _interval(f) for f in found)))
        rows.append(("  p-value", *(f and f.p_value for f in found)))
    table(("difference", *metrics), rows)


def _interval(bounds: "Interval | Difference | None") -> str:
    return "-" if bounds is None else f"{bounds.low:.3f}..{bounds.high:.3f}"
