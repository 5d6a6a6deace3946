"""Where a run starts or goes on: its folder, its lock, its recipe, its last checkpoint.

`radrep train --resume` reads of the newest run in the folder recipe.yaml, environment.json,
metrics.jsonl (run_log.py cuts it at the step of the checkpoint) and, of its last whole checkpoint,
weights.safetensors, recipe.yaml, vocabulary.json and its training state (training.pt, or
sharded_state.py); of folds, folds.yaml: how many there are.
"""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from radrep.atomic import atomic_write_text
from radrep.data.tokenizer import Tokenizer
from radrep.errors import CheckpointError
from radrep.models.base import TrainableModel
from radrep.progress import Reporter
from radrep.recipe.load import dump_recipe
from radrep.recipe.recipe import Recipe, differences, flatten
from radrep.saliency.sdam import check_mask_fingerprint
from radrep.training.accelerator import (
    broadcast,
    build_accelerator,
    check_offload,
    coming_device,
    is_main_process,
    set_arithmetic,
)
from radrep.training.loop import Progress
from radrep.training.parallel.blocks import check_compiler
from radrep.training.parallel.environment import check_environment
from radrep.training.parallel.sharded_state import load_progress
from radrep.training.report_task import check_meteor
from radrep.training.run_log import (
    RunLog,
    check_new_run,
    check_tracker,
    claim_run,
    describe_environment,
)
from radrep.weights import checkpoint, run_folder
from radrep.weights.pretrained import check_pretrained

