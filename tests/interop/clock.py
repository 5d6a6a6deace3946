"""A clock of another day, for files that are to be the same at any time."""

import datetime
from typing import Any

import pytest


class _AnyDatetime(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, cls.__mro__[1])


class _Later(datetime.datetime, metaclass=_AnyDatetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """As of a day and a second later."""
        return super().now(tz) + datetime.timedelta(days=1, seconds=1)


def shift_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have datetime.datetime.now be a day and a second later."""
    monkeypatch.setattr(datetime, "datetime", _Later)
