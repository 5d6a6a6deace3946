"""radrep train and radrep pretrain: run the recipe of a training."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.cli.eval import evaluate
from radrep.cli.outputs import added_folder
from radrep.errors import RadrepError, RecipeError

if TYPE_CHECKING:
    from radrep.recipe.recipe import Recipe as LoadedRecipe

RECIPE, FOLDS, SEEDS = "recipe.yaml", "folds.yaml", "seeds.yaml"

Recipe = Annotated[
    str, typer.Argument(help="A recipe file, a shipped recipe's name, or a run's folder.")
]
RecipeFile = Annotated[str, typer.Argument(help="A recipe file, or a shipped recipe's name.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. optim.lr=1.0e-4."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="The run's folder.",
        show_default="the recipe's, numbered when taken",
        callback=added_folder,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on exactly where the newest run stands.")
]
Folds = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Cross-validate inside the training split: one run per fold of its patients, "
        "scored together.",
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(
        min=2, help="Train with so many seeds and show the spread; with --folds, folds of each."
    ),
]
PrintLaunch = Annotated[
    str | None,
    typer.Option(metavar="slurm|torchrun", help="Print a script that starts it, and end."),
]
Devices = Annotated[
    str,
    typer.Option(help="With --print-launch: processes a machine, such as 8xH100-80GB or 2xCPU."),
]
Nodes = Annotated[int, typer.Option(min=1, help="With --print-launch: machines.")]
Logger = Annotated[str | None, typer.Option(help="tensorboard or wandb, besides metrics.jsonl.")]


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    folds: Folds = None,
    seeds: Seeds = None,
    logger: Logger = None,
    print_launch: PrintLaunch = None,
    devices: Devices = "1",
    nodes: Nodes = 1,
) -> None:
    """Train a model to write reports.

    Example:  radrep train csr_lmca_iu_cpu --set train.epochs=5

    To compare settings:  radrep train csr_lmca_iu_cpu --folds 5 --seeds 3

    Several devices:  radrep train RECIPE --print-launch torchrun --devices 8xH100-80GB > run.sh

    Ends with 75 when SIGTERM or SIGUSR1 stopped it, 130 after Ctrl-C.
    """
    asked = resolve("train", recipe, overrides, out, resume, folds, seeds, logger)
    if print_launch is not None:
        show_launch(asked, print_launch, devices, nodes)
        return
    run_training(asked, then="Score it with:   radrep eval ")


def pretrain(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    folds: Folds = None,
    seeds: Seeds = None,
    logger: Logger = None,
    print_launch: PrintLaunch = None,
    devices: Devices = "1",
    nodes: Nodes = 1,
) -> None:
    """Pretrain an X-ray Mamba: on images alone, then on images and reports.

    Example:  radrep pretrain pretrain_autoregressive_cpu

    Then:     radrep pretrain pretrain_contrastive_cpu, whose recipe names that run
    """
    asked = resolve("pretrain", recipe, overrides, out, resume, folds, seeds, logger)
    if print_launch is not None:
        show_launch(asked, print_launch, devices, nodes)
        return
    run_training(asked, then="Go on from it:   --set model.encoder.weights=")


@dataclass(frozen=True)
class Asked:
    """What the words of a training ask for."""

    task: str
    typed: str  # the recipe, or a folder that goes on
    loaded: "LoadedRecipe"
    changes: list[str]  # of --set and --logger
    out: Path | None
    resume: bool
    folds: int | None
    seeds: int | None
    kind: str | None  # the recipe's file in the folder that goes on, None for a recipe

    @property
    def of_seeds(self) -> bool:
        """Whether it is trained with several seeds."""
        return self.kind == SEEDS or self.seeds is not None

    @property
    def of_folds(self) -> bool:
        """Whether it is trained on folds, with one seed."""
        return not self.of_seeds and (self.kind == FOLDS or self.folds is not None)


def resolve(
    task: str,
    recipe: str,
    overrides: list[str] | None,
    out: Path | None,
    resume: bool,
    folds: int | None,
    seeds: int | None,
    logger: str | None,
) -> Asked:
    """Load the recipe; RadrepError for words that do not go together."""
    from radrep.recipe.load import load_recipe

    changes = list(overrides or []) + ([f"train.logger={logger}"] if logger else [])
    typed, folder = recipe, Path(recipe)
    kind = next((name for name in (SEEDS, FOLDS, RECIPE) if (folder / name).is_file()), None)
    if kind is not None:
        if not resume:
            raise RadrepError(f"{folder} is a run; resume it by adding --resume")
        out, recipe = folder, str(folder / kind)
    loaded = load_recipe(recipe, changes)  # before the imports that take seconds
    asked = Asked(task, typed, loaded, changes, out, resume, folds, seeds, kind)
    if resume and changes and (asked.of_folds or asked.of_seeds):
        raise RadrepError(
            "--set and --logger do not go with --resume of folds or seeds, some of which are "
            "finished"
        )
    if loaded.task != task:
        text = f"'{loaded.task}' is done by: radrep {loaded.task}"
        raise RecipeError("this recipe", [("task", text)])
    return asked


def show_launch(asked: Asked, launcher: str, devices: str, nodes: int) -> None:
    """Print the script of a launcher."""
    from radrep.training.parallel.launch import LAUNCHERS, Launch, launch_script, parse_devices

    if launcher not in LAUNCHERS:
        raise RadrepError(f"--print-launch takes {' or '.join(LAUNCHERS)}, got '{launcher}'")
    if asked.of_folds or asked.of_seeds:
        raise RadrepError(
            "--print-launch starts several processes, and folds and seeds train run after run in "
            "one: leave it out"
        )
    out = asked.out or asked.loaded.out
    words = [word for change in asked.changes for word in ("--set", change)]
    new = None if asked.resume else [asked.task, asked.typed, *words, "--out", str(out)]
    place = [asked.typed, "--out", str(out)] if asked.resume and not asked.kind else [str(out)]
    goes_on = [asked.task, *place, "--resume", *words]
    per_node, kind = parse_devices(devices)
    launch = Launch(new, goes_on, out, per_node, nodes, on_cpu=kind == "cpu")
    say(launch_script(launcher, launch).rstrip())


def run_training(asked: Asked, *, then: str) -> None:
    """Run a recipe and print its best checkpoint, and `then` with the run's folder."""
    from radrep.training.parallel.launch import REQUEUE
    from radrep.training.parallel.stopping import StoppedByManager, ends_for_managers

    try:
        with ends_for_managers():
            _run_training(asked, then)
    except StoppedByManager:
        text = "stopped; what was finished is kept. Give the same command again, or resume its run"
        show_error(text, prefix="")
        raise typer.Exit(REQUEUE) from None


