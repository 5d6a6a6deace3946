"""Other settings of the decoding for an evaluation than those of the run."""

from collections.abc import Sequence
from pathlib import Path

from radrep.errors import RadrepError
from radrep.recipe.load import load_recipe
from radrep.recipe.training import DECODE_PRESETS, Decode
from radrep.weights.run_folder import RECIPE


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise RadrepError, before anything is loaded, for a --set of another section than decode."""
    for override in overrides:
        key = _key(override)
        if key.startswith("decode."):
            continue
        hint = f"; did you mean decode.{key}?" if key in Decode.model_fields else ""
        raise RadrepError(
            f"an evaluation can --set keys of decode alone, such as decode.beam_size=1, got "
            f"'{override}'{hint or '. The rest was settled in training: see radrep train --set'}"
        )


def change_decode(checkpoint: Path, overrides: Sequence[str]) -> tuple[Decode, list[str]]:
    """The decoding of a checkpoint with some keys changed, checked with its model.

    A preset gives its values to the keys that are not typed beside it. The second result is a line
    for the reader where the decoding is not the checkpoint's own. Raises RecipeError.
    """
    file = str(checkpoint / RECIPE)
    own, decode = load_recipe(file).decode, load_recipe(file, overrides).decode
    if "decode.preset" in map(_key, overrides):
        # This recipe is written out whole, and typed keys go before those of a preset.
        preset = DECODE_PRESETS.get(str(decode.preset), {})
        filled = [f"decode.{key}={value}" for key, value in preset.items()]
        decode = load_recipe(file, [*filled, *overrides]).decode
    before, now = _flat(own), _flat(decode)
    changed = [
        f"{key} {value} instead of {before.get(key)}"
        for key, value in now.items()
        if value != before.get(key)
    ]
    return decode, [f"decoding changed by --set: {', '.join(changed)}"] if changed else []


def _flat(decode: Decode) -> dict[str, object]:
    values = decode.model_dump()
    for name in ("select", "consensus", "edit"):
        section = values.pop(name) or {"": None}
        values |= {f"{name}.{key}".rstrip("."): value for key, value in section.items()}
    return values


def _key(override: str) -> str:
    return override.partition("=")[0].strip()
