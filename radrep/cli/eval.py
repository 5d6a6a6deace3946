"""radrep eval: score a trained model beside its controls, or several systems side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.cli.outputs import added_folder, new_file
from radrep.errors import RadrepError
from radrep.metrics.names import CONTROLS, FINDINGS_F1, METRICS, SELECTION, SHUFFLED

if TYPE_CHECKING:
    from radrep.evaluation.result import EvalResult
    from radrep.metrics.bootstrap import Difference, Interval
    from radrep.metrics.scorecard import (
        Comparison,
        FindingsCard,
        ProtocolScores,
        Scorecard,
        ScoreTable,
    )

# Columns of the tables, which fit a terminal of 80 columns.
FINDINGS = (
    *("14 micro f1", "14 macro f1", "14 by report f1", "5 micro f1"),
    *("13 with side micro f1", "side accuracy"),
)
COMPARED = ("bleu4", "meteor", "rouge_l", "cider")
COMPARED_FINDINGS = ("14 micro f1", "14 macro f1", "14 by report f1", "13 with side micro f1")

_LABEL_COLUMNS = {  # short titles, for a terminal of 80 columns
    "known": "num_known", "present": "num_present", "AUROC": "auroc", "AP": "average_precision",
    "Brier": "brier", "ECE": "calibration_error", "above": "threshold", "F1": "f1",
}  # fmt: skip


def evaluate(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A run, a checkpoint or the folder of its folds; several are compared.",
            show_default="the newest run under runs/",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="train, val, test, or heldout of a fold.",
            show_default="test, or val where there is none",
        ),
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="Reports of another system: JSON, JSONL, CSV or ReXrank's form."),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(help="For --predictions: a prepared folder, annotation.json or a table."),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="For --predictions: the column of ids, if not recognised.")
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(help="For --predictions: the column of reports, if not recognised."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="For --predictions, how references are cleaned: iu, mimic, chexpert-plus or "
            "plain.",
            show_default="recognised by them",
        ),
    ] = None,
    clinical: Annotated[
        list[str] | None,
        typer.Option(help="A clinical metric of radrep\\[clinical], such as radgraph."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the scores go.",
            show_default="the run, or evaluations/",
            callback=added_folder,
        ),
    ] = None,
    rexrank: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the reports of one run as ReXrank's JSON of predictions, too.",
            callback=new_file,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change how a run decodes, e.g. decode.beam_size=1."
        ),
    ] = None,
    clean_predictions: Annotated[
        bool, typer.Option("--clean-predictions", help="Clean generated reports before scoring.")
    ] = False,
    no_meteor: Annotated[
        bool, typer.Option("--no-meteor", help="Leave out METEOR, which needs Java.")
    ] = False,
) -> None:
    """Score a trained run against reference reports, or compare systems.

    Example:  radrep eval runs/csr_lmca_iu_cpu --split val

    Compare:  radrep eval runs/csr_lmca_iu_cpu runs/emrrg_iu_cpu

    Others:   radrep eval --predictions theirs.csv --references annotation.json --split test
    """
    runs, predictions = runs or [], predictions or []
    needing = {
        "--references": references, "--id-column": id_column, "--text-column": text_column,
        "--dataset": dataset,
    }  # fmt: skip
    _check_words(runs, predictions, split, needing)

    from radrep.evaluation.compare import compare
    from radrep.evaluation.evaluate import evaluate as run_evaluate
    from radrep.evaluation.folds import evaluate_folds
    from radrep.evaluation.report_files import ColumnNames
    from radrep.evaluation.result import EvalOptions
    from radrep.weights.checkpoint import is_discriminator
    from radrep.weights.folds import fold_folder, is_folds

    _check_outputs(runs, predictions, dataset, out, rexrank)
    of_folds = len(runs) == 1 and is_folds(runs[0])
    one = fold_folder(runs[0], 0) if of_folds else next(iter(runs), None)
    if len(runs) == 1 and not predictions and one is not None and is_discriminator(one):
        if overrides or clinical or clean_predictions or no_meteor or rexrank:
            raise RadrepError(
                f"{runs[0]} is a discriminator, which writes no reports: --set, --clinical, "
                "--clean-predictions, --no-meteor and --rexrank are for report models"
            )
        _show_labels(runs[0], split, out)
        return
    failed: list[tuple[Path, RadrepError]] = []
    with TerminalReporter() as reporter:
        shared: dict[str, Any] = {
            "split": split, "out": out, "overrides": overrides or (), "reporter": reporter,
            "options": EvalOptions(clean_predictions, clinical or (), meteor=not no_meteor),
        }  # fmt: skip
        if predictions or len(runs) > 1:
            shared |= {"references": references, "dataset": dataset}
            columns = ColumnNames(id_column, text_column)
            result = compare(
                runs,
                predictions,
                columns=columns,
                skip=lambda system, error: failed.append((system, error)),
                **shared,
            )
        elif of_folds:
            result = evaluate_folds(runs[0], **shared)
        else:
            result = run_evaluate(runs[0] if runs else None, **shared)
    show_result(result)
    if rexrank is not None:
        _write_rexrank(rexrank, result)
    if failed:
        lines = [f"{len(failed)} of {len(runs) + len(predictions)} systems could not be scored:"]
        show_error("\n".join([*lines, *(f"  {system}: {error}" for system, error in failed)]))
        raise typer.Exit(2)


def _check_words(
    runs: Sequence[Path],
    predictions: Sequence[Path],
    split: str | None,
    needing: Mapping[str, object],
) -> None:
    """Refuse options that do not go together; imports nothing that takes long."""
    from radrep.data.study import HELD_OUT, SPLITS

    if split is not None and split not in (known := (*SPLITS, HELD_OUT)):
        raise RadrepError(f"--split must be one of {', '.join(known)}, got '{split}'")
    for option, value in needing.items():
        if value is not None and not predictions:
            raise RadrepError(f"{option} goes with --predictions: name the reports to score")


def _check_outputs(
    runs: Sequence[Path],
    predictions: Sequence[Path],
    dataset: str | None,
    out: Path | None,
    rexrank: Path | None,
) -> None:
    """Refuse outputs that the systems cannot have, and a data set that is not known."""
    from radrep.evaluation.compare import DATASETS
    from radrep.weights.archive import is_bundle
    from radrep.weights.folds import is_folds

    if rexrank is not None and (predictions or len(runs) > 1 or (runs and is_folds(runs[0]))):
        raise RadrepError("--rexrank writes the reports of one run, and several systems were given")
    if bundle := next((run for run in runs if out is None and is_bundle(run)), None):
        raise RadrepError(f"{bundle} is a bundle, which nothing is written to; add --out DIR")
    if dataset is not None and dataset not in DATASETS:
        raise RadrepError(f"--dataset must be one of {', '.join(DATASETS)}, got '{dataset}'")


def _write_rexrank(file: Path, result: "EvalResult") -> None:
    from radrep.interop.rexrank import write_rexrank

    assert result.studies.prepared is not None, "the studies of a run are prepared"
    reports = zip(result.studies.prepared, result.predictions, strict=True)
    write_rexrank(file, reports, result.studies.target)
    say(f"ReXrank: {file}")


def show_result(result: "EvalResult") -> None:
    """Print the scores of an evaluation."""
    studies, card = result.studies, result.card
    if result.checkpoint is not None:
        say(f"checkpoint  {result.checkpoint}")
    counted = f"{studies.split or 'references'}, {card.num_studies} studies"
    say(f"split       {counted} (ids {studies.ids_sha256[:12]})")
    for name, made in result.made.items():
        of = "" if result.checkpoint is not None else f" of {name}"
        say(f"reports     {made}{of}")
    for scored in card.protocols:
        _show_protocol(scored, result)
    _show_findings(card.findings, result.main)
    if result.fold_cider:
        _show_spread(result)
    for name, own in result.sections.items():
        _show_section(name, own, result.main)
    seen = card.diversity[result.main]
    say(
        f"\n{seen.num_distinct} distinct reports for {seen.num_reports} studies; the most "
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
    say("")
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


def _show_spread(result: "EvalResult") -> None:
    """The spread over folds beside the error of all studies together."""
    full, values = result.card.full, result.fold_cider
    pooled, own = full.value(result.main, "cider"), full.interval(result.main, "cider")
    error = "" if own is None else f" (s.e. {own.standard_error:.3f})"
    say(
        f"\nCIDEr, protocol full: {pooled:.3f}{error} of all studies; over {len(values)} folds "
        f"mean {mean(values):.3f}, s.d. {stdev(values):.3f}"
    )


def _show_findings(card: "FindingsCard", main: str) -> None:
    sides = f"side accuracy over {card.num_sides[main]} findings"
    say("")
    title = f"{FINDINGS_F1}, uncertain as absent; {sides}"
    table(("", *_titles(FINDINGS)), _rows(card, FINDINGS), title=title)
    _show_differences(card, COMPARED_FINDINGS, main)
    counted = [row for row in card.tables[main] if row.in_references or row.in_generated]
    say("")
    table(
        ("finding", "references", "generated", "both", "F1"),
        [(r.observation, r.in_references, r.in_generated, r.right, r.f1) for r in counted],
    )


def _show_section(name: str, card: "Scorecard", main: str) -> None:
    """The scores of one section of a report of two."""
    say("")
    columns = tuple(card.full.systems[0].scores)
    rows = [
        (scored.protocol, *(scored.value(main, metric) for metric in columns))
        for scored in card.protocols
    ]
    title = f"{name} alone, {card.num_studies} studies that have it"
    table((f"{main}, protocol", *_titles(columns)), rows, title=title)
    say("")
    found = card.findings
    table(("", *_titles(FINDINGS)), [(main, *(found.value(main, m) for m in FINDINGS))])


def _titles(metrics: Sequence[str]) -> list[str]:
    return [METRICS[metric].title for metric in metrics]


def _rows(scored: "ScoreTable", metrics: Sequence[str]) -> list[tuple[object, ...]]:
    return [(system.name, *map(system.scores.get, metrics)) for system in scored.systems]


def _show_differences(scored: "ScoreTable", metrics: Sequence[str], main: str) -> None:
    """Intervals of the main system, and its differences to two controls and to its rivals."""
    pairs = {pair.second: pair for pair in scored.comparisons if pair.first == main}
    shown = [pairs[control.name] for control in (SHUFFLED, SELECTION) if control.name in pairs]
    rows = []
    for metric in metrics:
        against = [pair.differences.get(metric) for pair in shown]
        own = scored.interval(main, metric)
        error = "-" if own is None else f"{own.standard_error:.3f}"
        rows.append((METRICS[metric].title, _interval(own), error, *map(_difference, against)))
    say("")
    table(["", "95 % interval", "s.e.", *(f"- {pair.second}" for pair in shown)], rows)
    for pair in shown:
        values = [f"{title} {found.p_value:.3f}" for title, found in _differences(pair, metrics)]
        say(f"p, {pair.second}: {', '.join(values)}")
    for pair in scored.comparisons:
        if pair.second not in CONTROLS:
            say(f"\n{pair.first} - {pair.second}")  # as a title it would wrap to the table's width
            found = _differences(pair, metrics)
            rivals = [(title, _difference(each), each.p_value) for title, each in found]
            table(("", "difference", "p-value"), rivals)


def _differences(pair: "Comparison", metrics: Sequence[str]) -> list[tuple[str, "Difference"]]:
    found = pair.differences
    return [(METRICS[name].title, found[name]) for name in metrics if name in found]


def _difference(found: "Difference | None") -> str:
    return "-" if found is None else f"{found.value:+.3f} ({_interval(found)})"


def _interval(bounds: "Interval | Difference | None") -> str:
    return "-" if bounds is None else f"{bounds.low:.3f}..{bounds.high:.3f}"


def _show_labels(run: Path, split: str | None, out: Path | None) -> None:
    """Score a discriminator and print one row per label."""
    from radrep.evaluation.discriminator import evaluate_discriminator
    from radrep.evaluation.folds import evaluate_discriminator_folds
    from radrep.metrics.classification import MEASURES
    from radrep.weights.checkpoint import find_checkpoint, load_checkpoint
    from radrep.weights.folds import is_folds

    with TerminalReporter() as reporter:
        if is_folds(run):
            result = evaluate_discriminator_folds(run, out=out, reporter=reporter)
        else:
            loaded = load_checkpoint(find_checkpoint(run, reporter=reporter))
            result = evaluate_discriminator(loaded, split=split, out=out, reporter=reporter)
    say(f"checkpoint  {result.checkpoint}")
    say(f"split       {result.split}, {result.num_studies} studies, one row per image")
    rows: list[tuple[object, ...]] = [
        (row.name, *(getattr(row, name) for name in _LABEL_COLUMNS.values()))
        for row in result.scores.rows
    ]
    means = [result.scores.macro(n) if n in MEASURES else None for n in _LABEL_COLUMNS.values()]
    table(("", *_LABEL_COLUMNS), [*rows, ("mean of labels", *means)])
    chosen = "validation chose the thresholds"
    if result.split == "val":
        chosen += ", so F1 is optimistic here"
    if result.shuffled_auroc is not None:
        say(f"With the images shuffled the mean AUROC is {result.shuffled_auroc:.3f}.")
    say(f"AP average precision, ECE calibration error in 15 bins; {chosen}.")
    say(f"Scores:  {result.scores_file}")
