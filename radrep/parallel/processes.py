"""Work spread over processes, its results in order, its end tidy."""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Set
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from fractions import Fraction
from typing import TypeVar

from radrep.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks in flight a worker: enough to keep it busy, few enough to keep memory flat.
_IN_FLIGHT = 8
_SHARE: list[int] = []  # of the cores of a machine on which several processes train together


def count_cores() -> int:
    """Cores that this process may use; not every core of a machine is (containers, batches)."""
    return _SHARE[-1] if _SHARE else len(own_cores())


def own_cores() -> Set[int]:
    """The numbers of the cores that this process runs on; others may run there too."""
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else {*range(os.cpu_count() or 1)}


def share_cores(own: Set[int], of_all: Iterable[Set[int]]) -> None:
    """Have `count_cores` give this process's share, by the cores of all that share this machine."""
    others = Counter(core for cores in of_all for core in cores)
    _SHARE[:] = [max(1, int(sum(Fraction(1, others[core]) for core in own)))]


def take_cores(count: int) -> None:
    """Have `count_cores` give this process so many, as its cluster does."""
    _SHARE[:] = [count]


def map_in_order(
    function: Callable[[Task], Result], tasks: Iterable[Task], num_workers: int
) -> Generator[tuple[Task, Result], None, None]:
    """Yield each task with its result, in the order of the tasks; DataError if a worker dies.

    One worker is this process itself. Several are spawned: `function` and tasks must be picklable,
    a script needs a `__main__` guard, and the generator is to be closed (contextlib.closing), lest
    workers are left when an exception ends the loop over it.
    """
    if num_workers == 1:
        for task in tasks:
            yield task, function(task)
        return
    # Spawned, not forked: forking a process that has threads (torch, BLAS) may hang.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, spawn, initializer=_start_worker)
    pending: deque[tuple[Task, Future[Result]]] = deque()
    try:
        for task in tasks:
            with _interrupts_held():  # here the pool starts its processes
                pending.append((task, pool.submit(function, task)))
            if len(pending) > _IN_FLIGHT * num_workers:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died, for want of memory perhaps: use fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait; processes that are started meanwhile never see it, the first one tidies up.

    A worker's own `_start_worker` would be too late: it runs when everything is imported.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A pool's workers outlive a parent that is killed, unless they watch it.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
