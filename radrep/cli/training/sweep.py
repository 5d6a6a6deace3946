"""radrep sweep: the settings of a recipe that validate best."""

from pathlib import Path
from typing import Annotated

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.cli.outputs import added_folder
from radrep.cli.training.train import Overrides, Recipe
from radrep.errors import RadrepError

_SHOWN = 20  # trials


def sweep(
    recipe: Recipe,
    params: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="KEY=LOW..HIGH",
            help="A key to search, or KEY=A,B,C for some values. Ranges from a factor of 10 on are "
            "searched by their logarithm.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, earlier ones counted.")] = 20,
    folds: Annotated[int, typer.Option(min=2, help="Folds that each trial is trained on.")] = 3,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the sweep. The same command goes on where it stands.",
            show_default="the recipe's, with -sweep",
            callback=added_folder,
        ),
    ] = None,
) -> None:
    """Search the settings of a recipe that validate best, by optuna, on folds.

    A trial's value is train.monitor at the best checkpoint, averaged over folds. What the folds
    held out takes no part: score the winner on it with radrep eval.

    Example:  radrep sweep csr_lmca_iu_cpu --param optim.lr=1e-4..1e-2 --param train.batch_size=8,16
    """
    if not params:
        raise RadrepError("name what to search with --param, such as --param optim.lr=1e-5..1e-3")
    from radrep.training.repeats.seeds import fold_scores, spread
    from radrep.training.repeats.sweep import (
        BEST_RECIPE,
        check_optuna,
        parse_setting,
    )
    from radrep.training.repeats.sweep import (
        sweep as run_sweep,
    )

    settings = [parse_setting(typed) for typed in params]
    if len({setting.key for setting in settings}) < len(settings):
        raise RadrepError("a key stands in two --param; give its range or its values once")
    check_optuna()
    from radrep.training.loop import Interrupted
    from radrep.training.parallel.launch import REQUEUE
    from radrep.training.parallel.stopping import StoppedByManager, ends_for_managers

    with TerminalReporter() as reporter:
        try:
            with ends_for_managers():
                result = run_sweep(
                    recipe,
                    overrides or [],
                    settings,
                    num_folds=folds,
                    num_trials=trials,
                    out=out,
                    reporter=reporter,
                )
        except Interrupted as stopped:
            show_error("stopped; the same command goes on with this trial", prefix="")
            raise typer.Exit(REQUEUE if stopped.by_manager else 130) from stopped
        except StoppedByManager:
            show_error("stopped; the same command goes on with this trial", prefix="")
            raise typer.Exit(REQUEUE) from None
    keys = [setting.key for setting in settings]
    rows = [
        (f"trial-{trial.number}", trial.value, *(str(trial.settings.get(key)) for key in keys))
        for trial in result.trials[:_SHOWN]
    ]
    table(("trial", result.monitor, *keys), rows, title=f"{len(result.trials)} trials, best first")
    best = result.trials[0]
    if best.value is None:
        raise RadrepError(f"no trial of {result.folder} has a value")
    place = result.folder / f"trial-{best.number}"
    for each in spread(fold_scores(place)):
        if each.name == result.monitor:
            say(
                f"\nBest: {place.name}, {each.name} of {len(each.values)} folds: "
                f"mean {each.mean:.3f}, s.d. {each.deviation:.3f}"
            )
    say(f"\nTrain it with:   radrep train {result.folder / BEST_RECIPE}")
    say(f"Score its folds: radrep eval {place}")
