"""radrep prepare: a raw download to a checked, prepared folder."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.cli.data import show_leaks
from radrep.cli.saliency import saliency

if TYPE_CHECKING:
    from radrep.preparation.pipeline import CountResult, PrepareResult
    from radrep.preparation.sources.base import Source

app = typer.Typer(no_args_is_help=True)

_SHOWN = 6

Out = Annotated[Path, typer.Option(help="The folder to make.")]
ImageSize = Annotated[int, typer.Option(min=32, help="Short side of the images, in pixels.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one a core")]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="At most so many studies of each split, the first; for a first try."),
]
Views = Annotated[str, typer.Option(help="all, frontal or lateral: the images that are kept.")]
Section = Annotated[
    str,
    typer.Option(
        help="findings, impression, both (either, or else the last paragraph): studies without it "
        "are left out; any: none is."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Only count, and look whether images are there; open and write nothing."
    ),
]


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
    from radrep.preparation.pipeline import Choice, chosen_studies
    from radrep.preparation.sources.iu_xray.source import NUM_IMAGES, IuXraySource

    _tell_reading(raw)
    source = IuXraySource(raw)
    scratch = _beside(out, ".unpacked")
    if source.archive and dry_run:
        say(f"note: {source.archive.name} is not looked into; its images are taken to be there.")
    elif source.archive and not (out / "prepared.json").exists():
        # Of a few studies only their images are unpacked, and nothing behind the last of them.
        wanted = chosen_studies(source, Choice(limit, views, section)) if limit else None
        total = NUM_IMAGES if wanted is None else source.count_images(wanted)
        with (
            TerminalReporter() as reporter,
            reporter.progress(f"unpack {source.archive.name}", total, "images") as advance,
        ):
            source.unpack(scratch, advance, wanted)
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
    split: Annotated[
        str | None,
        typer.Option(
            help="official, or r2gen (R2Gen's annotation.json).",
            show_default="r2gen where its annotation.json lies in --raw, else official",
        ),
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
    from radrep.preparation.sources.mimic_cxr.source import MimicCxrSource

    _tell_reading(raw)
    source = MimicCxrSource(raw, reports, split)
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
    from radrep.preparation.sources.chexpert_plus import ChexpertPlusSource

    _tell_reading(raw)
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
    from radrep.preparation.sources.folder.source import FolderSource

    _tell_reading(raw)
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
    from radrep.preparation.sources.phantom.source import PhantomSource

    source = PhantomSource(num_studies, seed=seed, image_size=image_size)
    _run(source, out, image_size, None, "all", "both", workers, dry_run)


app.command()(saliency)


def _tell_reading(raw: Path) -> None:
    """The tables of a large set take a while, and nothing is known before."""
    with TerminalReporter() as reporter:
        reporter.info("raw", f"reading the tables of {raw}")


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
    from radrep.preparation.pipeline import Choice, count_studies
    from radrep.preparation.pipeline import prepare as run

    choice = Choice(limit, views, section)
    say(f"{source.name}: {source.layout}")
    for note in source.notes:
        say(f"note: {note}")
    if dry_run:
        with TerminalReporter() as reporter:
            found = count_studies(source, choice, reporter=reporter)
        whole = choice == Choice()
        expected = source.expected_counts() if whole else None
        _show_counts(found, expected, source.expected_images() if whole else None)
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
    found: "CountResult",
    expected: Mapping[str, int] | None,
    expected_images: Mapping[str, int] | None,
) -> None:
    counts = {split: row["studies"] for split, row in found.counts.items()}
    images = {split: row["images"] for split, row in found.counts.items()}
    _show_table(counts, images, expected, expected_images, found.left_out)
    _show_left_out(found.left_out)
    say("Counted without opening an image; nothing was written.")


def _show(result: "PrepareResult", *, complete: bool) -> None:
    expected = result.expected if complete else None
    expected_images = result.expected_images if complete else None
    _show_table(result.counts, result.image_counts, expected, expected_images, result.left_out)
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


def _show_table(
    counts: Mapping[str, int],
    images: Mapping[str, int],
    expected: Mapping[str, int] | None,
    expected_images: Mapping[str, int] | None,
    left_out: Sequence[tuple[str, str]],
) -> None:
    """What there is beside what a complete download has, by split and in all."""
    num_studies = sum(what.startswith("study ") for what, _ in left_out)
    totals = {"studies": sum(counts.values()), "images": sum(images.values())}
    given = {"studies": expected or {}, "images": expected_images or {}}
    known = {name: dict(numbers) for name, numbers in given.items()}
    for numbers in known.values():
        if numbers:
            numbers.setdefault("all", sum(numbers.values()))
    told = [name for name, numbers in known.items() if numbers]
    rows = [
        (split, count, images[split], *(known[name].get(split) for name in told))
        for split, count in counts.items()
    ]
    rows.append(("all", *totals.values(), *(known[name]["all"] for name in told)))
    table(("split", "studies", "images", *(f"expected {name}" for name in told)), rows)
    # Open-i's and CheXpert's totals count what has no text too.
    have = {
        "studies": {**counts, "all": totals["studies"] + num_studies},
        "images": {**images, "all": totals["images"] + len(left_out) - num_studies},
    }
    differing = [
        f"{split} {have[name][split] - number:+,d} {name}"
        for name, numbers in given.items()
        for split, number in numbers.items()
        if have[name][split] != number
    ]
    if differing:
        if expected and "all" in expected:
            say("With what was left out, a complete download differs: " + ", ".join(differing))
        else:
            say("These counts differ from a complete download's: " + ", ".join(differing))


def _show_left_out(left_out: Sequence[tuple[str, str]]) -> None:
    """Studies by reason, then images by reason: a missing folder would fill a thousand lines."""
    for one, several in (("study", "studies"), ("image", "images")):
        groups: dict[str, list[tuple[str, str]]] = {}
        for what, reason in left_out:
            if what.startswith("study ") == (one == "study"):
                groups.setdefault(_kind_of_reason(what, reason), []).append((what, reason))
        ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
        for kind, members in ordered[:_SHOWN]:
            what, reason = members[0]
            if len(members) == 1:
                say(f"  1 {one}: {what.removeprefix('study ')}: {reason}")
            else:
                first = what.removeprefix("study ")
                say(f"  {len(members):,} {several}: {kind} (the first: {first})")
        if len(ordered) > _SHOWN:
            more = sum(len(members) for _, members in ordered[_SHOWN:])
            say(f"  {more:,} more {several}, for {len(ordered) - _SHOWN} more reasons")


def _kind_of_reason(what: str, reason: str) -> str:
    """A reason without the words that name the very study or image."""
    name = PurePath(what.removeprefix("study ")).stem
    return " ".join(word for word in reason.split() if name not in word)
