"""radrep cache: image features, converted language models and unpacked bundles on disk."""

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.cli.engine import Address, Cores, Engine, choose_cluster
from radrep.cli.training.train import Overrides, RecipeFile

_SHOWN = 5  # of what could not be removed

app = typer.Typer(invoke_without_command=True)


@app.callback()
def cache(ctx: typer.Context) -> None:
    """Show the cached image features, converted language models and unpacked bundles.

    Example:  radrep cache
    """
    if ctx.invoked_subcommand is not None:
        return
    from radrep.atomic import cache_folder
    from radrep.training.features.listing import MODELS, list_cache, list_models

    features = [
        (entry.about["data"], entry.about["images"], entry.num_bytes // 10**6, entry.folder)
        for entry in list_cache()
    ]
    models = [
        (kind, "", size // 10**6, path)
        for name, kind in MODELS.items()
        for path, size in list_models(name)
    ]
    if not features and not models:
        say(f"{cache_folder()} is empty.")
        return
    table(("data", "images", "MB", "folder"), [*features, *models])
    say("Remove them with: radrep cache clear")


@app.command()
def fill(
    recipe: RecipeFile,
    overrides: Overrides = None,
    engine: Engine = "local",
    address: Address = None,
    worker_cores: Cores = 1,
) -> None:
    """Compute what training will read of a recipe's frozen encoder, before it starts.

    Example:  radrep cache fill csr_lmca_iu_cpu

    On a cluster:  radrep cache fill RECIPE --engine ray, with RADREP_CACHE on a disk that all see
    """
    from radrep.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    cluster = choose_cluster(engine, address, worker_cores)

    from radrep.training.features.fill import fill_cache

    with TerminalReporter() as reporter:
        try:
            fill_cache(loaded, cluster=cluster, reporter=reporter)
        except KeyboardInterrupt:
            kept = "stopped; finished blocks are kept, and the same command goes on from them"
            show_error(kept, prefix="")
            raise typer.Exit(130) from None
    say(f"The features are in the cache. Train with:  radrep {loaded.task} {recipe}")


@app.command()
def clear() -> None:
    """Remove the whole cache; what a run needs of it is made again."""
    from radrep.training.features.listing import clear_cache

    freed, errors = clear_cache()
    say(f"{freed / 1e6:.0f} MB freed.")
    if errors:
        reasons = [f"  {error.filename}: {error.strerror}" for error in errors]
        more = len(reasons) - _SHOWN
        shown = [*reasons[:_SHOWN], *([f"  ... and {more} more"] if more > 0 else [])]
        title = f"{len(errors)} files and folders of the cache could not be removed:"
        show_error("\n".join([title, *shown]))
        raise typer.Exit(2)
