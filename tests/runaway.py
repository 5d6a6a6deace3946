"""The clock of the tests: it ends what grows without bound with its input, and measures nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_runaway(seconds: float, what: str = "it") -> Iterator[None]:
    """Fail if the work takes this process more seconds of a processor.

    `seconds` are at least ten times what a slow machine takes.
    """
    start = time.process_time()
    yield
    spent = time.process_time() - start
    assert spent < seconds, f"{what} took {spent:.1f} s of a processor, and grows out of proportion"
