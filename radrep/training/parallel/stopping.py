"""Signals that end a run: what users and resource managers send."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# What resource managers send before the end: the exit code then has them start again.
BY_MANAGER = (signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM))
_HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # not on Windows


class StoppedByManager(KeyboardInterrupt):
    """SIGTERM or SIGUSR1 outside of the steps of training; ends what is done as Ctrl-C does."""


@contextmanager
def ends_for_managers() -> Iterator[None]:
    """Raise `StoppedByManager` at the first SIGTERM or SIGUSR1; more of them change nothing."""
    asked: list[int] = []

    def end(number: int, _frame: object) -> None:
        if not asked:
            asked.append(number)
            raise StoppedByManager

    numbers = sorted(set(BY_MANAGER))
    try:
        before = [signal.signal(number, end) for number in numbers]
    except ValueError:  # not the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Turn the first Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP into a request: its number, 0 before.

    The second one ends at once, but for resource managers, which send several. A SIGHUP that is
    ignored, as by nohup, stays so.
    """
    requests: list[int] = []
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def note(number: int, _frame: object) -> None:
        if number == _HANG_UP:  # what is written to a terminal that is gone would fail
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for terminal in terminals:
                os.dup2(nowhere, terminal)
            os.close(nowhere)
        if requests and not {requests[0], number} <= {*BY_MANAGER}:
            raise KeyboardInterrupt
        requests.append(number)

    numbers = [signal.SIGINT, *sorted(set(BY_MANAGER))]
    if _HANG_UP is not None and signal.getsignal(_HANG_UP) is not signal.SIG_IGN:
        numbers.append(_HANG_UP)
    try:
        before = [signal.signal(number, note) for number in numbers]
    except ValueError:  # not the main thread: the caller handles signals
        yield lambda: 0
        return
    try:
        yield lambda: requests[0] if requests else 0
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
