"""A recipe; after each NUL byte follows a --set."""

from pathlib import Path

from radrep.recipe.load import dump_recipe, load_recipe


def read(file: Path) -> None:
    text, *overrides = file.read_bytes().split(b"\0")
    file.write_bytes(text)
    recipe = load_recipe(str(file), [each.decode("utf-8", "replace") for each in overrides])
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(file)) == recipe
