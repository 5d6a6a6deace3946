"""radrep demo: the whole way on drawn phantoms."""

from pathlib import Path
from typing import Annotated

import typer

from radrep.cli.console import TerminalReporter, say, table
from radrep.cli.eval import show_result
from radrep.cli.outputs import new_folder


def demo(
    out: Annotated[Path, typer.Option(help="A folder to make.", callback=new_folder)] = Path(
        "radrep-demo"
    ),
    num_studies: Annotated[int, typer.Option(min=60, help="Number of phantoms to draw.")] = 1600,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the phantoms.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe demo."),
    ] = None,
) -> None:
    """Do the main job on drawn phantoms: prepare, train, evaluate, generate.

    Example:  radrep demo --out my-demo
    """
    from radrep.demo import run_demo

    with TerminalReporter() as reporter:
        result = run_demo(
            out, num_studies=num_studies, seed=seed, overrides=overrides or (), reporter=reporter
        )
    show_result(result.evaluated)
    say("")
    counts = ", ".join(f"{count} {split}" for split, count in result.prepared.counts.items())
    say(f"Drew {counts} phantoms and trained a small CSR-LMCA on them for {result.trained.epochs}")
    say(f"epochs, {result.seconds / 60:.1f} minutes in all. Findings named rightly, with side, on")
    say("phantoms it never saw:")
    table(("", "F1"), list(result.findings_f1.items()))
    image = result.report.images[0]
    say(f"\nWritten for {image}:\n  {result.report.text}")
    say(f"Its reference report:\n  {result.reference}")
    say(f"\nThe phantoms lie in {result.out / 'data'}, the run in {result.trained.run}.")
    say(f"One image:  radrep generate {image} --checkpoint {result.trained.run}")
    say("Real data:  radrep prepare iu --raw DIR --out data/iu")
    say("            radrep train sdam_discriminator_cpu")
    say("            radrep train csr_lmca_iu_cpu")
