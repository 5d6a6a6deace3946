"""radrep eval: score a trained model beside baselines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, table

if TYPE_CHECKING:
    from radrep.engine.evaluate import EvalResult, ProtocolScores


def evaluate(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A run or a checkpoint.", show_default="the newest run under runs/"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="train, val or test.", show_default="test, or val where there is none"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the scores go.", show_default="the run's folder")
    ] = None,
    clean_predictions: Annotated[
        bool, typer.Option("--clean-predictions", help="Clean generated reports before scoring.")
    ] = False,
) -> None:
    """Score a trained run against reference reports.

    Example:  radrep eval runs/csr_lmca_iu_cpu --split val
    """
    from radrep.data.study import SPLITS
    from radrep.engine.evaluate import evaluate as run
    from radrep.errors import RadrepError

    if split is not None and split not in SPLITS:
        raise RadrepError(f"--split must be one of {', '.join(SPLITS)}, got '{split}'")
    with TerminalReporter() as reporter:
        result = run(
            checkpoint,
            split=split,
            out=out,
            clean_predictions=clean_predictions,
            reporter=reporter,
        )
    show_result(result)


def show_result(result: "EvalResult") -> None:
    """Print the scores of an evaluation."""
    say(f"checkpoint  {result.checkpoint}")
    say(f"split       {result.split}, {result.num_studies} studies (ids {result.ids_sha256[:12]})")
    for scored in result.protocols:
        say("")
        _show_protocol(scored, result.num_studies)
    seen = result.diversity
    say("")
    say(
        f"{seen['num_distinct']} distinct reports for {seen['num_reports']} studies; the most "
        f"frequent one is {seen['most_frequent_share']:.0%} of them; "
        f"{seen['mean_length']:.1f} words on average, {seen['length_ratio']:.2f} of the references"
    )
    for note in result.notes:
        say(note)
    say(f"Scores:  {result.scores_file}\nReports: {result.predictions_file}")


def _show_protocol(scored: "ProtocolScores", num_studies: int) -> None:
    title = f"protocol {scored.protocol}"
    if scored.num_cut:
        title += f" ({scored.num_cut} of {num_studies} references cut)"
    metrics = list(scored.systems[0].scores)
    rows: list[tuple[object, ...]] = []
    for system in scored.systems:
        rows.append((system.name, *(system.scores[metric] for metric in metrics)))
        if not system.p_values:
            bounds = (system.intervals.get(metric) for metric in metrics)
            rows.append(("  95 % interval", *(_interval(bound) for bound in bounds)))
    table(("", *metrics), rows, title=title)
    shuffled = next(s for s in scored.systems if s.name == "images shuffled")
    told = ", ".join(f"{m} {shuffled.p_values[m]:.3f}" for m in metrics if m in shuffled.p_values)
    say(f"p-value of model against images shuffled: {told}")


def _interval(bounds: tuple[float, float] | None) -> str:
    return "-" if bounds is None else f"{bounds[0]:.3f}-{bounds[1]:.3f}"
