"""Films that several tests of folders report."""

from pathlib import Path

import pytest

from tests.reporting.mixed_films import draw_films


@pytest.fixture(scope="session")
def film_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_films(tmp_path_factory.mktemp("two") / "films", 2)
