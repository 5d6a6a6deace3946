"""Reports on the terminal, in a folder and in a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from radrep.cli.console import TerminalReporter, lost_results, quote, say, say_json, show_error
from radrep.errors import DataError, RadrepError
from radrep.sections import titled_sections

if TYPE_CHECKING:
    from radrep.inference.films import StudyFiles
    from radrep.inference.generated_report import GeneratedReport
    from radrep.inference.generator import ReportGenerator
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
    if generator.context:
        counts = [f"{found.num_with_context.get(kind, 0):,} {kind}" for kind in generator.context]
        reporter.info("context", f"{', '.join(counts)} (of {len(found.studies):,} studies)")
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
        named = [why if image in why else f"{image}: {why}" for _, image, why in result.left_out]
        lines = [f"  {' '.join(reason.split())}" for reason in named]
        more = len(lines) - _SHOWN_FAILURES
        lines[_SHOWN_FAILURES:] = [f"  ... and {more:,} more"] * (more > 0)
        title = f"{len(result.left_out):,} images are not used (all in {out / 'left_out.jsonl'}):"
        show_error("\n".join([title, *lines]))
        raise typer.Exit(2)


def show_reports(
    given: Sequence["StudyFiles"],
    generator: "ReportGenerator",
    reporter: TerminalReporter,
    *,
    seed: int,
    as_json: bool,
) -> None:
    """Print the reports of several studies as they are written, and what could not be read."""
    failed: list[tuple[StudyFiles, DataError]] = []
    with reporter.progress("reports", len(given), "studies") as advance:

        def skip(study: "StudyFiles", error: DataError) -> None:
            failed.append((study, error))

        for report in generator.write_all(given, seed=seed, findings=as_json, skip=skip):
            _show(report, as_json=as_json, alone=len(given) == 1)
            if lost_results() is not None:  # nobody reads the reports
                break
            advance()
    if failed:
        _show_failed(failed, len(given))
        raise typer.Exit(2)


def show_with_heatmap(
    study: "StudyFiles", generator: "ReportGenerator", path: Path, *, seed: int, as_json: bool
) -> None:
    """Print the report of one study and draw its maps."""
    report = generator.write(
        *study.images,
        projections=study.projections,
        texts=study.texts,
        prior=study.prior,
        seed=seed,
        explain=True,
    )
    _show(report, as_json=as_json, alone=True)
    if not report.attention and generator.discriminator is None:
        raise RadrepError(
            "--heatmap shows the attention of CSR-LMCA's decoder; this report comes from "
            "a language model, or was selected, and has no attention maps. Add "
            "--discriminator RUN for Grad-CAM"
        )
    _draw(report, path)


def _show(report: "GeneratedReport", *, as_json: bool, alone: bool) -> None:
    """Print a report: a line, or as JSON."""
    if as_json:
        say_json(report.as_row())
    else:
        names, parts = map(str, report.images), titled_sections(report.sections) or [report.text]
        lines = [" ".join(text.split()) for text in parts]
        say("\n".join(lines) if alone else f"{' '.join(map(quote, names))}\t{' '.join(lines)}")


def _show_failed(failed: Sequence[tuple["StudyFiles", DataError]], num_studies: int) -> None:
    """Print what could not be read."""
    if num_studies == 1:
        ((_, error),) = failed
        show_error(str(error))
        return
    lines = [f"{len(failed)} of {num_studies} files have no report:"]
    show_error("\n".join([*lines, *(f"  {' '.join(str(error).split())}" for _, error in failed)]))


def _draw(report: "GeneratedReport", path: Path) -> None:
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
