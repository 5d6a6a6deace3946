"""radrep prepare: a raw download to a checked, prepared folder."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.cli.data import show_leaks

if TYPE_CHECKING:
    from radrep.data.study import Source
    from radrep.engine.prepare import PrepareResult

app = typer.Typer(no_args_is_help=True)

_SHOWN = 6

Out = Annotated[Path, typer.Option(help="The folder to make.")]
ImageSize = Annotated[int, typer.Option(min=32, help="Short side of the images, in pixels.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one a core")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="At most so many studies of each split, for a first try.")
]
Views = Annotated[str, typer.Option(help="all, frontal or lateral: the images that are kept.")]
Section = Annotated[
    str,
    typer.Option(
        help="findings, impression or both: studies without it are left out; any: none is."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count; write nothing.")]


@app.callback()
def prepare() -> None:
    """Turn a raw data set into a checked, prepared folder.

    Example:  radrep prepare iu --raw downloads/iu_xray --out data/iu
    """


@app.command()
def iu(
    raw: Annotated[Path, typer.Option(help="The folder of the download, in any of its layouts.")],
    out: Out = Path("data/iu"),
    image_size: ImageSize = 256,
    limit: Limit = None,
    views: Views = "all",
    section: Section = "both",
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """IU X-Ray: R2Gen's folder, Open-i's own files (PNG or DICOM), or Kaggle's.

    Example:  radrep prepare iu --raw downloads/iu_xray --out data/iu
    """
    from radrep.data.sources.iu_xray import NUM_IMAGES, IuXraySource

    source = IuXraySource(raw)
    scratch = _beside(out, ".unpacked")
    if source.archive and not dry_run and not (out / "prepared.json").exists():
        with (
            TerminalReporter() as reporter,
            reporter.progress(f"unpack {source.archive.name}", NUM_IMAGES, "images") as advance,
        ):
            source.unpack(scratch, advance)
    _run(source, out, image_size, limit, views, section, workers, dry_run)
    if source.archive and not dry_run and scratch.is_dir():
        # Nothing but what `unpack` made; the folder too, if that leaves it empty.
        for unpacked in scratch.glob(f"{source.archive.name}-*"):
            shutil.rmtree(unpacked)
        if not any(scratch.iterdir()):
            scratch.rmdir()


@app.command()
def mimic(
    raw: Annotated[Path, typer.Option(help="The folder of MIMIC-CXR-JPG (or MIMIC-CXR's DICOM).")],
    reports: Annotated[
        Path | None,
        typer.Option(help="Where MIMIC-CXR's reports lie.", show_default="the same folder"),
    ] = None,
    out: Out = Path("data/mimic"),
    image_size: ImageSize = 256,
    limit: Limit = None,
    views: Views = "all",
    section: Section = "both",
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """MIMIC-CXR: images of MIMIC-CXR-JPG or MIMIC-CXR, reports and tables from PhysioNet.

    Example:  radrep prepare mimic --raw mimic-cxr-jpg --reports mimic-cxr --limit 100
    """
    from radrep.data.sources.mimic_cxr import MimicCxrSource

    source = MimicCxrSource(raw, reports)
    _run(source, out, image_size, limit, views, section, workers, dry_run)


@app.command()
def chexpert_plus(
    raw: Annotated[Path, typer.Option(help="The folder that holds df_chexpert_plus_240401.csv.")],
    split: Annotated[str, typer.Option(help="official, or cxpmrg (CXPMRG's annotation.json).")] = (
        "official"
    ),
    out: Out = Path("data/chexpert_plus"),
    image_size: ImageSize = 256,
    limit: Limit = None,
    views: Views = "all",
    section: Section = "both",
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """CheXpert Plus, with its own split or CXPMRG's.

    Example:  radrep prepare chexpert-plus --raw chexpert_plus --split cxpmrg
    """
    from radrep.data.sources.chexpert_plus import ChexpertPlusSource

    source = ChexpertPlusSource(raw, split)
    _run(source, out, image_size, limit, views, section, workers, dry_run)


@app.command()
def folder(
    raw: Annotated[Path, typer.Option(help="A folder with images, in folders of any depth.")],
    reports: Annotated[
        Path | None,
        typer.Option(
            help="A CSV, TSV or JSONL file with a column of image paths.",
            show_default="reports.csv, reports.jsonl or labels.csv in the folder",
        ),
    ] = None,
    out: Out = Path("data/folder"),
    image_size: ImageSize = 256,
    limit: Limit = None,
    views: Views = "all",
    section: Section = "any",
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Images of your own (PNG, JPEG, TIFF, BMP, DICOM), with or without a table of reports.

    Example:  radrep prepare folder --raw scans --reports scans/reports.csv --out data/mine
    """
    from radrep.data.sources.folder import FolderSource

    source = FolderSource(raw, reports)
    _run(source, out, image_size, limit, views, section, workers, dry_run)


