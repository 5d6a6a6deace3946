"""`python -m tests.benchmarks`: one table of all figures beside their peers."""

import itertools
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks.bench_films import PeakMemory
from tests.benchmarks.rows import Row, compare


def test_both_sides_run_in_turn_behind_a_warm_up() -> None:
    calls: list[str] = []
    cubes = (n**3 / 16 for n in itertools.count())  # so every run takes longer than the last
    ours, theirs = (lambda name=name: calls.append(name) for name in ("ours", "theirs"))
    row = compare("scan", ours, "peer", theirs, 1, clock=lambda: next(cubes))
    assert calls == ["ours", "theirs"] * 2
    assert (row.ours, row.theirs) == (61 / 16, 127 / 16)


def test_what_takes_long_is_run_once() -> None:
    now = [0.0]

    def take(seconds: float) -> None:
        now[0] += seconds

    sides = ("scan", lambda: take(1.0), "peer", lambda: take(20.0))
    row = compare(*sides, 3, clock=lambda: now[0])
    assert (row.ours, row.theirs) == (1.0, 20.0)
    assert now == [4 * 1.0 + 20.0]


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (Row("scan", "peer", 0.5, 1.25), ["scan", "500 ms", "peer", "1.25 s", "2.50x"]),
        (Row("scan", "peer", 2e-5, 1e-5), ["scan", "20 us", "peer", "10 us", "0.50x"]),
        (
            Row("scan", "peer", why_not="not installed"),
            ["scan", "", "peer", "not measured: not installed", ""],
        ),
    ],
)
def test_a_row_names_times_and_how_many_times_as_fast(row: Row, cells: list[str]) -> None:
    assert row.cells == cells


def test_the_page_has_machine_versions_and_every_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "README.md"
    command = ["--tiny", "--repeats", "1", "--only", "scores", "--only", "prepare"]
    benchmarks.main([*command, "--out", str(out)])
    text = out.read_text()
    assert "CPU cores" in text
    assert "torch 2" in text
    assert "| work | radrep | peer | its time | ratio |\n| --- |" in text
    assert "| pycocoevalcap |" in text
    assert "| Pillow's decoding alone, draft mode |" in text
    assert "prepare (2/2, " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scan", "encoder", "csr_lmca", "emrrg", "films"])
def test_every_suite_runs_at_tiny_sizes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    benchmarks.main(["--tiny", "--repeats", "1", "--only", name])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines
    assert all(line.endswith("x") or "not measured: " in line for line in lines)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_peak_memory_is_noted_once_at_each_share_of_the_work() -> None:
    memory, seen = PeakMemory((0.25, 0.5, 1.0)), []
    with memory.progress("reports", 8, "studies") as advance:
        for _ in range(4):
            advance(2)
            seen.append(len(memory.noted))
    assert seen == [1, 2, 2, 3]
    assert 0 < memory.noted[0] <= memory.noted[1] <= memory.noted[2]
