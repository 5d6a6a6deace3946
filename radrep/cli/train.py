"""radrep train: train the model of a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from radrep.cli.console import TerminalReporter, say

RECIPE = "recipe.yaml"


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, a shipped recipe's name, or a run's folder.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. optim.lr=1.0e-4."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder.", show_default="the recipe's, numbered when taken"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on exactly where the newest run stands.")
    ] = False,
    track: Annotated[
        str | None, typer.Option(help="tensorboard or wandb, besides metrics.jsonl.")
    ] = None,
) -> None:
    """Train a model to write reports.

    Example:  radrep train csr_lmca_iu_cpu --set train.epochs=5

    Several devices:  accelerate launch -m radrep train RECIPE

    Several processes on a CPU:  ACCELERATE_USE_CPU=true torchrun --standalone
    --nproc-per-node 2 -m radrep train RECIPE
    """
    from radrep.errors import RadrepError
    from radrep.recipe.load import load_recipe

    changes = list(overrides or []) + ([f"train.track={track}"] if track else [])
    folder = Path(recipe)
    if (folder / RECIPE).is_file():
        if not resume:
            raise RadrepError(f"{folder} is a run; go on with it by adding --resume")
        out, recipe = folder, str(folder / RECIPE)
    if resume and changes:
        raise RadrepError(
            "--set and --track do not go with --resume: a run goes on with its own recipe"
        )
    loaded = load_recipe(recipe, changes)  # before the imports that take seconds

    from radrep.engine.loop import Stopped
    from radrep.engine.train import newest_run, speaks
    from radrep.engine.train import train as run

    if resume:
        out = newest_run(out or loaded.out)
        loaded = load_recipe(str(out / RECIPE))
    with TerminalReporter() as reporter:
        try:
            result = run(loaded, out=out, resume=resume, reporter=reporter)
        except Stopped as stopped:
            if speaks():
                reporter.warn(f"{stopped}. Go on with: radrep train {recipe} --resume")
            raise typer.Exit(130) from stopped
    if not speaks():
        return
    say(
        f"Best checkpoint: {result.run / 'best'} ({result.metric} {result.value:.3f} at step "
        f"{result.step}, {result.epochs} epochs done)\n"
        f"Score it with:   radrep eval {result.run}"
    )
