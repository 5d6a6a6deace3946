"""radrep serve: a local page that reports films."""

from pathlib import Path
from typing import Annotated

import typer

from radrep.cli.console import TerminalReporter, say


def serve(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            help="A run, a checkpoint or a bundle (.zip).",
            show_default="the newest run under runs/",
        ),
    ] = None,
    discriminator: Annotated[
        Path | None, typer.Option(help="A run of SDAM's discriminator, for Grad-CAM.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Another address than this machine's own; a token is then asked for."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8008,
) -> None:
    """Report films on a local page. Not for clinical use.

    Drop the films of a study: sentences appear with their findings in colour, a sentence shows
    where the model attends, and sliders move the thresholds of findings. Nothing is written to a
    disk. Needs the extra `serve`.

    Example:  radrep serve runs/csr_lmca_iu_cpu
    """
    from radrep.serving.run import check_server, choose_place
    from radrep.serving.run import serve as run

    check_server()
    place = choose_place(host, port)
    from radrep.serving.app import make_app
    from radrep.serving.reader import FilmReader

    with TerminalReporter() as reporter:
        reader = FilmReader(checkpoint, discriminator, reporter)
        reporter.info("model", reader.name)
        if place.token is not None:
            reporter.warn(
                f"films travel to {host} unencrypted: use it in a network that you trust, or an "
                "SSH tunnel to this machine without --host"
            )
        run(
            make_app(reader, place.hosts, place.token),
            place,
            lambda: say(f"Open {place.address}  (Ctrl-C ends it)"),
        )
