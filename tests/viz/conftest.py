import pytest

from radrep.viz.figures import text as lettering


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, str]]:
    """What is written where on its own picture: x, y, text."""
    found: list[tuple[float, float, str]] = []
    write = lettering.write

    def note(draw, place, text, colour, size=lettering.SIZE) -> None:
        found.append((*place, text))
        write(draw, place, text, colour, size)

    monkeypatch.setattr(lettering, "write", note)
    return found
