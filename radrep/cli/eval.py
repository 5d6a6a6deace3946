"""radrep eval: score a trained model beside its controls, or several systems side by side."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, table
from radrep.cli.labels import show_labels
from radrep.metrics.names import CONTROLS, FINDINGS_F1, METRICS, NEAREST, SHUFFLED

if TYPE_CHECKING:
    from radrep.evaluation.result import EvalResult
    from radrep.metrics.bootstrap import Difference, Interval
    from radrep.metrics.scorecard import Comparison, FindingsCard, ProtocolScores, ScoreTable

# Columns of the tables, which fit a terminal of 80 columns.
FINDINGS = (
    "14 micro f1",
    "14 macro f1",
    "14 by report f1",
    "5 micro f1",
    "13 with side micro f1",
    "side accuracy",
)
COMPARED = ("bleu4", "meteor", "rouge_l", "cider")
COMPARED_FINDINGS = ("14 micro f1", "14 macro f1", "14 by report f1", "13 with side micro f1")


Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        help="A run or a checkpoint; several are compared.",
        show_default="the newest run under runs/",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="train, val or test.", show_default="test, or val where there is none"),
]
Predictions = Annotated[
    list[Path] | None,
    typer.Option(help="Reports of another system: JSON, JSONL, CSV or ReXrank's form."),
]
References = Annotated[
    Path | None,
    typer.Option(help="For --predictions: a prepared folder, annotation.json or a table."),
]
IdColumn = Annotated[
    str | None, typer.Option(help="For --predictions: the column of ids, if not recognised.")
]
TextColumn = Annotated[
    str | None, typer.Option(help="For --predictions: the column of reports, if not recognised.")
]
Dataset = Annotated[
    str | None,
    typer.Option(
        help="For --predictions, how references are cleaned: iu, mimic, chexpert-plus or plain.",
        show_default="recognised by them",
    ),
]
Clinical = Annotated[
    list[str] | None,
    typer.Option(help="A clinical metric of radrep\\[clinical], such as radgraph."),
]
Out = Annotated[
    Path | None, typer.Option(help="Where the scores go.", show_default="the run, or evaluations/")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change how a run decodes, e.g. decode.beam_size=1."
    ),
]
CleanPredictions = Annotated[
    bool, typer.Option("--clean-predictions", help="Clean generated reports before scoring.")
]
NoMeteor = Annotated[bool, typer.Option("--no-meteor", help="Leave out METEOR, which needs Java.")]


def evaluate(
    runs: Runs = None,
    split: Split = None,
    predictions: Predictions = None,
    references: References = None,
    id_column: IdColumn = None,
    text_column: TextColumn = None,
    dataset: Dataset = None,
    clinical: Clinical = None,
    out: Out = None,
    overrides: Overrides = None,
    clean_predictions: CleanPredictions = False,
    no_meteor: NoMeteor = False,
) -> None:
    """Score a trained run against reference reports, or compare systems.

    Example:  radrep eval runs/csr_lmca_iu_cpu --split val

    Compare:  radrep eval runs/csr_lmca_iu_cpu runs/emrrg_iu_cpu

    Others:   radrep eval --predictions theirs.csv --references annotation.json --split test
    """
    from radrep.data.study import SPLITS
    from radrep.errors import RadrepError

    if split is not None and split not in SPLITS:
        raise RadrepError(f"--split must be one of {', '.join(SPLITS)}, got '{split}'")
    runs, predictions = runs or [], predictions or []
    for option, value in (
        ("--references", references),
        ("--id-column", id_column),
        ("--text-column", text_column),
        ("--dataset", dataset),
    ):
        if value is not None and not predictions:
            raise RadrepError(f"{option} goes with --predictions: name the reports to score")

    from radrep.evaluation.compare import DATASETS, compare
    from radrep.evaluation.evaluate import evaluate as run_evaluate
    from radrep.evaluation.predictions import ColumnNames
    from radrep.evaluation.result import EvalOptions
    from radrep.weights.checkpoint import is_discriminator

    if dataset is not None and dataset not in DATASETS:
        raise RadrepError(f"--dataset must be one of {', '.join(DATASETS)}, got '{dataset}'")
    if len(runs) == 1 and not predictions and is_discriminator(runs[0]):
        if overrides or clinical or clean_predictions or no_meteor:
            raise RadrepError(
                f"{runs[0]} is a discriminator, which writes no reports: --set, --clinical, "
                "--clean-predictions and --no-meteor are for report models"
            )
        show_labels(runs[0], split, out)
        return
    with TerminalReporter() as reporter:
        score = (
            partial(
                compare,
                runs,
                predictions,
                references=references,
                dataset=dataset,
                columns=ColumnNames(id_column, text_column),
            )
            if predictions or len(runs) > 1
            else partial(run_evaluate, runs[0] if runs else None)
        )
        result = score(
            split=split,
            out=out,
            overrides=overrides or (),
            options=EvalOptions(clean_predictions, clinical or (), meteor=not no_meteor),
            reporter=reporter,
        )
    show_result(result)


def show_result(result: "EvalResult") -> None:
    """Print the scores of an evaluation."""
    studies, card = result.studies, result.card
    if result.checkpoint is not None:
        say(f"checkpoint  {result.checkpoint}")
    counted = f"{studies.split or 'references'}, {card.num_studies} studies"
    say(f"split       {counted} (ids {studies.ids_sha256[:12]})")
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
    say(f"\n{result.conclusion.answer}")


def _show_protocol(scored: "ProtocolScores", result: "EvalResult") -> None:
    card = result.card
    title = f"protocol {scored.protocol}"
    if scored.num_cut:
        by = f" by the tokenizer of {scored.tokenizer}" if scored.tokenizer else ""
        title += f" ({scored.num_cut} of {card.num_studies} references cut{by})"
    columns = tuple(scored.systems[0].scores)
    rows = _rows(scored, columns)
    if scored.on_seen and scored.on_unseen and card.num_seen is not None:
        for part, values in (
            (f"{card.num_seen} seen in training", scored.on_seen),
            (f"{card.num_studies - card.num_seen} others", scored.on_unseen),
        ):
            rows.append((f"  on {part}", *map(values[result.main].get, columns)))
    table(("", *_titles(columns)), rows, title=title)
    _show_differences(scored, COMPARED, result.main)


def _show_findings(card: "FindingsCard", main: str) -> None:
    title = (
        f"{FINDINGS_F1}, uncertain as absent; side accuracy over {card.num_sides[main]} findings"
    )
    table(("", *_titles(FINDINGS)), _rows(card, FINDINGS), title=title)
    _show_differences(card, COMPARED_FINDINGS, main)
    counted = [row for row in card.tables[main] if row.in_references or row.in_generated]
    say("")
    table(
        ("finding", "references", "generated", "both", "F1"),
        [(r.observation, r.in_references, r.in_generated, r.right, r.f1) for r in counted],
    )


def _titles(metrics: Sequence[str]) -> list[str]:
    return [METRICS[metric].title for metric in metrics]


def _rows(scored: "ScoreTable", metrics: Sequence[str]) -> list[tuple[object, ...]]:
    return [(system.name, *map(system.scores.get, metrics)) for system in scored.systems]


def _show_differences(scored: "ScoreTable", metrics: Sequence[str], main: str) -> None:
    """Intervals of the main system, and its differences to two controls and to its rivals."""
    pairs = {pair.second: pair for pair in scored.comparisons if pair.first == main}
    shown = [pairs[control.name] for control in (SHUFFLED, NEAREST) if control.name in pairs]
    rows = []
    for metric in metrics:
        found = [pair.differences.get(metric) for pair in shown]
        own = _interval(scored.interval(main, metric))
        rows.append((METRICS[metric].title, own, *map(_difference, found)))
    say("")
    table(["", "95 % interval", *(f"- {pair.second}" for pair in shown)], rows)
    for pair in shown:
        values = [
            f"{METRICS[metric].title} {pair.differences[metric].p_value:.3f}"
            for metric in metrics
            if metric in pair.differences
        ]
        say(f"p, {pair.second}: {', '.join(values)}")
    for pair in scored.comparisons:
        if pair.second not in CONTROLS:
            _show_rivals(pair, metrics)


def _show_rivals(pair: "Comparison", metrics: Sequence[str]) -> None:
    rows = [
        (METRICS[metric].title, _difference(found), found.p_value)
        for metric in metrics
        if (found := pair.differences.get(metric))
    ]
    say(f"\n{pair.first} - {pair.second}")  # as a title it would wrap to the table's width
    table(("", "difference", "p-value"), rows)


def _difference(found: "Difference | None") -> str:
    return "-" if found is None else f"{found.value:+.3f} ({_interval(found)})"


def _interval(bounds: "Interval | Difference | None") -> str:
    return "-" if bounds is None else f"{bounds.low:.3f}..{bounds.high:.3f}"
