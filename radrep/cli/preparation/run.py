"""A source prepared, and what the terminal has of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.cli.data import show_leaks, show_left_out
from radrep.cli.engine import choose_cluster
from radrep.errors import RadrepError

if TYPE_CHECKING:
    from radrep.preparation.plan import Choice
    from radrep.preparation.sources.base import Source

_MAX_REASONS = 6


def prepare_source(
    source: "Source",
    out: Path,
    image_size: int,
    choice: "Choice",
    workers: int | None,
    dry_run: bool,
    engine: str,
    address: str | None,
) -> None:
    """Prepare a source, or count it in a dry run, and print what came of it."""
    cluster = choose_cluster(engine, address)
    if cluster is not None and workers is not None:
        raise RadrepError("--workers is for --engine local; a Ray cluster has its own")

    from radrep.preparation.pipeline import prepare as run
    from radrep.preparation.plan import Choice, count_studies, find_unready

    say(f"{source.name}: {source.layout}")
    for note in source.notes:
        say(f"note: {note}")
    published = {"studies": source.expected_counts, "images": source.expected_images}
    expected = published if choice == Choice() else {}
    if dry_run:
        with TerminalReporter() as reporter:
            found = count_studies(source, choice, reporter=reporter)
        counts = {k: {split: row[k] for split, row in found.counts.items()} for k in published}
        _show_counts(counts, expected, found.left_out)
        show_left_out(found.left_out)
        _show_warnings([*source.warnings, *find_unready(source, counts["studies"])])
        say("Counted without opening an image; nothing was written.")
        return
    try:
        with TerminalReporter() as reporter:
            result = run(
                source,
                out,
                image_size=image_size,
                choice=choice,
                workers=workers,
                cluster=cluster,
                reporter=reporter,
            )
    except KeyboardInterrupt:
        kept = beside(out, ".partial")
        if not kept.exists():
            raise
        show_error(
            f"stopped; {kept} keeps what is done, and the same command resumes from it", prefix=""
        )
        raise typer.Exit(130) from None
    prepared = {"studies": result.counts, "images": result.image_counts}
    _show_counts(prepared, expected, result.left_out)
    if result.num_images and result.num_square == result.num_images:
        say(
            "All source images are already square (aspect ratio lost upstream); mention this when "
            "reporting scores."
        )
    _show_notes(result.image_notes)
    show_leaks(result.leaks)
    if result.left_out:
        say(f"Left out: {len(result.left_out)} (all of them in {result.out / 'left_out.jsonl'})")
        show_left_out(result.left_out)
    _show_warnings(result.warnings)
    ready = "is prepared; see the warnings before you train on it." * bool(result.warnings)
    before = "was prepared before in the same way; nothing was done." * result.already_done
    say(f"{result.out} {before or ready or 'is ready.'}")


def _show_warnings(warnings: Sequence[str]) -> None:
    with TerminalReporter() as reporter:
        for warning in warnings:
            reporter.warn(warning)


def _show_counts(
    found: Mapping[str, Mapping[str, int]],
    expected: Mapping[str, Mapping[str, int] | None],
    left_out: Sequence[tuple[str, str]],
) -> None:
    """Studies and images by split and in total, beside those of a complete download."""
    num_left_out = sum(what.startswith("study ") for what, _ in left_out)
    # Published totals (Open-i's, CheXpert's) include studies without a text.
    more = {"studies": num_left_out, "images": len(left_out) - num_left_out}
    columns = {name: {**counts, "all": sum(counts.values())} for name, counts in found.items()}
    differences = []
    for name, published in expected.items():
        if published:
            columns[f"expected {name}"] = {"all": sum(published.values()), **published}
            counts = {**columns[name], "all": columns[name]["all"] + more[name]}
            differences += [
                f"{split} {counts[split] - number:+,d} {name}"
                for split, number in published.items()
                if counts[split] != number
            ]
    rows = [(key, *(c.get(key) for c in columns.values())) for key in columns["studies"]]
    table(("split", *columns), rows)
    if differences:
        only_total = "all" in (expected["studies"] or ())
        counted = ", left-out ones included," if only_total else ""
        say(f"A complete download{counted} differs: {', '.join(differences)}")


def _show_notes(notes: Sequence[tuple[str, str]]) -> None:
    """What was chosen in reading images, by kind: values differ and stand in brackets at its end.

    A note is "path: what was chosen (value)".
    """
    groups: dict[str, list[str]] = {}
    for _, note in notes:
        groups.setdefault(note.rpartition(": ")[2].partition(" (")[0], []).append(note)
    for kind, members in groups.items():
        if len(members) == 1:
            say(f"note: {members[0]}")
        else:
            say(f"note: {len(members):,} images: {kind} (the first: {members[0]})")


def beside(out: Path, ending: str) -> Path:
    """What lies beside a folder under its name and an ending."""
    whole = out.resolve()
    return whole.with_name(whole.name + ending)
