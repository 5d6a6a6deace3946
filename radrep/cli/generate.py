"""radrep generate: reports for image files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say

if TYPE_CHECKING:
    from radrep.inference.generator import GeneratedReport, StudyFiles
    from radrep.recipe.training import Decode


def generate(
    images: Annotated[
        list[Path],
        typer.Argument(help="PNG, JPEG, TIFF, BMP or DICOM files, one study each."),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A run or a checkpoint.", show_default="the newest run under runs/"),
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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(help="Save an attention / Grad-CAM heatmap (PNG) of one study."),
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
        str | None, typer.Option(help="beam, greedy or sample.", show_default="the run's")
    ] = None,
    beam_size: Annotated[int | None, typer.Option(min=1)] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="For --method beam: above 0, longer reports.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="For --method sample.")] = None,
    top_p: Annotated[float | None, typer.Option(help="For --method sample.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For --method sample.")] = 0,
) -> None:
    """Write reports for new images. Not for clinical use.

    Example:  radrep generate frontal.png lateral.png --single-study --heatmap heatmap.png
    """
    from radrep.errors import RadrepError
    from radrep.inference.generator import ReportGenerator

    studies = _group(images, projection or [], single_study=single_study)
    if heatmap is not None:
        _check_heatmap(heatmap, len(studies))
    changes = {
        "preset": preset, "method": method, "beam_size": beam_size,
        "length_penalty": length_penalty, "temperature": temperature, "top_p": top_p,
    }  # fmt: skip
    with TerminalReporter() as reporter:
        folder, decode = _decode(checkpoint, changes)
        generator = ReportGenerator(folder, decode=decode, discriminator=discriminator)
        reporter.info("checkpoint", str(folder))
        if heatmap is not None:
            (study,) = studies
            report = generator.write(
                *study.images, projections=study.projections, seed=seed, explain=True
            )
            reports = [report]
        else:
            reports = []
            with reporter.progress("reports", len(studies), "studies") as advance:
                for report in generator.write_all(studies, seed=seed):
                    reports.append(report)
                    advance()
    for report in reports:
        _show(report, as_json=as_json, alone=len(reports) == 1)
    if heatmap is not None:
        if not reports[0].attention and generator.discriminator is None:
            raise RadrepError(
                "--heatmap shows the attention of CSR-LMCA; this model's words come from a "
                "language model, which has no attention maps. Add --discriminator RUN for Grad-CAM"
            )
        _draw(reports[0], heatmap)


def _group(
    images: Sequence[Path], projections: Sequence[str], *, single_study: bool
) -> list["StudyFiles"]:
    from radrep.errors import RadrepError
    from radrep.inference.generator import StudyFiles

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


def _check_heatmap(heatmap: Path, num_studies: int) -> None:
    from radrep.errors import RadrepError

    if num_studies > 1:
        raise RadrepError(
            f"--heatmap draws one study and {num_studies} were given; add --single-study if they "
            "are views of one"
        )
    if heatmap.exists():
        raise RadrepError(f"{heatmap} exists already; name another file for --heatmap")


def _decode(checkpoint: Path | None, changes: Mapping[str, object]) -> tuple[Path, "Decode | None"]:
    """The checkpoint's folder, and its decoding with what was typed, None for its own."""
    from radrep.inference.decode_options import change_decode
    from radrep.weights.checkpoint import find_checkpoint

    folder = find_checkpoint(checkpoint)
    typed = [f"decode.{key}={value}" for key, value in changes.items() if value is not None]
    return folder, change_decode(folder, typed)[0] if typed else None


def _show(report: "GeneratedReport", *, as_json: bool, alone: bool) -> None:
    if as_json:
        row = {"images": [str(image) for image in report.images], "report": report.text}
        say(json.dumps(row, ensure_ascii=False))
    elif alone:
        say(report.text)
    else:
        say(f"{' '.join(str(image) for image in report.images)}\t{report.text}")


def _draw(report: "GeneratedReport", path: Path) -> None:
    from radrep.viz.figures.heatmap import draw_attention

    projections = list(report.projections)
    if report.masked is not None:
        projections.append("under its SDAM mask")
    draw_attention(
        report.films,
        report.attention,
        study=", ".join("/".join(image.parts[-2:]) for image in report.images),
        projections=projections,
        report=report.text,
        findings=report.findings,
    ).save(path, format="PNG")
