"""Progress messages of long functions; the terminal is one receiver among others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Counts units of work done."""

    def __call__(self, n: int = 1, note: str = "") -> None:
        """Count n more units; a note is shown beside them."""


class Reporter:
    """Receives messages and drops them: the default for Python callers."""

    def info(self, label: str, text: str) -> None:
        """A fact about the whole run, for example "device", "cpu, fp32"."""

    def warn(self, text: str) -> None:
        """A fact that deserves attention, for example a setting without effect."""

    def log_metrics(self, fields: Mapping[str, object]) -> None:
        """One line of a training run: field names and values, in order."""

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Follow ``total`` units of work, for example "studies"; yields what counts them."""
        yield _count_nothing


def _count_nothing(n: int = 1, note: str = "") -> None:
    pass
