"""radrep prepare saliency: Grad-CAM maps and masked images for a prepared folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, show_error, table
from radrep.cli.engine import Address, Cores, Engine, choose_cluster

if TYPE_CHECKING:
    from radrep.preparation.make_masks import SaliencyResult


def saliency(
    data: Annotated[Path, typer.Option(help="The prepared folder.")],
    checkpoint: Annotated[Path, typer.Option(help="A discriminator: a run or a checkpoint.")],
    aggregate: Annotated[
        str, typer.Option(help="Combine the maps of all positive labels: max or mean.")
    ] = "max",
    mask: Annotated[
        str, typer.Option(help="hard (a pixel is kept or black) or soft (scaled by the map).")
    ] = "hard",
    threshold: Annotated[float, typer.Option(help="Mask threshold (with --mask hard).")] = 0.5,
    label_maps: Annotated[
        bool, typer.Option("--label-maps", help="Keep the map of each positive label too.")
    ] = False,
    engine: Engine = "local",
    address: Address = None,
    worker_cores: Cores = 1,
) -> None:
    """SDAM: Grad-CAM maps and masked images of every study, for recipes that take masked images.

    Example:  radrep prepare saliency --data data/iu --checkpoint runs/sdam_discriminator_cpu
    """
    cluster = choose_cluster(engine, address, worker_cores)

    from radrep.recipe.data import Saliency
    from radrep.recipe.load import make_section

    typed = {"discriminator": checkpoint, "aggregate": aggregate, "mask": mask}
    section = make_section(Saliency, {**typed, "threshold": threshold}, title="the command line")

    from radrep.preparation.make_masks import prepare_saliency

    with TerminalReporter() as reporter:
        try:
            result = prepare_saliency(
                data, section, label_maps=label_maps, cluster=cluster, reporter=reporter
            )
        except KeyboardInterrupt:
            kept = "stopped; finished shards are kept, and the same command resumes from them"
            show_error(kept, prefix="")
            raise typer.Exit(130) from None
    _show(result)


def _show(result: "SaliencyResult") -> None:
    num_studies = sum(result.counts.values())
    rows = [
        (name, count, f"{count / num_studies:.0%}")
        for name, count in result.predicted_positive.items()
        if count
    ]
    table(("label", "predicted positive", "share"), rows)
    counts = ", ".join(f"{count} {split}" for split, count in result.counts.items() if count)
    say(f"{num_studies} studies: {counts}")
    if result.num_no_positive:
        say(f"{result.num_no_positive} images left unmasked: no label predicted positive.")
    if result.num_empty_map:
        say(f"{result.num_empty_map} images left unmasked: empty Grad-CAM map.")
    done = "up to date; nothing was done" if result.already_done else "ready"
    say(f"{result.folder} is {done}.")
    say(f"Contact sheet: {result.sheet}")
