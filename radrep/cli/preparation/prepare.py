"""radrep prepare: a raw download to a checked, prepared folder."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say
from radrep.cli.engine import Address, Engine
from radrep.cli.outputs import added_folder
from radrep.cli.preparation.run import beside, prepare_source
from radrep.cli.preparation.saliency import saliency

if TYPE_CHECKING:
    from radrep.preparation.sources.find_raw import Download

app = typer.Typer(no_args_is_help=True)

Raw = Annotated[
    Path | None,
    typer.Option(help="Folder of the download.", show_default="searched in data/, downloads/, ."),
]
Out = Annotated[Path, typer.Option(help="Folder to make.", callback=added_folder)]
ImageSize = Annotated[int, typer.Option(min=32, help="Short side of the images, in pixels.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Number of processes.", show_default="one per core")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N studies per split.")]
Views = Annotated[str, typer.Option(help="Images to keep: all, frontal or lateral.")]
_SECTION_HELP = (
    "Leave out studies without: findings, impression, both (one of the two, or the last paragraph);"
    " any keeps all studies."
)
Section = Annotated[str, typer.Option(help=_SECTION_HELP)]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Count studies and check files; write nothing.", is_eager=True),
]


@app.callback()
def prepare() -> None:
    """Turn a raw data set into a checked, prepared folder.

    Without --raw, mimic, iu, chexpert-plus and rexgradient search data/, downloads/ and the
    working folder.

    Example:  radrep prepare mimic
    """


@app.command()
def iu(
    raw: Raw = None,
    out: Out = Path("data/iu"),
    image_size: ImageSize = 256,
    limit: Limit = None,
    views: Views = "all",
    section: Section = "both",
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
) -> None:
    """IU X-Ray: R2Gen's folder (data/iu_xray, ...), Open-i's own files (PNG or DICOM), or Kaggle's.

    Example:  radrep prepare iu --raw downloads/iu_xray --out data/iu
    """
    from radrep.preparation.plan import Choice, chosen_studies
    from radrep.preparation.sources.iu_xray.source import DOWNLOAD, IuXraySource

    choice = Choice(limit, views, section)
    source = IuXraySource(_find(raw, DOWNLOAD, "iu", out))
    scratch = beside(out, ".unpacked")
    if source.archive and dry_run:
        say(f"note: {source.archive.name} is not opened; its images are assumed to be complete.")
    elif source.archive and not (out / "prepared.json").exists():
        # Of a few studies only their images are unpacked, and nothing behind the last of them.
        wanted = chosen_studies(source, choice) if limit else None
        with TerminalReporter() as reporter:
            source.unpack(scratch, wanted, reporter)
    prepare_source(source, out, image_size, choice, workers, dry_run, engine, address)
    if source.archive and not dry_run and scratch.is_dir():
        # Only what `unpack` made, and the folder if that leaves it empty.
        for unpacked in scratch.glob(f"{source.archive.name}-*"):
            shutil.rmtree(unpacked)
        if not any(scratch.iterdir()):
            scratch.rmdir()


@app.command()
def mimic(
    raw: Raw = None,
    reports: Annotated[
        Path | None,
        typer.Option(
            help="Folder of MIMIC-CXR's reports.", show_default="--raw, or a folder beside it"
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="official, or r2gen (R2Gen's annotation.json).",
            show_default="r2gen if its annotation.json is in --raw, else official",
        ),
    ] = None,
    out: Out = Path("data/mimic"),
    image_size: ImageSize = 256,
    limit: Limit = None,
    views: Views = "all",
    section: Section = "both",
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
) -> None:
    """MIMIC-CXR: PhysioNet's folders (data/MIMIC-CXR-JPG, ...), or R2Gen's (data/mimic_cxr, ...).

    Example:  radrep prepare mimic --raw mimic-cxr-jpg --reports mimic-cxr --limit 100
    """
    from radrep.preparation.plan import Choice
    from radrep.preparation.sources.mimic_cxr.source import MimicCxrSource, describe_download

    choice = Choice(limit, views, section)
    raw = _find(raw, describe_download(split), "mimic", out)
    prepare_source(
        MimicCxrSource(raw, reports, split),
        out,
        image_size,
        choice,
        workers,
        dry_run,
        engine,
        address,
    )


@app.command()
def chexpert_plus(
    raw: Raw = None,
    split: Annotated[
        str, typer.Option(help="official, or cxpmrg (CXPMRG-Bench's annotation.json).")
    ] = "official",
    out: Out = Path("data/chexpert_plus"),
    image_size: ImageSize = 256,
    limit: Limit = None,
    views: Views = "all",
    section: Section = "both",
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
) -> None:
    """CheXpert Plus (data/chexpert_plus, ...), with its own split or CXPMRG-Bench's.

    Example:  radrep prepare chexpert-plus --raw chexpert_plus --split cxpmrg
    """
    from radrep.preparation.plan import Choice
    from radrep.preparation.sources.chexpert_plus import DOWNLOAD, ChexpertPlusSource

    choice = Choice(limit, views, section)
    source = ChexpertPlusSource(_find(raw, DOWNLOAD, "chexpert-plus", out), split)
    prepare_source(source, out, image_size, choice, workers, dry_run, engine, address)


@app.command()
def rexgradient(
    raw: Raw = None,
    out: Out = Path("data/rexgradient"),
    image_size: ImageSize = 256,
    limit: Limit = None,
    views: Views = "all",
    section: Section = "both",
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
) -> None:
    """ReXGradient-160K (data/ReXGradient-160K, ...): metadata/ and the unpacked deid_png/.

    Example:  radrep prepare rexgradient --raw ReXGradient-160K --limit 1000
    """
    from radrep.preparation.plan import Choice
    from radrep.preparation.sources.rexgradient import DOWNLOAD, RexGradientSource

    choice = Choice(limit, views, section)
    source = RexGradientSource(_find(raw, DOWNLOAD, "rexgradient", out))
    prepare_source(source, out, image_size, choice, workers, dry_run, engine, address)


@app.command()
def folder(
    raw: Annotated[Path, typer.Option(help="A folder of images, nested to any depth.")],
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
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
) -> None:
    """Your own images (PNG, JPEG, TIFF, BMP, DICOM), with or without a table of reports.

    Example:  radrep prepare folder --raw scans --reports scans/reports.csv --out data/mine
    """
    from radrep.preparation.plan import Choice
    from radrep.preparation.sources.folder.source import FolderSource

    choice = Choice(limit, views, section)
    prepare_source(
        FolderSource(_reading(raw), reports),
        out,
        image_size,
        choice,
        workers,
        dry_run,
        engine,
        address,
    )


@app.command()
def phantom(
    num_studies: Annotated[int, typer.Option(min=3, help="Number of studies to draw.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")] = 0,
    out: Out = Path("data/phantom"),
    image_size: Annotated[int, typer.Option(min=64, help="Side of the images, in pixels.")] = 256,
    finding_scale: Annotated[
        float, typer.Option(min=0.5, max=2, help="Area of the findings; at 1 up to 5 % of a film.")
    ] = 1.0,
    impressions: Annotated[
        bool, typer.Option("--impressions", help="Write an impression behind the findings.")
    ] = False,
    indications: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Write an indication, which names this share of the findings.",
            show_default="no indication",
        ),
    ] = None,
    priors: Annotated[
        bool,
        typer.Option("--priors", help="Two studies of each patient; the later report compares."),
    ] = False,
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
) -> None:
    """Synthetic chest radiographs with reports of their findings.

    Example:  radrep prepare phantom --num-studies 2000 --out data/phantom
    """
    from radrep.preparation.plan import Choice
    from radrep.preparation.sources.phantom.source import PhantomSource

    source = PhantomSource(
        num_studies,
        seed=seed,
        image_size=image_size,
        finding_scale=finding_scale,
        impressions=impressions,
        indications=indications,
        priors=priors,
    )
    prepare_source(source, out, image_size, Choice(), workers, dry_run, engine, address)


app.command()(saliency)


def _find(raw: Path | None, download: "Download", command: str, out: Path) -> Path:
    if raw is None:
        from radrep.preparation.sources.find_raw import find_raw

        raw, *others = find_raw(download, f"radrep prepare {command}", out)
        say(f"raw: {raw} (found; --raw DIR takes another)")
        if others:
            say(f"note: not used, also found: {', '.join(map(str, others))}")
    return _reading(raw)


def _reading(raw: Path) -> Path:
    # It takes minutes for a large data set.
    with TerminalReporter() as reporter:
        reporter.info("raw", f"reading the tables of {raw}")
    return raw
