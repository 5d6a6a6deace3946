"""Reports of another program, as predictions and as references."""

from contextlib import suppress
from pathlib import Path

from radrep.data.text import TARGETS
from radrep.errors import DataError
from radrep.evaluation.predictions import align, read_predictions, read_references


def read(file: Path) -> None:
    for target in TARGETS:
        with suppress(DataError):
            read_references(file, target=target)
        with suppress(DataError):
            align(read_predictions(file, target=target), read_references(file, target=target))
