"""One process of a fuzzer, which libFuzzer ends: TARGET, the folder of finds, its own options."""

import hashlib
import sys
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["radrep"]):
    from tests.fuzz.try_input import load_target, try_input

    read = load_target(sys.argv[1])

finds = Path(sys.argv[2])
ROOT = str(Path(__file__).parents[2])


def _one(data: bytes) -> None:
    try:
        try_input(read, data)
    except Exception as error:  # what a user would see as a traceback
        frames = traceback.extract_tb(error.__traceback__)
        last = [frame for frame in frames if frame.filename.startswith(ROOT)][-1]
        place = f"{type(error).__name__} {last.filename}:{last.lineno}"
        find = finds / hashlib.sha256(place.encode()).hexdigest()[:12]
        if not find.exists():
            find.write_bytes(data)
            find.with_suffix(".txt").write_text(traceback.format_exc())


atheris.enabled_hooks.add("str")  # not "RegEx", whose patterns take no position
atheris.Setup([sys.argv[0], *sys.argv[3:]], _one)
atheris.Fuzz()