# Keys that may change when a run goes on: those of the steps to come, and those that leave the
# numbers as they are. What data.prepared holds is compared by content.
_MAY_CHANGE = (
    "optim.lr", "optim.encoder_lr", "optim.clip_norm",
    "train.epochs", "train.patience", "train.save_every_steps", "train.log_every", "train.logger",
    "train.async_checkpoints",
    "train.batch_size", "train.grad_accum_steps",  # with as many studies a step, see `load_last`
    "parallel.shard", "parallel.cpu_offload", "parallel.activation_checkpointing",
    "parallel.compile",
    "data.prepared", "data.num_workers", "decode.select", "decode.edit",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """The recipe on this machine, and where the run stands, as this process knows it."""

    recipe: Recipe
    out: Path | None
    run: Path | None  # the folder to go on in, None for a new one
    last: Path | None  # the checkpoint to go on from, None for the first step
    changed: Mapping[str, tuple[Any, Any]]  # keys of the recipe since that checkpoint
    held: ExitStack  # the run's lock, in the main process
    reporter: Reporter


@dataclass(frozen=True)
class Resolved(Start):
    """The same in all processes, which have met."""

    accelerator: Accelerator


def find_start(
    recipe: Recipe, out: Path | None, resume: bool, reporter: Reporter, held: ExitStack
) -> Start:
    """Refuse what cannot work before anything takes time, and before other processes are met."""
    check_environment(recipe)
    check_offload(recipe.parallel)
    check_tracker(recipe.train.logger)
    run, last = None, None
    if resume:
        run = newest_run(out or recipe.out)
    else:
        check_new_run(recipe, out)
        check_pretrained(recipe)
        if recipe.train.start_from is not None:
            checkpoint.find_checkpoint(recipe.train.start_from)
        run = out if out is not None and run_folder.is_unstarted(out) else None
    if is_main_process():
        check_meteor(recipe.train)
        if run is not None:
            run_folder.hold(run, held)
            if not resume:
                check_new_run(recipe, out)  # again: another process may have trained it meanwhile
            run_folder.remove_partials(run)
            last = choose_checkpoint(run, reporter)
    else:
        reporter = Reporter()
    changed = {} if last is None else find_changes(recipe, last)
    if recipe.parallel.compile:
        check_compiler(coming_device())
    return Start(recipe, out, run, last, changed, held, reporter)


def join(start: Start) -> Resolved:
    """Meet the other processes, and go on from what the first one found."""
    set_arithmetic(start.recipe.train)
    accelerator = build_accelerator(offload=start.recipe.parallel.cpu_offload)
    last, changed = broadcast(accelerator, (start.last, start.changed))
    return Resolved(**vars(replace(start, last=last, changed=changed)), accelerator=accelerator)


def find_changes(recipe: Recipe, last: Path) -> dict[str, tuple[Any, Any]]:
    """What a recipe changes for the steps after a checkpoint: keys, with values before and now.

    Raises CheckpointError if a run cannot go on with it.
    """
    changed = differences(checkpoint.read_recipe(last), recipe)
    allowed = tuple(f"{key}." for key in _MAY_CHANGE)
    refused = [
        f"{key} is {now} and was {before}"
        for key, (before, now) in changed.items()
        if not f"{key}.".startswith(allowed)
    ]
    if refused:
        raise CheckpointError(
            f"{last} was trained with another recipe than it would go on with: "
            f"{'; '.join(refused)}. Set it back, or train anew without --resume. What may change "
            f"with --resume --set: {', '.join(_MAY_CHANGE)}"
        )
    return changed


def open_folder(
    resolved: Resolved, model: TrainableModel, progress: Progress
) -> tuple[Path, RunLog | None]:
    """The run's folder, new or resumed, and in the main process its log.

    Called when nothing of the input can be wrong any more.
    """
    recipe, accelerator, folder, log = resolved.recipe, resolved.accelerator, resolved.run, None
    if accelerator.is_main_process:
        if folder is None:
            folder = claim_run(recipe, resolved.out)
            run_folder.hold(folder, resolved.held)
        if resolved.last is not None:
            run_folder.restore_best(folder, progress.best_step)
            run_folder.drop_old_checkpoints(folder)
        file, text = folder / run_folder.RECIPE, dump_recipe(recipe)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            atomic_write_text(file, text)
        log = RunLog(folder, recipe, progress.step)
        _write_environment(folder, resolved, model, progress.step)
    folder = broadcast(accelerator, folder)
    assert folder is not None, "the main process has one"
    resolved.reporter.info("run", str(folder))
    for key, (before, now) in resolved.changed.items():
        resolved.reporter.info("recipe", f"{key}: {now} from step {progress.step} on, was {before}")
    return folder, log


def _write_environment(run: Path, resolved: Resolved, model: TrainableModel, step: int) -> None:
    """Write environment.json with what changed in the recipe, and report what else changed."""
    earlier = run_folder.read_environment(run)
    environment = describe_environment(resolved.accelerator, resolved.recipe, model)
    before, now = dict(flatten(earlier)), dict(flatten(environment))
    common = sorted(before.keys() & now.keys())
    other = [f"{k} was {before[k]} and is {now[k]}" for k in common if before[k] != now[k]]
    if other and resolved.last is not None:
        resolved.reporter.warn(
            f"results may differ from those of an undisturbed run: {'; '.join(other)}"
        )
    changed = resolved.changed.items()
    rows = [{"step": step, "key": key, "from": a, "to": b} for key, (a, b) in changed]
    environment["changed"] = [*earlier.get("changed", ()), *rows]
    environment["seconds"] = run_folder.read_seconds(run) or 0.0
    run_folder.write_environment(run, environment)


def newest_run(out: Path) -> Path:
    """The newest of the runs out, out-2, out-3, ... with anything to resume; or CheckpointError.

    That is a checkpoint, or a start that ended before the first one.
    """
    numbered = [
        p for p in out.parent.glob(f"{out.name}-*") if p.name[len(out.name) + 1 :].isdigit()
    ]
    runs = [
        p
        for p in (out, *numbered)
        if (p / run_folder.RECIPE).is_file()
        and (run_folder.last_checkpoint(p) is not None or run_folder.is_unstarted(p))
    ]
    if not runs:
        raise CheckpointError(f"{out} has no checkpoint to resume from; start it without --resume")
    return max(runs, key=lambda p: int(p.name[len(out.name) + 1 :] or 1))


def choose_checkpoint(run: Path, reporter: Reporter) -> Path | None:
    """The newest whole checkpoint of a run; damaged newer ones are renamed and reported.

    None where there was none yet; CheckpointError where none is whole.
    """
    last, damaged = run_folder.newest_whole(run)
    if last is None and not damaged:
        return None
    if last is None:
        raise CheckpointError(
            f"{run} has no whole checkpoint to resume from: {damaged[0][0]}: {damaged[0][1]}; "
            "train anew with another --out"
        )
    for folder, damage in damaged:
        aside = run_folder.set_aside(folder)
        reporter.warn(f"{folder} is damaged ({damage}) and now lies at {aside.name}")
    if damaged:
        reporter.warn(f"resuming from {last}, the newest checkpoint that is whole")
    return last


def settle_best(run: Path, progress: Progress, recipe: Recipe) -> Progress:
    """The progress of a checkpoint, whose best one may have been lost or damaged since.

    Then that checkpoint is the best if an epoch ended with it, and else the next validation's.
    """
    best = run_folder.step_folder(run, progress.best_step)
    if progress.best is None or (best.is_dir() and not run_folder.find_damage(best)):
        return progress
    value = run_folder.read_scores(run, progress.step).get(recipe.train.monitor)
    if value is None and progress.epoch >= recipe.train.epochs:
        raise CheckpointError(
            f"{run} has lost its best checkpoint, of step {progress.best_step}, and the log line "
            f"of step {progress.step}; train anew with another --out"
        )
    if progress.step_in_epoch or value is None:
        return replace(progress, best=None, best_step=0, epochs_without_better=0)
    return replace(progress, best=value, best_step=progress.step, epochs_without_better=0)


_COUNTS = {  # of `Progress`
    "step", "epoch", "step_in_epoch", "best_step", "epochs_without_better", "num_processes",
}  # fmt: skip


def _read_progress(state: Mapping[str, Any], last: Path) -> Progress:
    """Where a checkpoint stands; CheckpointError if that is not what a run of radrep wrote."""
    try:
        progress = Progress(**state["progress"])
        values = asdict(progress)
        counts = [values.pop(name) for name in _COUNTS]
        numbers = [values.pop("best") or 0.0]
        for listed in (values["losses"], values["norms"], *values["others"].values()):
            numbers += listed
    except (LookupError, TypeError, AttributeError, ValueError):
        counts, numbers = [None], []
    if any(type(n) is not int or not 0 <= n < 2**40 for n in counts) or any(
        type(n) not in (int, float) for n in numbers
    ):
        raise CheckpointError(f"{last} was not written by radrep: its progress is of another form")
    return progress


def load_last(
    last: Path,
    *,
    tokenizer: Tokenizer,
    recipe: Recipe,
    masks: str | None,
    fingerprint: str,
    num_processes: int,
) -> tuple[TrainableModel, Progress, dict[str, Any]]:
    """Model, progress and training state of a checkpoint, compared with the data of now.

    `masks` and `fingerprint` are those of the masked images and of the prepared shards. Raises
    CheckpointError where anything differs, before hours of features are computed.
    """
    # Its files are verified by `choose_checkpoint`, what the recipe changes by `find_changes`.
    loaded = checkpoint.load_checkpoint(last, verified=True, built_by=recipe)
    if loaded.tokenizer != tokenizer:
        raise CheckpointError(
            f"{last} has a vocabulary of {len(loaded.tokenizer.vocabulary)} words and the prepared "
            f"data give {len(tokenizer.vocabulary)}: the data changed"
        )
    if masks is not None:
        check_mask_fingerprint(loaded.saliency, masks, last)
    is_sharded = loaded.recipe.parallel.data == "fsdp"
    state = load_progress(last) if is_sharded else checkpoint.load_training(last)
    if state.get("data") != fingerprint:
        raise CheckpointError(
            f"{last} was trained on other data than {loaded.recipe.data.prepared} holds now, or by "
            "an older radrep; train anew without --resume"
        )
    progress = _read_progress(state, last)
    parts = [
        (processes, section.batch_size, section.grad_accum_steps)
        for processes, section in (
            (progress.num_processes, loaded.recipe.train),
            (num_processes, recipe.train),
        )
    ]
    before, now = map(math.prod, parts)
    if before != now:
        text = " x ".join(map(str, parts[0]))
        raise CheckpointError(
            f"{last} was trained with {before} studies a step ({text}: processes x "
            f"train.batch_size x train.grad_accum_steps), and this would go on with {now}: set "
            f"train.batch_size or train.grad_accum_steps so that a step takes {before} "
            f"with {num_processes}, or start as many processes as before"
        )
    return loaded.model, replace(progress, num_processes=num_processes), state
