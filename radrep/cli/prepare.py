"""radrep prepare: a raw download to a checked, prepared folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrep.cli.console import TerminalReporter, say, table

if TYPE_CHECKING:
    from radrep.data.study import Source
    from radrep.engine.prepare import PrepareResult

app = typer.Typer(no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="The folder to make.")]
ImageSize = Annotated[int, typer.Option(min=32, help="Short side of the images, in pixels.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one a core")]


@app.callback()
def prepare() -> None:
    """Turn a raw data set into a checked, prepared folder.

    Example:  radrep prepare iu --raw downloads/iu_xray --out data/iu
    """


@app.command()
def iu(
    raw: Annotated[Path, typer.Option(help="The folder that holds annotation.json and images/.")],
    out: Out = Path("data/iu"),
    image_size: ImageSize = 256,
    workers: Workers = None,
) -> None:
    """IU X-Ray, as the R2Gen project hands it out.

    Example:  radrep prepare iu --raw downloads/iu_xray --out data/iu
    """
    from radrep.data.sources.iu_xray import IuXraySource

    _run(IuXraySource(raw), out, image_size, workers)


@app.command()
def phantom(
    num_studies: Annotated[int, typer.Option("--num", min=3, help="Studies to draw.")] = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Out = Path("data/phantom"),
    image_size: ImageSize = 256,
    workers: Workers = None,
) -> None:
    """Synthetic chest films with findings that their reports name.

    Example:  radrep prepare phantom --num 2000 --out data/phantom
    """
    from radrep.data.sources.phantom import PhantomSource

    _run(PhantomSource(num_studies, seed=seed, image_size=image_size), out, image_size, workers)


def _run(source: "Source", out: Path, image_size: int, workers: int | None) -> None:
    from radrep.engine.prepare import prepare as run

    with TerminalReporter() as reporter:
        result = run(source, out, image_size=image_size, workers=workers, reporter=reporter)
    _show(result)


def _show(result: "PrepareResult") -> None:
    expected = result.expected
    rows = [
        (split, count, result.image_counts[split], expected[split] if expected else None)
        for split, count in result.counts.items()
    ]
    table(("split", "studies", "images", "expected studies"), rows)
    missing = {
        split: expected[split] - count
        for split, count in result.counts.items()
        if expected and expected[split] != count
    }
    if missing:
        told = ", ".join(f"{split} {-number:+d}" for split, number in missing.items())
        say(f"These counts differ from a complete download's: {told} studies.")
    if result.num_images and result.num_square == result.num_images:
        say("All images were squares already: somebody squashed them. Say so beside scores.")
    if result.left_out:
        say(f"Left out: {len(result.left_out)} (all of them in {result.out / 'left_out.jsonl'})")
        for what, reason in result.left_out[:10]:
            say(f"  {what}: {reason}")
    if result.already_done:
        say(f"{result.out} was prepared before in the same way; nothing was done.")
    else:
        say(f"{result.out} is ready.")
