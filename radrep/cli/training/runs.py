"""radrep runs: what was trained, how two runs differ, what can go."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.errors import CheckpointError, RadrepError

if TYPE_CHECKING:
    from radrep.weights.runs import RunFacts, Waste

app = typer.Typer(invoke_without_command=True)

Folder = Annotated[Path, typer.Option("--runs", help="The folder of the runs, or one run.")]
Run = Annotated[Path, typer.Argument(help="A run.")]


@app.callback()
def runs(ctx: typer.Context, folder: Folder = Path("runs")) -> None:
    """List runs: recipe, data, best validation, how long and when it was trained, size.

    Runs of an older radrep have their model, in brackets, for the recipe.

    Example:  radrep runs

    Compare two:  radrep runs compare runs/a runs/b
    """
    if ctx.invoked_subcommand is not None:
        return
    from radrep.weights.runs import describe_run, find_runs

    found = find_runs(folder)
    with TerminalReporter() as reporter, reporter.progress("runs", len(found), "runs") as advance:
        rows = []
        for run in found:
            facts = describe_run(run)
            rows.append((_name(run, folder), *_shown(facts)))
            advance()
    if not rows:
        say(f"{folder} has no run. Train one with: radrep train csr_lmca_iu_cpu")
        return
    table(("run", "recipe", "data", "best", "value", "time", "changed", "MB"), rows)


def _name(run: Path, folder: Path) -> str:
    return run.name if run == folder else str(run.relative_to(folder))


def _shown(facts: "RunFacts") -> tuple[object, ...]:
    recipe = facts.recipe
    return (
        "of another radrep" if recipe is None else recipe.name or f"({recipe.model.name})",
        None if recipe is None else recipe.data.prepared.name,
        None if recipe is None else recipe.train.monitor.removeprefix("val/"),
        facts.best,
        None if facts.seconds is None else _duration(facts.seconds),
        f"{facts.changed:%Y-%m-%d}",
        round(facts.num_bytes / 1e6),
    )


def _duration(seconds: float) -> str:
    """In the unit that has one or two digits before the point: 42 s, 12 min, 3.2 h, 4.1 d."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


@app.command()
def compare(first: Run, second: Run) -> None:
    """Show where two runs differ: keys of their recipes, and what their best checkpoints reached.

    Scores are of validation, as in training; to test the difference: radrep eval A B

    Example:  radrep runs compare runs/a runs/b
    """
    from radrep.recipe.recipe import differences
    from radrep.weights.runs import describe_run, find_runs

    facts = []
    for run in (first, second):
        if find_runs(run) != [run]:
            raise CheckpointError(f"{run} is no run; name one, as radrep runs lists them")
        facts.append(describe_run(run))
    recipes = [each.recipe for each in facts]
    if recipes[0] is None or recipes[1] is None:
        raise CheckpointError(
            f"the recipe of {first if recipes[0] is None else second} cannot be read by this radrep"
        )
    changed = differences(recipes[0], recipes[1])
    changed.pop("out", None)
    names = (str(first), str(second))
    if changed:
        table(("recipe", *names), [(key, *map(str, pair)) for key, pair in changed.items()])
    else:
        say("The recipes differ in nothing but the folder.")
    one, other = (each.scores for each in facts)
    rows: list[tuple[object, ...]] = []
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        rows.append((name, a, b, None if a is None or b is None else b - a))
    if rows:
        say("")
        table(("best checkpoint", *names, "difference"), rows)


@app.command()
def clean(
    folder: Folder = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Remove what nothing needs: half written, damaged and superseded checkpoints, empty runs.

    Shows it first and asks. The best and the last checkpoint of a run always stay.

    Example:  radrep runs clean --runs runs
    """
    from radrep.weights.runs import find_runs, find_waste, remove_waste

    found: list[Waste] = []
    for run in find_runs(folder):
        try:
            found += find_waste(run)
        except RadrepError as error:  # it is being trained
            show_error(str(error), prefix="kept: ")
    if not found:
        say(f"{folder} has nothing to remove.")
        return
    table(
        ("remove", "why", "MB"),
        [(waste.path, waste.reason, waste.num_bytes / 1e6) for waste in found],
    )
    total = sum(waste.num_bytes for waste in found) / 1e6
    if not yes and not typer.confirm(f"Remove these {len(found)}, {total:.0f} MB?"):
        say("Nothing was removed.")
        return
    errors: list[OSError] = []
    for waste in found:
        try:
            errors += remove_waste(waste)
        except RadrepError as error:  # it is being trained again
            show_error(str(error), prefix="kept: ")
            total -= waste.num_bytes / 1e6
    for problem in errors:
        show_error(f"{problem.filename}: {problem.strerror}")
    say(f"{total:.0f} MB freed." if not errors else "Some of it could not be removed.")
    if errors:
        raise typer.Exit(2)
