"""Blocks of work on a Ray cluster; each is written whole by one worker, on a disk that all see."""

import logging
import os
import pickle
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from radrep import __version__
from radrep.errors import DataError, RadrepError
from radrep.parallel.processes import take_cores

Block = TypeVar("Block")
Result = TypeVar("Result")

_BLOCKS_A_CORE = 4  # that the driver plans ahead of the work: its memory stays flat


@dataclass(frozen=True)
class Cluster:
    """Ray's cluster at an address; by default that of RAY_ADDRESS, or one that is started here.

    Attributes:
        cores: Of each worker that holds a model; with GPUs in the cluster it has one of them too.
    """

    address: str | None = None
    cores: int = 1

    @contextmanager
    def run(self, warn: Callable[[str], None]) -> Iterator[None]:
        """Join the cluster, and warn of machines that are lost; one started for it ends with it.

        Raises:
            DataError: If Ray is not installed, or there is no cluster at the address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray.data
        except ImportError as error:
            raise DataError("--engine ray needs Ray: pip install 'radrep[ray]'") from error
        stopping = signal.getsignal(signal.SIGTERM)
        try:
            # Of itself Ray would also join what anybody has started on this machine.
            address = self.address or os.environ.get("RAY_ADDRESS") or "local"
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise DataError(
                f"no Ray cluster at {self.address or os.environ.get('RAY_ADDRESS', 'this machine')}"
                f" ({error}). Start one with: ray start --head"
            ) from error
        signal.signal(signal.SIGTERM, stopping)  # Ray's own ends without a word
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its notes of every step
        try:
            before = _lost_machines()
            yield
            if lost := len(_lost_machines() - before):
                machines = "a machine" if lost == 1 else f"{lost} machines"
                warn(f"the cluster lost {machines}; others made what was left")
        finally:
            ray.shutdown()

    def map_blocks(
        self, function: Callable[[Block], Result], blocks: Iterable[Block], folder: Path
    ) -> Iterator[Result]:
        """Results of blocks, as they are done; a lost worker's blocks are made again.

        The function is picklable and writes what is to stay of a block into the folder.
        """
        import ray

        ahead = _BLOCKS_A_CORE * max(1, int(ray.cluster_resources().get("CPU", 1)))
        blocks = iter(blocks)
        while window := list(islice(blocks, ahead)):
            yield from _results(
                _items(window).map_batches(
                    _run_block,
                    fn_kwargs={"function": function, "driver": _Driver.of(folder)},
                    batch_size=1,
                )
            )

    def map_with_model(
        self, load: Callable[[], Callable[[Block], Result]], blocks: list[Block], folder: Path
    ) -> Iterator[Result]:
        """As `map_blocks`; each worker calls `load` once, for what it maps its blocks with."""
        if not blocks:  # a run that was stopped behind its last block
            return
        import ray.data

        has = ray.cluster_resources()
        gpus, cores = int(has.get("GPU", 0)), int(has.get("CPU", 1))
        num_workers = max(1, gpus or cores // self.cores)
        yield from _results(
            _items(blocks).map_batches(
                _ModelWorker,
                fn_kwargs={"load": load, "driver": _Driver.of(folder), "cores": self.cores},
                batch_size=1,
                num_cpus=self.cores,
                num_gpus=1 if gpus else None,
                compute=ray.data.ActorPoolStrategy(
                    min_size=1, max_size=min(num_workers, len(blocks))
                ),
            )
        )


@dataclass(frozen=True)
class _Driver:
    """What workers must share with the process that started the command."""

    folder: Path
    working_folder: Path
    version: str

    @classmethod
    def of(cls, folder: Path) -> "_Driver":
        """This process, and the folder that it has the workers write into."""
        return cls(folder.resolve(), Path.cwd(), __version__)

    def check_worker(self) -> None:
        """Go to the working folder; DataError on a machine that writes what the others lack."""
        where = socket.gethostname()
        if self.version != __version__:
            raise DataError(
                f"radrep is {__version__} on {where} and {self.version} where it was started"
            )
        for folder in (self.folder, self.working_folder):
            if not folder.is_dir():
                raise DataError(
                    f"{folder} is not there on {where}: all machines must share the disk it is on"
                )
        os.chdir(self.working_folder)


def _lost_machines() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


def _items(blocks: list[Any]) -> Any:
    import ray.data

    rows = [{"block": pickle.dumps(block)} for block in blocks]
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _results(done: Any) -> Iterator[Any]:
    for row in done.iter_rows():
        result, error = pickle.loads(row["result"])
        if error is not None:
            raise error
        yield result


def _run_block(
    rows: dict[str, Any], function: Callable[[Any], Any], driver: _Driver
) -> dict[str, list[bytes]]:
    """One row at a time; an error that names its cause travels as a result, not as Ray's."""
    (block,) = rows["block"]
    try:
        driver.check_worker()
        answer: tuple[Any, Exception | None] = function(pickle.loads(block)), None
    except (RadrepError, OSError) as error:
        answer = None, error
    return {"result": [pickle.dumps(answer)]}


class _ModelWorker:
    """An actor of Ray, which lives as long as its command."""

    _function: Callable[[Any], Any] | None = None

    def __call__(
        self,
        rows: dict[str, Any],
        load: Callable[[], Callable[[Any], Any]],
        driver: _Driver,
        cores: int,
    ) -> dict[str, list[bytes]]:
        def function(block: Any) -> Any:
            if self._function is None:
                take_cores(cores)  # others of this machine are of other workers
                self._function = load()
            return self._function(block)

        return _run_block(rows, function, driver)
