"""radrep plan: what a recipe needs on given devices, and how long it takes."""

from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, table
from radrep.cli.training.train import Overrides, RecipeFile

if TYPE_CHECKING:
    from radrep.training.plan.plan import Plan

GIB = 2**30


def plan(
    recipe: RecipeFile,
    devices: Annotated[
        str, typer.Option(help="Number and kind of GPUs in a machine.", metavar="8xH100-80GB")
    ],
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    overrides: Overrides = None,
    studies: Annotated[
        int | None,
        typer.Option(min=1, help="Studies to train on.", show_default="those of data.prepared"),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the card's peak rate that is reached.")
    ] = 0.35,
) -> None:
    """Plan a training: memory of each device, largest micro-batch, steps, hours, disk.

    Example:  radrep plan emrrg_mimic --devices 8xH100-80GB --studies 222758

    Nothing is downloaded: published sizes stand for language models that are not there.
    """
    from radrep.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    from radrep.training.plan.cards import find_devices
    from radrep.training.plan.plan import make_plan

    wanted = find_devices(devices, nodes)
    with TerminalReporter() as reporter, reporter.progress("measuring a step", 3, "parts") as done:
        made = make_plan(loaded, wanted, num_studies=studies, utilisation=utilisation, advance=done)
    show(made)


def show(plan: "Plan") -> None:
    """Write a plan to stdout."""
    recipe, devices, memory = plan.recipe, plan.devices, plan.memory
    train, parallel = recipe.train, recipe.parallel
    machines = f" in {devices.nodes} machines" if devices.nodes > 1 else ""
    how = "all of the model on each device (ddp)"
    if parallel.data == "fsdp":
        where = "each machine" if parallel.shard == "hybrid" else "all devices"
        how = f"the model shared out over {where} (fsdp)"
    say(
        f"{recipe.out.name} on {devices.total} x {devices.name}{machines}: {how}, {train.precision}"
    )
    if plan.stand_in:
        say(f"{plan.stand_in} was planned from its published sizes; its files were not read")
    trained = f"{_count(plan.num_trained)} of {_count(plan.num_parameters)} trained"
    off = "in the machine's memory" if memory.offloaded else ""
    batch = train.batch_size
    rows = [
        ("parameters", memory.parameters, _join(trained, off)),
        ("gradients", memory.gradients, off),
        ("optimizer", memory.optimizer, _join(recipe.optim.name, off)),
        ("exchange", memory.exchange, "buffers between the processes"),
        (
            "activations",
            memory.activations(batch),
            f"{batch} {_plural('study', batch)}, {memory.per_study / GIB:.2f} GiB each",
        ),
    ]
    cells = [(name, f"{size / GIB:.2f}", note) for name, size, note in rows]
    total = memory.total(batch)
    verdict = "fits" if plan.fits else "does not fit"
    usable = f"of {plan.usable / GIB:.1f} usable: {verdict}"
    cells.append(("together", f"{total / GIB:.2f}", usable))
    say("")
    table(("each device", "GiB", ""), cells)
    largest = plan.largest_batch
    say("")
    if largest:
        say(f"largest micro-batch   {largest} {_plural('study', largest)} a device")
    else:
        say(f"largest micro-batch   none fits. {_advice(plan)}")
    rate = devices.card.rate(train.precision, tf32=train.tf32) / 1e12
    bound = f"at {plan.utilisation:.0%} of {rate:g} TFLOP/s"
    if plan.is_small:
        bound = f"by the start of its {plan.step.kernels:,} kernels"
    say(
        f"a step                {plan.global_batch} studies, {plan.step.flops / 1e12:.3g} TFLOP a "
        f"device; {plan.steps_per_second:.3g} steps/s {bound} (assumed)"
    )
    if plan.num_steps is None or plan.hours is None or plan.num_images is None:
        say(f"the run               {recipe.data.prepared} is not prepared here: give --studies N")
    else:
        images, epochs = train.epochs * plan.num_images, "epoch" if train.epochs == 1 else "epochs"
        say(
            f"the run               {train.epochs} {epochs} of {plan.num_studies:,} studies: "
            f"{plan.num_steps:,} steps, {images:,} images, {_hours(plan.hours)} and validations"
        )
    disk = [f"checkpoints {_size(plan.checkpoint_bytes)}"]
    if plan.data_bytes is not None:
        assumed = f" ({plan.data_assumed}; assumed)" if plan.data_assumed else ""
        disk.insert(0, f"prepared data {_size(plan.data_bytes)}{assumed}")
    if plan.feature_bytes is not None:
        disk.append(f"cached features {_size(plan.feature_bytes)} of {plan.feature_splits}")
    say(f"disk                  {', '.join(disk)}")
    held = f"; {_size(devices.per_node * memory.parts)} of offloaded parts" if off else ""
    load = f"{_size(plan.host_bytes)} while {devices.per_node} processes load"
    say(f"memory of a machine   {load}{held}")
    if plan.not_planned:
        say(f"not planned           {'; '.join(plan.not_planned)}")


def _advice(plan: "Plan") -> str:
    tries = []
    several = plan.devices.total > 1
    for key, value in (
        *[("data", "fsdp")] * several,
        ("activation_checkpointing", True),
        *[("cpu_offload", True)] * (several and plan.recipe.parallel.data == "fsdp"),
    ):
        parallel = plan.recipe.parallel.model_copy(update={key: value})
        changed = plan.recipe.model_copy(update={"parallel": parallel})
        if changed != plan.recipe and not any(wrong for wrong, _, _ in changed.rules()):
            tries.append(f"parallel.{key}={str(value).lower()}")
    settings = " ".join(f"--set {each}" for each in tries)
    return f"Try more or larger devices{', or ' if tries else ''}{settings}"


def _join(*notes: str) -> str:
    return ", ".join(filter(None, notes))


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:.0f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.0f} seconds"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word[:-1]}ies"
