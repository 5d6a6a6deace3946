"""The record of a prepared folder."""

from pathlib import Path

from radrep.data.manifest import read_record


def read(file: Path) -> None:
    file.replace(file.with_name("prepared.json"))
    read_record(file.parent)
