"""Somebody's table of images and reports: CSV, JSON or JSONL, plain or gzip."""

from collections import deque
from pathlib import Path

from radrep.preparation.sources.folder.table import Table


def read(file: Path) -> None:
    deque(Table(file), maxlen=0)