@app.command()
def phantom(
    num_studies: Annotated[int, typer.Option("--num", min=3, help="Studies to draw.")] = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Out = Path("data/phantom"),
    image_size: ImageSize = 256,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Synthetic chest films with findings that their reports name.

    Example:  radrep prepare phantom --num 2000 --out data/phantom
    """
    from radrep.data.sources.phantom import PhantomSource

    source = PhantomSource(num_studies, seed=seed, image_size=image_size)
    _run(source, out, image_size, None, "all", "both", workers, dry_run)


def _beside(out: Path, ending: str) -> Path:
    whole = out.resolve()
    return whole.with_name(whole.name + ending)


def _run(
    source: "Source",
    out: Path,
    image_size: int,
    limit: int | None,
    views: str,
    section: str,
    workers: int | None,
    dry_run: bool,
) -> None:
    from radrep.engine.prepare import Choice, count_studies
    from radrep.engine.prepare import prepare as run

    choice = Choice(limit, views, section)
    say(f"{source.name}: {source.layout}")
    for note in source.notes:
        say(f"note: {note}")
    if dry_run:
        with TerminalReporter() as reporter:
            counts = count_studies(source, choice, reporter=reporter)
        _show_counts(counts, source.expected_counts())
        return
    with TerminalReporter() as reporter:
        try:
            result = run(
                source,
                out,
                image_size=image_size,
                choice=choice,
                workers=workers,
                reporter=reporter,
            )
        except KeyboardInterrupt:
            kept = _beside(out, ".partial")
            if not kept.exists():
                raise
            told = f"stopped; what is done is kept in {kept}, and the same command goes on from it"
            show_error(told, prefix="")
            raise typer.Exit(130) from None
    _show(result, complete=choice == Choice())


def _show_counts(
    counts: Mapping[str, Mapping[str, int]], expected: Mapping[str, int] | None
) -> None:
    table(
        ("split", "studies", "images", "left out", "expected studies"),
        [
            (split, *row.values(), expected[split] if expected else None)
            for split, row in counts.items()
        ],
    )
    say("Counted without opening an image; nothing was written.")


def _show(result: "PrepareResult", *, complete: bool) -> None:
    expected = result.expected if complete else None
    rows = [
        (split, count, result.image_counts[split], expected[split] if expected else None)
        for split, count in result.counts.items()
    ]
    table(("split", "studies", "images", "expected studies"), rows)
    missing = {
        split: expected[split] - count
        for split, count in result.counts.items()
        if expected and expected[split] != count
    }
    if missing:
        told = ", ".join(f"{split} {-number:+d}" for split, number in missing.items())
        say(f"These counts differ from a complete download's: {told} studies.")
    if result.num_images and result.num_square == result.num_images:
        say("All images were squares already: somebody squashed them. Say so beside scores.")
    show_leaks(result.leaks)
    if result.left_out:
        say(f"Left out: {len(result.left_out)} (all of them in {result.out / 'left_out.jsonl'})")
        _show_left_out(result.left_out)
    if result.already_done:
        say(f"{result.out} was prepared before in the same way; nothing was done.")
    else:
        say(f"{result.out} is ready.")


def _show_left_out(left_out: Sequence[tuple[str, str]]) -> None:
    """Studies by reason, then the first images: a missing folder would fill a thousand lines."""
    studies = Counter(reason for what, reason in left_out if what.startswith("study "))
    for reason, number in studies.most_common(_SHOWN):
        say(f"  {number} {'studies' if number > 1 else 'study'}: {reason}")
    if len(studies) > _SHOWN:
        say(f"  {len(studies) - _SHOWN} more reasons")
    images = [(what, reason) for what, reason in left_out if not what.startswith("study ")]
    for what, reason in images[:_SHOWN]:
        say(f"  {what}: {reason}")
    if len(images) > _SHOWN:
        say(f"  {len(images) - _SHOWN} more images")