def _run_training(asked: Asked, then: str) -> None:
    from radrep.recipe.load import shipped_name
    from radrep.training.accelerator import is_main_process
    from radrep.training.loop import Interrupted
    from radrep.training.parallel.launch import REQUEUE

    loaded, out, resume, typed = asked.loaded, asked.out, asked.resume, asked.typed
    shipped = None if asked.kind else shipped_name(typed)
    if shipped and Path(typed).name != typed and is_main_process():
        say(f"{typed} is no file here: this is the shipped recipe {shipped}")
    with TerminalReporter() as reporter:
        try:
            if asked.of_seeds:
                from radrep.training.repeats.seeds import train_seeds

                result = train_seeds(
                    loaded, asked.seeds, asked.folds, out=out, resume=resume, reporter=reporter
                )
            elif asked.of_folds:
                from radrep.training.folds import train_folds

                result = train_folds(loaded, asked.folds, out=out, resume=resume, reporter=reporter)
            else:
                result = None
                _train_once(loaded, asked.changes, out, resume, reporter, then)
        except Interrupted as stopped:
            if is_main_process():
                reporter.warn(
                    f"{stopped}. Go on with: radrep {asked.task} {quote(str(stopped.run))} --resume"
                )
            raise typer.Exit(REQUEUE if stopped.by_manager else 130) from stopped
    if result is None or not is_main_process():
        return
    if asked.of_seeds:
        show_seeds(result, of_reports=loaded.model.output == "reports")
    elif loaded.model.output != "encoder":
        evaluate([result])  # what each fold wrote for the studies that it held out


def show_seeds(folder: Path, *, of_reports: bool) -> None:
    """Print the scores of the runs in a folder of seeds: mean, standard deviation, each."""
    from radrep.evaluation.folds import evaluate_folds
    from radrep.evaluation.result import EvalOptions
    from radrep.training.repeats.seeds import seed_folders, spread, validation_scores
    from radrep.weights.folds import is_folds

    runs = seed_folders(folder)
    held_out = of_reports and is_folds(runs[0])
    if held_out:  # as radrep eval of folds, but for METEOR, which takes longest
        with TerminalReporter() as reporter:
            options = EvalOptions(meteor=False)
            each = [evaluate_folds(run, options=options, reporter=reporter) for run in runs]
        scores = [result.main_scores for result in each]
    else:
        scores = [validation_scores(run) for run in runs]
    of = "what folds held out" if held_out else "validation, best checkpoint"
    columns = ("", "mean", "s.d.", *(run.name for run in runs))
    rows = [(each.name, each.mean, each.deviation, *each.values) for each in spread(scores)]
    table(columns, rows, title=f"{len(runs)} seeds: {of}")
    say(str(folder))


def _train_once(
    recipe: "LoadedRecipe",
    changes: list[str],
    out: Path | None,
    resume: bool,
    reporter: TerminalReporter,
    then: str,
) -> None:
    from radrep.recipe.load import load_recipe
    from radrep.recipe.recipe import differences
    from radrep.training.accelerator import is_main_process
    from radrep.training.run import train as run_task
    from radrep.training.start import newest_run

    if resume:
        out = newest_run(out or recipe.out)
        own = load_recipe(str(out / RECIPE), changes)
        other = [key for key in differences(own, recipe) if key != "out"]
        if other and is_main_process():
            keys = ", ".join(other)
            reporter.info("recipe", f"{out} goes on with its own, which differs here in: {keys}")
        recipe = own
    result = run_task(recipe, out=out, resume=resume, reporter=reporter)
    if is_main_process():
        at = (
            f"{result.metric} {result.value:.3f} at step {result.step}, {result.epochs} epochs done"
        )
        say(f"Best checkpoint: {result.run / 'best'} ({at})\n{then}{result.run}")
