"""radrep cache: features of frozen backbones that are kept on disk."""

import typer

from radrep.cli.console import say, table

app = typer.Typer(invoke_without_command=True)


@app.callback()
def cache(ctx: typer.Context) -> None:
    """Show the cached image features.

    Example:  radrep cache
    """
    if ctx.invoked_subcommand is not None:
        return
    from radrep.atomic import cache_folder
    from radrep.training.feature_cache import list_cache

    entries = list_cache()
    if not entries:
        say(f"{cache_folder()} holds no features.")
        return
    table(
        ("data", "images", "MB", "folder"),
        [
            (entry.about["data"], entry.about["images"], entry.num_bytes // 10**6, entry.folder)
            for entry in entries
        ],
    )
    say("Remove them with: radrep cache clear")


@app.command()
def clear() -> None:
    """Remove all cached features; they are computed again when a run needs them."""
    from radrep.training.feature_cache import clear_cache

    say(f"{clear_cache() / 1e6:.0f} MB freed.")
