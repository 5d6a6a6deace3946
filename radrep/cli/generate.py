"""radrep generate: reports for image files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say

if TYPE_CHECKING:
    from radrep.inference.generator import GeneratedReport
    from radrep.recipe.recipe import Recipe
    from radrep.recipe.training import Decode


def generate(
    images: Annotated[
        list[Path],
        typer.Argument(help="PNG, JPEG, TIFF, BMP or DICOM files, each a study of its own."),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A run or a checkpoint.", show_default="the newest run under runs/"),
    ] = None,
    one_study: Annotated[
        bool, typer.Option("--one-study", help="All files are views of one study.")
    ] = False,
    projection: Annotated[
        list[str] | None,
        typer.Option(
            help="frontal or lateral, once a file: marks R and L, and the frontal one is masked.",
            show_default="what DICOM files say",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(help="A PNG of where words and discriminator looked, by finding (one study)."),
    ] = None,
    discriminator: Annotated[
        Path | None,
        typer.Option(
            help="A run of SDAM's discriminator, for --heatmap and for masked images.",
            show_default="the recipe's, if the model is given masked images",
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

    Example:  radrep generate frontal.png lateral.png --one-study --heatmap looks.png
    """
    from radrep.errors import RadrepError
    from radrep.inference.generator import ReportGenerator, group_views

    studies = group_views([str(image) for image in images], one_study=one_study)
    if heatmap is not None and len(studies) > 1:
        raise RadrepError(
            f"--heatmap draws one study and {len(studies)} were given; add --one-study if they "
            "are views of one"
        )
    projections = projection or []
    if unknown := set(projections) - {"frontal", "lateral"}:
        raise RadrepError(f"--projection must be frontal or lateral, got '{unknown.pop()}'")
    if projections and len(projections) != len(images):
        raise RadrepError(
            f"--projection was given {len(projections)} times for {len(images)} files; give one "
            "for each file, in their order, or none"
        )
    if heatmap is not None and heatmap.exists():
        raise RadrepError(f"{heatmap} exists already; name another file for --heatmap")
    changes = {
        "preset": preset, "method": method, "beam_size": beam_size,
        "length_penalty": length_penalty, "temperature": temperature, "top_p": top_p,
    }  # fmt: skip
    with TerminalReporter() as reporter:
        writer = ReportGenerator(checkpoint, discriminator=discriminator)
        reporter.info("checkpoint", str(writer.loaded.folder))
        writer.decode = _decode(writer.loaded.recipe, changes)
        reports = []
        with reporter.progress("reports", len(studies), "studies") as advance:
            for study in studies:
                told = projections[: len(study)]
                projections = projections[len(study) :]
                explain = heatmap is not None
                reports.append(writer.write(*study, projections=told, seed=seed, explain=explain))
                advance()
    for report in reports:
        _show(report, as_json=as_json, alone=len(reports) == 1)
    if heatmap is not None:
        if not reports[0].looks and writer.discriminator is None:
            raise RadrepError(
                "--heatmap shows where the words of CSR-LMCA looked; this model's words come from "
                "a language model, which looks at no map. With --discriminator RUN it shows where "
                "that one looks"
            )
        _draw(reports[0], heatmap)


def _decode(recipe: "Recipe", changes: Mapping[str, object]) -> "Decode":
    """The run's decoding with what was typed; checked like a recipe, with the run's model."""
    from radrep.recipe.load import change_section
    from radrep.recipe.training import DECODE_PRESETS

    given = {key: value for key, value in changes.items() if value is not None}
    if not given:
        return recipe.decode
    preset = DECODE_PRESETS.get(str(given.get("preset")), {})
    decode = recipe.decode.model_dump() | preset | given
    return change_section(recipe, {"decode": decode}, title="the command line").decode


def _show(report: "GeneratedReport", *, as_json: bool, alone: bool) -> None:
    if as_json:
        row = {"images": [str(image) for image in report.images], "report": report.text}
        say(json.dumps(row, ensure_ascii=False))
    elif alone:
        say(report.text)
    else:
        say(f"{' '.join(str(image) for image in report.images)}\t{report.text}")


def _draw(report: "GeneratedReport", path: Path) -> None:
    from radrep.data.image_io import read_image
    from radrep.viz.figures.heatmap import draw_attention

    films = [read_image(image, 512) for image in report.images]
    projections = list(report.projections)
    if report.masked is not None:
        films.append(report.masked)
        projections.append("under its SDAM mask")
    study = ", ".join("/".join(image.parts[-2:]) for image in report.images)
    draw_attention(
        films,
        report.looks,
        study=study,
        projections=projections,
        report=report.text,
        findings=report.findings,
    ).save(path, format="PNG")
