"""R2Gen's annotation.json."""

from collections import deque
from pathlib import Path

from radrep.preparation.sources.annotation import stream_annotation


def read(file: Path) -> None:
    deque(stream_annotation(file), maxlen=0)
