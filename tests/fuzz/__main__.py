"""Fuzz what reads files of strangers, guided by the coverage of radrep's own code.

    python -m tests.fuzz TARGET [TARGET ...] --minutes 10        or: all

Needs atheris (pip install atheris). OUT/TARGET/corpus grows from run to run; OUT/TARGET/finds gets
each input that failed, once for each place it failed at, with its traceback; OUT/log.jsonl a line
for each target. A find that is mended goes into tests/fuzz/corpus, which
tests/test_fuzz.py reads.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.try_input import CORPUS, TARGETS

_TIMEOUT, _MAX_MB, _MAX_BYTES = 100, 3000, 20_000  # s on a busy machine, memory, length of an input


def main() -> None:
    """Fuzz each target in turn."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="+", choices=[*TARGETS, "all"], metavar="TARGET")
    parser.add_argument("--minutes", type=float, default=10, help="for each target")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    arguments = parser.parse_args()
    for target in TARGETS if "all" in arguments.targets else arguments.targets:
        print(json.dumps(fuzz(target, arguments.minutes * 60, arguments.out)), flush=True)


def fuzz(target: str, seconds: float, out: Path) -> dict[str, object]:
    """Fuzz a target for that long and log what was done; a child that hangs is followed by one."""
    folder, end, num_inputs = out / target, time.monotonic() + seconds, 0
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    (folder / "finds").mkdir(exist_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    while (left := int(end - time.monotonic())) > 0:
        command = [
            *(sys.executable, "-m", "tests.fuzz.child", target, folder / "finds"),
            *(f"-max_total_time={left}", f"-timeout={_TIMEOUT}", f"-rss_limit_mb={_MAX_MB}"),
            *(f"-max_len={_MAX_BYTES}", "-print_final_stats=1", "-verbosity=0"),
            *(f"-artifact_prefix={folder / 'finds'}/", folder / "corpus", CORPUS / target),
        ]
        done = subprocess.run([*map(str, command)], stderr=subprocess.PIPE, text=True, check=False)
        (folder / "stderr.txt").write_text(done.stderr)
        counts = [line.split()[1] for line in done.stderr.splitlines() if "executed_units" in line]
        num_inputs += sum(map(int, counts))
        if not counts and done.returncode and not list((folder / "finds").iterdir()):
            sys.exit(f"{target}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = {
        "target": target,
        "cpu_minutes": round((after.ru_utime + after.ru_stime - before[0] - before[1]) / 60, 2),
        "inputs": num_inputs,
        "corpus": len(list((folder / "corpus").iterdir())),
        "finds": sorted(file.name for file in (folder / "finds").iterdir()),
    }
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    return line


if __name__ == "__main__":
    main()
