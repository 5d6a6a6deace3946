"""Whom a long engine function tells what it does; the terminal is one listener among others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Counts units of work done."""

    def __call__(self, n: int = 1, note: str = "") -> None:
        """Count n more units; the note, if there is one, is shown beside them."""


class Reporter:
    """Says nothing: the default for Python callers, and what the terminal's reporter overrides."""

    def info(self, label: str, text: str) -> None:
        """Tell one thing that holds for the whole run, for example "device", "cpu, fp32"."""

    def warn(self, text: str) -> None:
        """Tell what goes on but deserves attention, for example a setting that has no effect."""

    def log_metrics(self, fields: Mapping[str, object]) -> None:
        """Tell one line of a training run: field names and their values, in order."""

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Follow work of a known length.

        Args:
            label: What is being done.
            total: Number of units.
            unit: The plural of what is counted, for example "studies".

        Yields:
            A function to call after each unit, or with a number after several.
        """
        yield _count_nothing


def _count_nothing(n: int = 1, note: str = "") -> None:
    pass
