"""What radrep raises when a user's input, and not its own code, is at fault."""

from collections.abc import Sequence


class RadrepError(Exception):
    """A mistake that the user can mend: the text says what is wrong, the value and what to do."""


class RecipeError(RadrepError):
    """One or more problems of a recipe, all told at once.

    Args:
        title: What was read, for example "recipes/bad.yaml".
        problems: One (key, what is wrong) pair a problem.
    """

    def __init__(self, title: str, problems: Sequence[tuple[str, str]]) -> None:
        self.title = title
        self.problems = list(problems)
        width = max((len(key) for key, _ in self.problems), default=0)
        count = len(self.problems)
        lines = [f"{title} has {count} problem{'s' if count != 1 else ''}:"]
        lines += [f"  {key:<{width}}  {text}" for key, text in self.problems]
        super().__init__("\n".join(lines))


class DataError(RadrepError):
    """Input data is missing, unreadable or not what it says it is."""


class CheckpointError(RadrepError):
    """A run or checkpoint is missing, incomplete or belongs to another model."""
