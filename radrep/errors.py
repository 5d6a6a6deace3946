"""Errors a user can fix."""

from collections.abc import Sequence
from pathlib import Path

_MOST_PROBLEMS = 100  # of a recipe, in one message


class RadrepError(Exception):
    """An error the user can fix: the text names the problem, the value found and what to do."""


class RecipeError(RadrepError):
    """All problems of a recipe at once.

    Args:
        title: The file, for example "recipes/bad.yaml".
        problems: Pairs of key and problem.
    """

    def __init__(self, title: str, problems: Sequence[tuple[str, str]]) -> None:
        self.title = title
        self.problems = list(problems)
        width = max((len(key) for key, _ in self.problems), default=0)
        count = len(self.problems)
        lines = [f"{title} has {count} problem{'s' if count != 1 else ''}:"]
        lines += [f"  {key:<{width}}  {text}" for key, text in self.problems[:_MOST_PROBLEMS]]
        if count > _MOST_PROBLEMS:
            lines.append(f"  ... and {count - _MOST_PROBLEMS} more")
        super().__init__("\n".join(lines))


class DataError(RadrepError):
    """Input data is missing, unreadable or in another format than expected."""


class CheckpointError(RadrepError):
    """A run or checkpoint is missing, incomplete or belongs to another model."""


class WriteError(CheckpointError):
    """A disk did not take a file of a run."""


class DamagedError(CheckpointError):
    """A run's checkpoint cannot be read; `whole` is the newest one of the run that can."""

    def __init__(self, text: str, run: Path, whole: Path) -> None:
        self.run, self.whole = run, whole
        super().__init__(f"{text}. Its newest whole checkpoint is {whole}")


class ImageWarning(UserWarning):
    """What was chosen for the user in reading an image, such as a window that is not used."""
