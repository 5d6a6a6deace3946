"""Reports on the terminal, in a folder and in a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from radrep.cli.console import TerminalReporter, quote, say, say_json, show_error
from radrep.errors import DataError

if TYPE_CHECKING:
    from radrep.inference.films import StudyFiles
    from radrep.inference.generator import GeneratedReport, ReportGenerator
    from radrep.parallel.cluster import Cluster
    from radrep.reporting.studies import FoundStudies

_SHOWN_FAILURES = 20  # of a folder; all of them are in its left_out.jsonl


def write_reports_of_folder(
    found: "FoundStudies",
    generator: "ReportGenerator",
    out: Path,
    formats: Sequence[str],
    seed: int,
    on_cluster: "tuple[Cluster, Callable[[], ReportGenerator]] | None",
    reporter: TerminalReporter,
) -> None:
    """Write the reports of a folder and print what it has."""
    from radrep.reporting.write_folder import write_folder

    reporter.info("studies", found.layout)
    for note in found.notes:
        reporter.info("note", note)
    try:
        result = write_folder(
            found,
            generator,
            out,
            formats=formats,
            seed=seed,
            on_cluster=on_cluster,
            reporter=reporter,
        )
    except KeyboardInterrupt:
        text = f"stopped; {out} keeps what is done, and the same command resumes from it"
        show_error(text, prefix="")
        raise typer.Exit(130) from None
    say(f"{out} has the reports of {result.num_reports:,} of {result.num_studies:,} studies.")
    for form, count in result.num_documents.items():
        some = "; the others have no DICOM films for one" if count < result.num_reports else ""
        say(f"{out / form} has {count:,} documents{some}.")
    if result.left_out:
        lines = [f"  {' '.join(reason.split())}" for _, _, reason in result.left_out]
        more = len(lines) - _SHOWN_FAILURES
        lines[_SHOWN_FAILURES:] = [f"  ... and {more:,} more"] * (more > 0)
        title = f"{len(result.left_out):,} images are not used (all in {out / 'left_out.jsonl'}):"
        show_error("\n".join([title, *lines]))
        raise typer.Exit(2)


def show(report: "GeneratedReport", *, as_json: bool, alone: bool) -> None:
    """Print a report: a line, or as JSON."""
    if as_json:
        say_json(report.as_row())
    else:
        names, parts = map(str, report.images), report.sections
        texts = [f"{name.upper()}: {text}" for name, text in parts.items()]
        lines = [" ".join(text.split()) for text in (texts if len(parts) > 1 else [report.text])]
        say("\n".join(lines) if alone else f"{' '.join(map(quote, names))}\t{' '.join(lines)}")


def show_failed(failed: Sequence[tuple["StudyFiles", DataError]], num_studies: int) -> None:
    """Print what could not be read."""
    if num_studies == 1:
        ((_, error),) = failed
        show_error(str(error))
        return
    lines = [f"{len(failed)} of {num_studies} files have no report:"]
    show_error("\n".join([*lines, *(f"  {' '.join(str(error).split())}" for _, error in failed)]))


def draw(report: "GeneratedReport", path: Path) -> None:
    """Draw the maps of a report."""
    from radrep.viz.figures.heatmap import draw_attention

    masked = [] if report.masked is None else ["under its SDAM mask"]
    draw_attention(
        report.films,
        report.attention,
        study=", ".join("/".join(image.parts[-2:]) for image in report.images),
        projections=[*report.projections, *masked],
        report=report.text,
        findings=report.finding_maps,
    ).save(path, format="PNG")
