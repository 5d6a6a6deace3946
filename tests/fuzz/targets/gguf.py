"""Headers of GGUF files."""

from contextlib import suppress
from pathlib import Path

from radrep.gguf_files import check_gguf


def read(file: Path) -> None:
    with suppress(ValueError):  # which its caller names the file in
        check_gguf(file)
