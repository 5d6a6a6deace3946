"""Options of commands whose work a Ray cluster can do."""

from typing import TYPE_CHECKING, Annotated

import typer

from radrep.errors import RadrepError

if TYPE_CHECKING:
    from radrep.parallel.cluster import Cluster

Engine = Annotated[
    str,
    typer.Option(help="local, or ray: the workers of a Ray cluster, with radrep\\[ray]."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="With --engine ray: the cluster's.", show_default="RAY_ADDRESS, or one started here"
    ),
]
Cores = Annotated[
    int, typer.Option(min=1, help="With --engine ray: cores of a worker, each with a model.")
]


def choose_cluster(engine: str, address: str | None, cores: int = 1) -> "Cluster | None":
    """The cluster that does the work; None for this machine's own processes."""
    if engine not in ("local", "ray"):
        raise RadrepError(f"--engine must be local or ray, got '{engine}'")
    if engine == "local":
        if address is not None or cores != 1:
            option = "--worker-cores" if address is None else "--address"
            raise RadrepError(f"{option} goes with --engine ray")
        return None
    from radrep.parallel.cluster import Cluster

    return Cluster(address, cores)
