"""radrep data: look at a prepared folder, and check it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.errors import DataError

if TYPE_CHECKING:
    from radrep.preparation.inspection import Overlap
    from radrep.preparation.overlap import Leaks

app = typer.Typer(no_args_is_help=True)

Prepared = Annotated[Path, typer.Argument(help="A folder made by radrep prepare.")]


@app.callback()
def data() -> None:
    """Look at prepared data, and check it.

    Example:  radrep data show data/iu
    """


@app.command()
def show(
    prepared: Prepared,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Where the contact sheet goes.", show_default="in the folder"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Which split the sheet shows.", show_default="the first that has any"),
    ] = None,
    num: Annotated[int, typer.Option(min=1, max=100, help="Studies on the sheet.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of studies.")] = 0,
) -> None:
    """Show what is in it, and write a contact sheet of random studies with their reports.

    Example:  radrep data show data/iu --sheet iu.png
    """
    from radrep.preparation.inspection import contact_sheet, describe

    facts = describe(prepared)
    names = sorted({name for split in facts.splits.values() for name in split.sections})
    table(
        ("split", "studies", "images", "patients", "frontal", "lateral", *names, "MB"),
        [
            (
                *(split, found.studies, found.images, found.patients or None),
                *(found.frontal, found.lateral, *(found.sections.get(name, 0) for name in names)),
                round(found.megabytes),
            )
            for split, found in facts.splits.items()
        ],
    )
    say(f"source      {facts.recipe['source']} ({facts.layout}), {facts.num_left_out} left out")
    told = ("image_size", "views", "section", "limit")
    say("prepared    " + ", ".join(f"{key} {facts.recipe[key]}" for key in told))
    for note in facts.notes:
        say(f"note        {note}")
    show_leaks(facts.leaks)
    path = sheet or prepared / "contact_sheet.png"
    shown = split or next(name for name, found in facts.splits.items() if found.studies)
    picture = contact_sheet(prepared, split=shown, num_studies=num, seed=seed)
    try:
        picture.save(path)
    except (OSError, ValueError) as error:  # ValueError: an ending that is no picture's
        raise DataError(f"the contact sheet cannot be written to {path}: {error}") from error
    say(f"{path}: {min(num, facts.splits[shown].studies)} random studies of {shown}")


@app.command()
def check(
    prepared: Prepared,
    against: Annotated[
        Path | None,
        typer.Option(help="Another prepared folder: its test studies must not be in train here."),
    ] = None,
    near_duplicates: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=64,
            metavar="BITS",
            help="Count images that look alike: their difference hashes differ in at most so many "
            "bits of 256. On IU X-Ray one film twice differs in 6 at most, others in 14 at least.",
        ),
    ] = None,
) -> None:
    """Verify all that it holds, and count what splits share.

    Exit code 1: a file was changed, or patients or images are in two splits.

    With --against: or in train here and in test there. Look-alikes count too.

    Reports that are word for word the same are told, and are no fault.

    Example:  radrep data check data/iu --near-duplicates 10
    """
    from radrep.preparation.inspection import check as run

    with TerminalReporter() as reporter:
        found = run(prepared, against=against, max_bits=near_duplicates, reporter=reporter)
    for problem in found.problems:
        show_error(problem)
    show_leaks(found.leaks)
    for pair, number in found.near.items():
        first, second = pair.split("/")
        say(f"{number} images of {second} look like one of {first} (at {near_duplicates} bits)")
    if found.overlap is not None:
        _show_overlap(found.overlap, against)
    if not found.problems:
        say(f"{prepared}: {found.num_shards} shards, all as they were prepared.")
    if found.problems or found.has_leak:
        raise typer.Exit(1)


def _show_overlap(overlap: "Overlap", against: Path | None) -> None:
    here, there = overlap.image_sizes
    images = "" if overlap.images is None else f", {overlap.images} images"
    near = ""
    if overlap.near is not None:
        near = f", {overlap.near} look-alike images (at {overlap.max_bits} bits)"
    say(
        f"train here and test of {against} share {overlap.studies} studies, "
        f"{overlap.patients} patients{images}{near}"
    )
    if overlap.images is None:
        say(
            f"images here have {here} pixels and there {there}: by their pixels they cannot be "
            "compared, only by their looks"
        )
    if overlap.texts:
        say(
            f"reports     {overlap.text_share:.0%} of that test ({overlap.texts}) are word for "
            "word in train"
        )


def show_leaks(leaks: "Leaks") -> None:
    """Say what splits share, nothing where they share nothing."""
    for pair, number in leaks.patients.items():
        first, second = pair.split("/")
        if number:
            say(f"leak        {number} patients are in {first} and in {second}")
        if leaks.images[pair]:
            say(f"leak        {leaks.images[pair]} images are in {first} and in {second}")
        if leaks.texts[pair]:
            share = f"{leaks.text_shares[pair]:.0%} of {second} ({leaks.texts[pair]})"
            say(f"reports     {share} are word for word in {first}")
    for split, number in leaks.repeated.items():
        if number:
            again = f"{number} images of {split} are in an earlier study of it too; all are kept"
            say(f"repeated    {again}")
