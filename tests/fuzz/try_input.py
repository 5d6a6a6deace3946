"""One input to one target: a file of a stranger, which may raise nothing but RadrepError."""

import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from radrep.errors import RadrepError

CORPUS = Path(__file__).parent / "corpus"
TARGETS = sorted(file.stem for file in (Path(__file__).parent / "targets").glob("*.py"))


def load_target(name: str) -> Callable[[Path], None]:
    """The function that reads a file; what it needs is imported here."""
    read: Callable[[Path], None] = import_module(f"tests.fuzz.targets.{name}").read
    return read


def try_input(read: Callable[[Path], None], data: bytes) -> None:
    """Read one input as a file; raise what its user would see as a traceback."""
    with TemporaryDirectory(prefix="fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder, "input")
        file.write_bytes(data)
        try:
            read(file)
        except RadrepError as error:
            str(error).encode(errors="backslashreplace")
