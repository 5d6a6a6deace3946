"""radrep recipes: the recipes that come with radrep, listed and copied out."""

from pathlib import Path
from typing import Annotated

import typer

from radrep.cli.console import say, table
from radrep.errors import RadrepError

app = typer.Typer(invoke_without_command=True)


@app.callback()
def recipes(ctx: typer.Context) -> None:
    """List the recipes that come with radrep, or copy one out."""
    if ctx.invoked_subcommand is None:
        from radrep.recipe.load import shipped_recipes

        table(("recipe", "what it does"), shipped_recipes())
        say("\nRun one by its name:    radrep train NAME")
        say("Copy one to change it:  radrep recipes copy NAME")


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A recipe that radrep recipes lists.")],
    dest: Annotated[
        Path | None, typer.Argument(help="A new file, or a folder.", show_default="NAME.yaml")
    ] = None,
) -> None:
    """Copy a recipe out, comments and all; an existing file is never overwritten."""
    from radrep.atomic import check_output
    from radrep.recipe.load import shipped_recipe_text

    text = shipped_recipe_text(name)
    file_name = f"{name.removesuffix('.yaml')}.yaml"
    target = dest or Path(file_name)
    target = target / file_name if target.is_dir() else target
    check_output(target.parent, "place", folder=True, new=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = target.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise RadrepError(
            f"{target} exists already. Give another name: radrep recipes copy {name} FILE"
        ) from error
    try:
        with file:
            file.write(text)
    except OSError:  # a full disk: leave nothing half-written
        target.unlink()
        raise
    say(f"{target}\nRun it with: radrep train {target}")
