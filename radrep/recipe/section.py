"""What all sections of a recipe share: closed and frozen, strict types, rules between keys.

Types are strict, since YAML has already decided them: `batch_size: yes` is a mistake, not 1. The
one exception is a float written as `1e-4`, which YAML reads as text.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Rule = tuple[bool, str, str]  # whether it is broken, the dotted key, what is wrong


def _read_exponent(value: object) -> object:
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _refuse_nameless(value: object) -> object:
    if value == "":  # the current folder otherwise
        raise ValueError("must name a folder, got ''")
    return value


Number = Annotated[float, BeforeValidator(_read_exponent)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Count = Annotated[int, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
# Of a stranger's recipe, so that none fills the memory by one number: widths and lengths, and what
# is repeated (layers, beams, processes).
Size = Annotated[int, Field(gt=0, le=65_536)]
Repeats = Annotated[int, Field(gt=0, le=1_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what every generator of random numbers takes
Name = Annotated[str, Field(min_length=1)]
Folder = Annotated[
    Path, Field(strict=False), BeforeValidator(_refuse_nameless), AfterValidator(Path.expanduser)
]


class Section(BaseModel):
    """A part of a recipe; its defaults are checked like written values."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )

    def rules(self) -> Iterable[Rule]:
        """What must hold between keys that are each valid on their own."""
        return ()

    @model_validator(mode="before")
    @classmethod
    def _take_an_empty_section(cls, written: Any) -> Any:
        return {} if written is None else written  # `hybrid:` with every key commented out

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        problems = [(key, text) for broken, key, text in self.rules() if broken]
        if problems:
            raise PydanticCustomError("conflict", "conflict", {"problems": problems})
        return self
