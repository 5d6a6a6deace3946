"""radrep generate: reports for image files and for folders of them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter
from radrep.cli.engine import Address, Cores, Engine, choose_cluster
from radrep.cli.generation.options import (
    check_documents,
    check_options,
    decode_changes,
    group_files,
    read_texts,
    with_context,
)
from radrep.cli.generation.show import show_reports, show_with_heatmap, write_reports_of_folder
from radrep.cli.outputs import added_folder, new_file
from radrep.errors import RadrepError

if TYPE_CHECKING:
    from radrep.inference.generator import ReportGenerator
    from radrep.reporting.studies import FoundStudies


def generate(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="PNG, JPEG, TIFF, BMP or DICOM files, one study each; /dev/stdin for a pipe. "
            "With --out also a folder of them, or one made by radrep prepare."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write reports into, as JSONL and Parquet. Studies that it has are "
            "skipped: the same command resumes.",
            callback=added_folder,
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORM",
            help="Write a document of each report too: fhir (R4 bundle) or dicom-sr (Basic Text "
            "SR of DICOM films). With --out; may be given twice.",
        ),
    ] = None,
    studies: Annotated[
        Path | None,
        typer.Option(
            help="A CSV, TSV or JSONL file with columns image and study_id, for a folder; and "
            "indication, comparison, prior_report, prior_image for a model that reads them."
        ),
    ] = None,
    group: Annotated[
        str,
        typer.Option(
            help="What is a study of a folder: auto (DICOM by StudyInstanceUID, others by "
            "sub-folder where none holds more than 4 images), folder or file."
        ),
    ] = "auto",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="A run, a checkpoint or a bundle (.zip).",
            show_default="the newest run under runs/",
        ),
    ] = None,
    single_study: Annotated[
        bool, typer.Option("--single-study", help="All files are views of one study.")
    ] = False,
    projection: Annotated[
        list[str] | None,
        typer.Option(
            help="frontal or lateral, once per file: marks R and L, and the frontal one is masked.",
            show_default="of DICOM headers",
        ),
    ] = None,
    indication: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Why the study was made, for a model that reads it (data.context)."
        ),
    ] = None,
    comparison: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the study is compared with, likewise.")
    ] = None,
    prior_report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The report of the patient's study before it, likewise."),
    ] = None,
    prior: Annotated[
        list[Path] | None,
        typer.Option(metavar="IMAGE", help="A film of that study, likewise; once per view."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(
            help="Save an attention / Grad-CAM heatmap (PNG) of one study.", callback=new_file
        ),
    ] = None,
    discriminator: Annotated[
        Path | None,
        typer.Option(
            help="A run of SDAM's discriminator, for --heatmap and for masked images.",
            show_default="the recipe's, if the model takes masked images",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Published beam search of emrrg: mambaxray_iu, mambaxray_mimic or "
            "mambaxray_chexpert_plus.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="beam, greedy, sample, select or consensus.", show_default="the run's"),
    ] = None,
    sensitivity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FINDING=]SHARE",
            help="Edit reports to name this share of what is there, of all findings or of one: "
            "0.8, or 'Pleural Effusion=0.9'.",
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FINDING=P",
            help="Edit reports to name a finding above this probability, and leave it out below.",
        ),
    ] = None,
    beam_size: Annotated[int | None, typer.Option(min=1)] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="For --method beam: above 0, longer reports.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="For --method sample.")] = None,
    top_p: Annotated[float | None, typer.Option(help="For --method sample.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="For --method sample and consensus.")
    ] = 0,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Have torch compile the convolutional backbone, with a C++ compiler: a minute "
            "more at first, then faster. For thousands of films.",
        ),
    ] = False,
    engine: Engine = "local",
    address: Address = None,
    worker_cores: Cores = 1,
) -> None:
    """Write reports for new images. Not for clinical use.

    Without --out reports go to standard output: of several studies each line has the file's name, a
    tab and the report. A name with a tab or a line break in it is written as a JSON string. Files
    that cannot be read are listed at the end and cost the others nothing; the exit code is then 2.

    A folder: radrep generate films --out reports

    Many machines: radrep generate films --out reports --engine ray --address auto

    Example:  radrep generate frontal.png lateral.png --single-study --heatmap heatmap.png

    Findings: radrep generate film.png --json --sensitivity 0.8, which marks edited sentences

    Context: radrep generate film.png --indication "Chest pain." --prior before.png

    Context of a folder: radrep generate films --studies table.csv --out reports

    A model that writes two sections prints FINDINGS: and IMPRESSION:, each on its line.
    """
    cluster = choose_cluster(engine, address, worker_cores)
    if cluster is not None and out is None:
        raise RadrepError("--engine ray writes a folder of reports: add --out DIR")
    check_options(images, projection or [], out, studies, group, single_study, heatmap)
    check_documents(formats or [], out)
    given = group_files(images, projection or [], single_study=single_study)
    texts = read_texts(indication, comparison, prior_report)
    if texts or prior:
        given = [with_context(given, texts, prior or [], out)]
    if heatmap is not None and len(given) > 1:
        raise RadrepError(
            f"--heatmap draws one study and {len(given)} were given; add --single-study if they "
            "are views of one"
        )
    options = {
        "preset": preset, "method": method, "beam_size": beam_size,
        "length_penalty": length_penalty, "temperature": temperature, "top_p": top_p,
    }  # fmt: skip
    changes = decode_changes(options, sensitivity or [], threshold or [])
    from radrep.weights.checkpoint import find_checkpoint

    with TerminalReporter() as reporter:
        folder = find_checkpoint(checkpoint, reporter=reporter)
        load = _loader(
            folder, changes, discriminator, predict=as_json or out is not None, compiled=compiled
        )
        generator = load()
        reporter.info("checkpoint", str(folder))
        trained_with = generator.loaded.recipe.data.context
        if trained_with and not generator.context and (texts or prior or out is not None):
            reporter.warn("decode.method: select reads the films alone, and none of the context")
        if out is not None:
            files = (projection or [], single_study)
            found = _find(images, generator, studies, group, files, reporter)
            on_cluster = None if cluster is None else (cluster, load)
            write_reports_of_folder(
                found, generator, out, formats or [], seed, on_cluster, reporter
            )
        elif heatmap is not None:
            show_with_heatmap(given[0], generator, heatmap, seed=seed, as_json=as_json)
        else:
            show_reports(given, generator, reporter, seed=seed, as_json=as_json)


def _loader(
    folder: Path,
    changes: Sequence[str],
    discriminator: Path | None,
    *,
    predict: bool,
    compiled: bool,
) -> Callable[[], "ReportGenerator"]:
    """What loads the model, here and in the workers of a cluster."""
    from radrep.inference.decode_options import change_decode
    from radrep.inference.generator import ReportGenerator

    return partial(
        ReportGenerator,
        folder.resolve(),
        decode=change_decode(folder, changes)[0] if changes else None,
        discriminator=discriminator and discriminator.resolve(),
        predict=predict,
        compiled=compiled,
    )


def _find(
    images: Sequence[Path],
    generator: "ReportGenerator",
    table: Path | None,
    group: str,
    files: tuple[Sequence[str], bool],
    reporter: TerminalReporter,
) -> "FoundStudies":
    """The studies of a folder, or of files with their projections, one or a study each."""
    from radrep.reporting.studies import file_studies, find_studies

    if not images[0].is_dir():
        projections, single_study = files
        return file_studies(images, projections, single_study=single_study)
    return find_studies(
        images[0],
        group=group,
        table=table,
        context=generator.context,
        target=generator.loaded.recipe.data.target,
        reporter=reporter,
    )
