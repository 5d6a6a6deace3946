"""radrep generate: reports for image files and for folders of them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, lost_results
from radrep.cli.engine import Address, Cores, Engine, choose_cluster
from radrep.cli.generation.show import draw, show, show_failed, write_reports_of_folder
from radrep.cli.outputs import added_folder, new_file
from radrep.errors import DataError, RadrepError

if TYPE_CHECKING:
    from radrep.inference.films import StudyFiles

_SHOWN_FAILURES = 20  # of a folder; all of them are in its left_out.jsonl


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
            help="A CSV, TSV or JSONL file with columns image and study_id, for a folder."
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

    A model that writes two sections prints FINDINGS: and IMPRESSION:, each on its line.
    """
    cluster = choose_cluster(engine, address, worker_cores)
    if cluster is not None and out is None:
        raise RadrepError("--engine ray writes a folder of reports: add --out DIR")

    from radrep.inference.decode_options import change_decode
    from radrep.inference.generator import ReportGenerator
    from radrep.interop.formats import check_formats
    from radrep.reporting.studies import file_studies, find_studies
    from radrep.weights.checkpoint import find_checkpoint

    _check_words(images, projection or [], out, studies, group, single_study, heatmap)
    check_formats(formats or [])
    if formats and out is None:
        raise RadrepError("--format writes documents into a folder: add --out DIR")
    given = _group(images, projection or [], single_study=single_study)
    texts = {"indication": indication, "comparison": comparison}
    if prior_report is not None:
        texts["prior_report"] = _read_text(prior_report)
    context = {name: text for name, text in texts.items() if text}
    if context or prior:
        if len(given) > 1 or out is not None:
            raise RadrepError(
                "--indication, --comparison, --prior-report and --prior are of one study: give its "
                "files alone, with --single-study for several views, and leave --out out"
            )
        given = [replace(given[0], texts=context, prior=tuple(prior or ()))]
    if heatmap is not None and len(given) > 1:
        raise RadrepError(
            f"--heatmap draws one study and {len(given)} were given; add --single-study if they "
            "are views of one"
        )
    options = {
        "preset": preset, "method": method, "beam_size": beam_size,
        "length_penalty": length_penalty, "temperature": temperature, "top_p": top_p,
    }  # fmt: skip
    typed = [f"decode.{key}={value}" for key, value in options.items() if value is not None]
    typed += _operating_point(sensitivity or [], threshold or [])
    with TerminalReporter() as reporter:
        folder = find_checkpoint(checkpoint)
        decode = change_decode(folder, typed)[0] if typed else None
        with_findings = as_json or out is not None
        load = partial(
            ReportGenerator,
            folder.resolve(),
            decode=decode,
            discriminator=discriminator and discriminator.resolve(),
            predict=with_findings,
        )
        generator = load()
        reporter.info("checkpoint", str(folder))
        if (context or prior) and generator.settings()["decode.method"] == "select":
            reporter.warn("decode.method: select reads the films alone, and none of the context")
        if out is not None:
            if generator.loaded.recipe.data.context:
                reporter.info("context", "none: the model reads it of single studies alone")
            if images[0].is_dir():
                found = find_studies(images[0], group=group, table=studies, reporter=reporter)
            else:
                found = file_studies(images, projection or [], single_study=single_study)
            on_cluster = None if cluster is None else (cluster, load)
            write_reports_of_folder(
                found, generator, out, formats or [], seed, on_cluster, reporter
            )
            return
        print_report = partial(show, as_json=as_json, alone=len(given) == 1)
        if heatmap is not None:
            (study,) = given
            sides = study.projections
            report = generator.write(
                *study.images,
                projections=sides,
                texts=study.texts,
                prior=study.prior,
                seed=seed,
                explain=True,
            )
            print_report(report)
            if not report.attention and generator.discriminator is None:
                raise RadrepError(
                    "--heatmap shows the attention of CSR-LMCA's decoder; this report comes from "
                    "a language model, or was selected, and has no attention maps. Add "
                    "--discriminator RUN for Grad-CAM"
                )
            draw(report, heatmap)
            return
        failed: list[tuple[StudyFiles, DataError]] = []
        with reporter.progress("reports", len(given), "studies") as advance:

            def skip(study: "StudyFiles", error: DataError) -> None:
                failed.append((study, error))

            for report in generator.write_all(given, seed=seed, findings=as_json, skip=skip):
                print_report(report)
                if lost_results() is not None:  # nobody reads the reports
                    break
                advance()
    if failed:
        show_failed(failed, len(given))
        raise typer.Exit(2)


def _operating_point(sensitivity: Sequence[str], threshold: Sequence[str]) -> list[str]:
    """The options as --set of decode.edit."""
    typed = []
    for key, option, values in (
        ("sensitivity", "--sensitivity", sensitivity),
        ("thresholds", "--threshold", threshold),
    ):
        found: dict[str, float] = {}
        for value in values:
            name, _, number = value.rpartition("=")
            try:
                found[name.strip()] = float(number)
            except ValueError:
                raise RadrepError(f"{option} takes a number from 0 to 1, got '{value}'") from None
        if "" in found and (len(found) > 1 or key == "thresholds"):
            raise RadrepError(f"{option} names a finding, as in 'Pleural Effusion=0.3'")
        if found:
            typed.append(f"decode.edit.{key}={json.dumps(found.get('', found))}")
    return typed


def _check_words(
    images: Sequence[Path],
    projections: Sequence[str],
    out: Path | None,
    studies: Path | None,
    group: str,
    single_study: bool,
    heatmap: Path | None,
) -> None:
    """Raise RadrepError for options that do not go together."""
    folders = [path for path in images if path.is_dir()]
    if folders and out is None:
        raise RadrepError(
            f"{folders[0]} is a folder; give an image file, or add --out DIR to write the reports "
            "of the folder's studies"
        )
    if folders and len(images) > 1:
        raise RadrepError(f"give one folder, or files alone; got {len(images)} with {folders[0]}")
    if folders and (projections or single_study):
        raise RadrepError("--projection and --single-study are for files, and a folder was given")
    if not folders and (studies or group != "auto"):
        raise RadrepError("--studies and --group are for a folder, and files were given")
    if group not in ("auto", "folder", "file"):
        raise RadrepError(f"--group must be auto, folder or file, got '{group}'")
    if studies and group != "auto":
        raise RadrepError("--studies says what the studies are; leave --group out")
    if heatmap and out:
        raise RadrepError("--heatmap draws one study to a file of its own; leave --out out")


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RadrepError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not text.strip():
        raise RadrepError(f"{path} is empty; give the text of the prior report, or leave it out")
    return text


def _group(
    images: Sequence[Path], projections: Sequence[str], *, single_study: bool
) -> list["StudyFiles"]:
    from radrep.inference.films import StudyFiles

    if unknown := set(projections) - {"frontal", "lateral"}:
        raise RadrepError(f"--projection must be frontal or lateral, got '{unknown.pop()}'")
    if projections and len(projections) != len(images):
        raise RadrepError(
            f"--projection was given {len(projections)} times for {len(images)} files; give one "
            "for each file, in their order, or none"
        )
    if single_study:
        return [StudyFiles(tuple(images), tuple(projections))]
    return [StudyFiles((p,), tuple(projections[i : i + 1])) for i, p in enumerate(images)]
