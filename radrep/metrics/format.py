"""Scores as text: the terminal, pages, conclusions and model cards write numbers alike."""

from radrep.metrics.bootstrap import Difference, Interval

MINUS, MISSING = "\N{MINUS SIGN}", "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"


def number(value: float | None, *, signed: bool = False, decimals: int = 3) -> str:
    """A score; MISSING for None."""
    if value is None:
        return MISSING
    text = f"{abs(value):.{decimals}f}"
    if value < 0 and text.strip("0."):
        return MINUS + text
    return "+" + text if signed and text.strip("0.") else text


def interval(ends: Interval | Difference | None) -> str:
    """An interval, "" for None."""
    return "" if ends is None else f"[{number(ends.low)},{_SPACE}{number(ends.high)}]"


def p_value(value: float) -> str:
    """A p-value with its letter."""
    if value < 0.001:
        return f"p{_SPACE}<{_SPACE}0.001"
    return f"p{_SPACE}={_SPACE}{value:.{3 if value < 0.01 else 2}f}"


def difference(found: Difference) -> str:
    """A difference with its interval and p-value."""
    return f"{number(found.value, signed=True)} {interval(found)}, {p_value(found.p_value)}"


def share(value: float) -> str:
    """A share of 1 in per cent."""
    return f"{100 * value:.1f} %"
