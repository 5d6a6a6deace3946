"""radrep train and radrep pretrain: run the recipe of a training."""

from pathlib import Path
from typing import Annotated

import typer

from radrep.cli.console import TerminalReporter, say
from radrep.errors import RadrepError, RecipeError

RECIPE = "recipe.yaml"

Recipe = Annotated[
    str, typer.Argument(help="A recipe file, a shipped recipe's name, or a run's folder.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. optim.lr=1.0e-4."),
]
Out = Annotated[
    Path | None,
    typer.Option(help="The run's folder.", show_default="the recipe's, numbered when taken"),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on exactly where the newest run stands.")
]
Logger = Annotated[str | None, typer.Option(help="tensorboard or wandb, besides metrics.jsonl.")]


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    logger: Logger = None,
) -> None:
    """Train a model to write reports.

    Example:  radrep train csr_lmca_iu_cpu --set train.epochs=5

    Several devices:  accelerate launch -m radrep train RECIPE

    Several processes on a CPU:  ACCELERATE_USE_CPU=true torchrun --standalone
    --nproc-per-node 2 -m radrep train RECIPE
    """
    then = "Score it with:   radrep eval "
    run_training("train", recipe, overrides, out, resume, logger, then=then)


def pretrain(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    logger: Logger = None,
) -> None:
    """Pretrain an X-ray Mamba: on images alone, then on images and reports.

    Example:  radrep pretrain pretrain_autoregressive_cpu

    Then:     radrep pretrain pretrain_contrastive_cpu, whose recipe names that run
    """
    then = "Go on from it:   --set model.encoder.weights="
    run_training("pretrain", recipe, overrides, out, resume, logger, then=then)


def run_training(
    task: str,
    recipe: str,
    overrides: list[str] | None,
    out: Path | None,
    resume: bool,
    logger: str | None,
    *,
    then: str,
) -> None:
    """Run a recipe and print its best checkpoint, and `then` with the run's folder."""
    from radrep.recipe.load import load_recipe, shipped_name

    changes = list(overrides or []) + ([f"train.logger={logger}"] if logger else [])
    folder = Path(recipe)
    if (folder / RECIPE).is_file():
        if not resume:
            raise RadrepError(f"{folder} is a run; resume it by adding --resume")
        out, recipe = folder, str(folder / RECIPE)
    if resume and changes:
        raise RadrepError(
            "--set and --logger do not go with --resume: a run resumes with its own recipe"
        )
    loaded = load_recipe(recipe, changes)  # before the imports that take seconds
    shipped = shipped_name(recipe)
    if loaded.task != task:
        text = f"'{loaded.task}' is done by: radrep {loaded.task}"
        raise RecipeError("this recipe", [("task", text)])

    from radrep.training.accelerator import is_main_process
    from radrep.training.loop import Interrupted
    from radrep.training.resume import newest_run
    from radrep.training.run import train as run_task

    if shipped and folder.name != recipe and is_main_process():
        say(f"{recipe} is no file here: this is the shipped recipe {shipped}")
    if resume:
        out = newest_run(out or loaded.out)
        loaded = load_recipe(str(out / RECIPE))
    with TerminalReporter() as reporter:
        try:
            result = run_task(loaded, out=out, resume=resume, reporter=reporter)
        except Interrupted as stopped:
            if is_main_process():
                reporter.warn(f"{stopped}. Go on with: radrep {task} {recipe} --resume")
            raise typer.Exit(130) from stopped
    if is_main_process():
        at = (
            f"{result.metric} {result.value:.3f} at step {result.step}, {result.epochs} epochs done"
        )
        say(f"Best checkpoint: {result.run / 'best'} ({at})\n{then}{result.run}")
