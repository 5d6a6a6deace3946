"""radrep data: inspect and check a prepared folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.cli.outputs import any_file
from radrep.errors import DataError, RadrepError

if TYPE_CHECKING:
    from radrep.metrics.labeler.agreement import Agreement
    from radrep.preparation.inspection import Overlap
    from radrep.preparation.overlap import Leaks

_MAX_REASONS = 6

app = typer.Typer(no_args_is_help=True)

Prepared = Annotated[Path, typer.Argument(help="A folder made by radrep prepare.")]


@app.callback()
def data() -> None:
    """Inspect and check prepared data.

    Example:  radrep data show data/iu
    """


@app.command()
def show(
    prepared: Prepared,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of the contact sheet.", show_default="in the folder", callback=any_file
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split on the sheet.", show_default="the first with studies"),
    ] = None,
    num_studies: Annotated[int, typer.Option(min=1, max=100, help="Studies on the sheet.")] = 12,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Sampling seed.")] = 0,
) -> None:
    """Show its contents, and draw a contact sheet of random studies with their reports.

    Example:  radrep data show data/iu --out iu.png
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
    keys = ("image_size", "views", "section", "limit")
    say("prepared    " + ", ".join(f"{key} {facts.recipe[key]}" for key in keys))
    for note in facts.notes:
        say(f"note        {note}")
    show_leaks(facts.leaks)
    path = out or prepared / "contact_sheet.png"
    shown = split or next(name for name, found in facts.splits.items() if found.studies)
    picture = contact_sheet(prepared, split=shown, num_studies=num_studies, seed=seed)
    try:
        picture.save(path)
    except (OSError, ValueError) as error:  # ValueError: an ending that is no picture's
        raise DataError(f"the contact sheet cannot be written to {path}: {error}") from error
    say(f"{path}: {min(num_studies, facts.splits[shown].studies)} random studies of {shown}")


@app.command()
def check(
    prepared: Prepared,
    against: Annotated[
        Path | None,
        typer.Option(help="Another prepared folder, whose test studies must not be in train here."),
    ] = None,
    max_hash_distance: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=64,
            metavar="BITS",
            help="Count near-duplicate images: perceptual hashes (dHash, 256 bits) at most this "
            "far apart. On IU X-Ray the same image twice differs in 6 bits at most, others in 14 "
            "at least.",
        ),
    ] = None,
) -> None:
    """Verify checksums and counts, and count what splits share.

    Exit code 1: a file was changed, or patients or images are in two splits (with --against: in
    train here and in test there), near-duplicates included.

    Shared report texts are counted too, and so are reports with what may be a date, phone or
    record number or name, which de-identification removes; neither is an error.

    Example:  radrep data check data/iu --max-hash-distance 10
    """
    from radrep.preparation.inspection import check as run

    with TerminalReporter() as reporter:
        found = run(prepared, against=against, max_bits=max_hash_distance, reporter=reporter)
    for problem in found.problems:
        show_error(problem)
    show_leaks(found.leaks)
    distance = f"(hash distance at most {max_hash_distance})"
    for pair, number in found.near.items():
        first, second = pair.split("/")
        say(f"{number} images of {second} are near-duplicates of one in {first} {distance}")
    if found.overlap is not None:
        _show_overlap(found.overlap, against)
    for kind, number in found.identifiers.num_studies.items():
        split, study = found.identifiers.first[kind]
        say(f"identifiers {number} reports seem to have {kind}, the first of {study} in {split}")
    if not found.problems:
        say(f"{prepared}: {found.num_shards} shards, all checksums match.")
    if found.problems or found.has_leak:
        raise typer.Exit(1)


