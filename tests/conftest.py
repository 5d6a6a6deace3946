"""Folders with golden tensors, metric vectors and real data; their tests skip without them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Several workers test at once, each on one core; and a process that is forked beside OpenMP's other
# threads hangs. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A script's background processes ignore Ctrl-C, and hand that on to those that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests counted: states of a disk, faults, kills."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "counted" and report.when == "call":
                    terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder that this test reads")
    folder = Path(value).resolve()
    assert folder.is_dir(), f"{variable}={value} is not a folder"
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return _folder("RADREP_GOLDEN")


@pytest.fixture(scope="session")
def vectors_dir() -> Path:
    return _folder("RADREP_VECTORS")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    return _folder("RADREP_DATA")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 prepared phantoms."""
    from tests.whole_way import draw_prepared

    return draw_prepared(tmp_path_factory.mktemp("phantoms") / "data")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> list[Path]:
    """Four of their films as files."""
    from tests.whole_way import write_films

    return write_films(phantoms, tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Path:
    """A run of the tiny recipe, trained for two epochs by the command."""
    from tests.whole_way import radrep, write_recipe

    folder = tmp_path_factory.mktemp("trained")
    result = radrep("train", write_recipe(folder, phantoms))
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or fills the user's cache; fixtures of a wider scope share this one."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("RADREP_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with an empty cache."""
    monkeypatch.setenv("RADREP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shared_cache(_own_cache: None, _session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that evaluate the same phantoms: their image features are computed once."""
    monkeypatch.setenv("RADREP_CACHE", str(_session_cache))


@pytest.fixture
def without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """METEOR takes a dozen seconds an evaluation, so tests that ask something else do without."""
    monkeypatch.setenv("PATH", str(tmp_path))