@app.command()
def labels(
    prepared: Prepared,
    rad_restruct: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Compare with the structured reports in a clone of Rad-ReStruct, for IU X-Ray.",
            show_default="with the labels of PREPARED",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSONL of the studies on which they differ, with their reports.",
            show_default="in the folder",
            callback=any_file,
        ),
    ] = None,
) -> None:
    """Compare the labeler's reading of reports with labels that people gave them.

    Positive is compared with present: what the labeler calls uncertain counts as absent, and a
    given label that is uncertain is left out. Given and labeler are shares of the n reports.

    Example:  radrep data labels data/iu --rad-restruct Rad-ReStruct --split train
    """
    from radrep.data.study import SPLITS

    if split not in SPLITS:
        raise RadrepError(f"--split must be one of {', '.join(SPLITS)}, got '{split}'")
    from radrep.training.label_agreement import compare_labels

    given = "table" if rad_restruct is None else "rad-restruct"
    file = out or prepared / f"differ-{given}-{split}.jsonl"
    with TerminalReporter() as reporter:
        found = compare_labels(prepared, split, file, rad_restruct=rad_restruct, reporter=reporter)
    say(f"compared    {found.num_compared} studies of {split} with labels of {found.vocabulary}")
    if found.num_without:
        say(f"left out    {found.num_without} studies without one that is certain")
    columns = ("", "n", "given", "labeler", "unsure", "precision", "recall", "F1", "kappa")
    table(columns, [_agreement_row(row) for row in found.rows])
    say(f"{file}: {found.num_disagreeing} studies on which they differ")


def _agreement_row(row: "Agreement") -> tuple[object, ...]:
    n = row.num_known
    shares = (row.given / n, row.labeler / n) if n else (None, None)
    figures = (row.precision, row.recall, row.f1, row.kappa)
    return (row.observation, n, *shares, row.uncertain, *figures)


def _show_overlap(overlap: "Overlap", against: Path | None) -> None:
    shared = f"{overlap.studies} studies, {overlap.patients} patients"
    if overlap.images is not None:
        shared += f", {overlap.images} images"
    if overlap.near is not None:
        near = f"near-duplicate images (hash distance at most {overlap.max_bits})"
        shared += f", {overlap.near} {near}"
    say(f"train here and test of {against} share {shared}")
    if overlap.images is None:
        here, there = overlap.image_sizes
        say(f"images have {here} pixels here and {there} there: compared by perceptual hash only")
    _show_texts(overlap.texts, "that test", "train")


def show_leaks(leaks: "Leaks") -> None:
    """Print what splits share, if anything."""
    for pair, number in leaks.patients.items():
        first, second = pair.split("/")
        if number:
            say(f"leak        {number} patients are in {first} and in {second}")
        if leaks.images[pair]:
            say(f"leak        {leaks.images[pair]} images are in {first} and in {second}")
        texts = {"whole": (leaks.texts[pair], leaks.text_shares[pair])}
        for name, counts in leaks.target_texts.items():
            texts[name] = counts[pair], leaks.target_shares[name][pair]
        _show_texts(texts, second, first)
    for split, number in leaks.repeated.items():
        if number:
            again = f"{number} images of {split} are also in an earlier study of it; all are kept"
            say(f"repeated    {again}")


def _show_texts(texts: Mapping[str, tuple[int, float]], second: str, first: str) -> None:
    """Whole reports by their words, and the texts that models are trained and scored on."""
    shown = {name: f"{share:.0%} ({count})" for name, (count, share) in texts.items() if count}
    if whole := shown.pop("whole", None):
        say(f"reports     {whole} of {second} also occur verbatim in {first}")
    if shown:
        targets = ", ".join(f"{name} {share}" for name, share in shown.items())
        say(f"targets     cleaned, of {second} also in {first}: {targets}")


def show_left_out(left_out: Sequence[tuple[str, str]]) -> None:
    """Studies by reason, then images by reason: a missing folder would fill a thousand lines."""
    for one, several in (("study", "studies"), ("image", "images")):
        groups: dict[str, list[tuple[str, str]]] = {}
        for what, reason in left_out:
            if what.startswith("study ") == (one == "study"):
                name = what.removeprefix("study ")
                # The reason without the words that name this study or image.
                kind = " ".join(w for w in reason.split() if PurePath(name).stem not in w)
                groups.setdefault(kind, []).append((name, reason))
        ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
        for kind, members in ordered[:_MAX_REASONS]:
            name, reason = members[0]
            if len(members) == 1:
                say(f"  1 {one}: {name}: {reason}")
            else:
                say(f"  {len(members):,} {several}: {kind} (the first: {name})")
        if len(ordered) > _MAX_REASONS:
            more = sum(len(members) for _, members in ordered[_MAX_REASONS:])
            say(f"  {more:,} more {several}, for {len(ordered) - _MAX_REASONS} more reasons")
