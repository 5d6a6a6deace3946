"""From YAML, a shipped name and --set to one checked recipe; all problems in one error."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from radrep.errors import RadrepError, RecipeError
from radrep.recipe.bounded_yaml import MAX_BYTES, BoundedLoader
from radrep.recipe.problems import describe_problems, show
from radrep.recipe.recipe import Recipe

Problems = list[tuple[str, str]]
_SHOWN = 100  # characters of a --set
_OF_RUNS = {"recipe", "folds", "seeds"}  # files that radrep writes, which name no recipe
# What PyYAML raises: ValueError for a date such as 2024-02-31, the others for a tag whose value is
# of another type, such as !!int "" and !!bool maybe.
_YAML_ERRORS = (yaml.YAMLError, ValueError, OverflowError, IndexError, KeyError, AttributeError)
SectionT = TypeVar("SectionT", bound=BaseModel)


def load_recipe(path_or_name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, or a shipped one by "demo", "demo.yaml" or "recipes/demo.yaml".

    A file wins over a name. A recipe that `extends` another has the keys of both, and its own
    values where both have one. Overrides are as of --set: "optim.lr=1e-4". A RecipeError holds
    every problem of YAML, keys and values.
    """
    written, problems = _parse_extended(path_or_name, ())
    stem = Path(path_or_name).name.removesuffix(".yaml")
    if stem and stem.isprintable() and stem not in _OF_RUNS:
        written.setdefault("name", stem)
    alone = deepcopy(written)
    problems += _override(written, overrides)
    try:
        recipe = Recipe.model_validate(written)
    except ValidationError as error:
        raise RecipeError(path_or_name, [*problems, *describe_problems(error)]) from None
    problems += _idle_keys(alone, recipe, overrides)
    if problems:
        raise RecipeError(path_or_name, problems)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults included; it loads to a recipe of equal effect.

    Changed keys that others switch off are left out, since a file may not hold them.
    """
    dumped = {"name": recipe.name, **recipe.model_dump(mode="json")}
    for key in _idle(recipe):
        *sections, name = key.split(".")
        section = dumped
        for part in sections:
            section = section[part]
        del section[name]
    return yaml.dump(dumped, Dumper=_Dumper, sort_keys=False, width=100)


def shipped_recipes() -> list[tuple[str, str]]:
    """Name and first header line of every recipe that comes with radrep, by name."""
    return [(name, shipped_recipe_text(name).split("\n", 1)[0].lstrip("# ")) for name in _shipped()]


def shipped_recipe_text(name: str) -> str:
    """The text of a shipped recipe, comments and all; name with or without ".yaml"."""
    file = _shipped().get(name.removesuffix(".yaml"))
    if file is None:
        raise RadrepError(f"no shipped recipe is named '{name}'. {_shipped_hint(name)}")
    return file.read_text(encoding="utf-8")


def shipped_name(path_or_name: str) -> str | None:
    """The shipped recipe that a name means where no such file is; None if it means none."""
    path = Path(path_or_name)
    name = path.name.removesuffix(".yaml")
    in_recipes = path.parts in ((path.name,), ("recipes", path.name))
    return name if in_recipes and name in _shipped() and not path.is_file() else None


def _shipped() -> dict[str, Traversable]:
    """Shipped recipes by name: a wheel holds them inside the package, a checkout beside it."""
    inside = files("radrep") / "shipped_recipes"
    folder = inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"
    found = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name[:-5]: file for file in found if file.name.endswith(".yaml")}


def _shipped_hint(typed: str) -> str:
    names = list(_shipped())
    near = get_close_matches(Path(typed).name.removesuffix(".yaml"), names, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Shipped recipes: {', '.join(names)}"


def _read(path_or_name: str) -> str:
    path = Path(path_or_name)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if name := shipped_name(path_or_name):
            return shipped_recipe_text(name)
        if not isinstance(error, IsADirectoryError):
            raise RadrepError(f"{path_or_name} not found. {_shipped_hint(path_or_name)}") from error
        inside = path / "recipe.yaml"
        hint = f"Did you mean {inside}?" if inside.is_file() else "Give a YAML file."
        raise RadrepError(f"{path_or_name} is a folder, not a recipe. {hint}") from error
    except OSError as error:
        raise RadrepError(f"{path_or_name} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise RadrepError(f"{path_or_name} has more than {MAX_BYTES:,} bytes, as no recipe has")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise RadrepError(f"{path_or_name} is not a text file in UTF-8. A recipe is YAML.")
    return text


def _parse(text: str, title: str) -> tuple[dict[Any, Any], Problems]:
    try:
        loader = BoundedLoader(text)
        root = loader.get_single_node()
        problems = list(_repeated_keys(root, (), set())) if root else []
        typed = loader.construct_document(root) if root else None
    except _YAML_ERRORS as error:
        raise RecipeError(title, [_describe_yaml_error(error, text)]) from error
    if typed is None:
        raise RadrepError(f"{title} is empty. Start from one of: {', '.join(_shipped())}")
    if not isinstance(typed, dict):
        raise RadrepError(
            f"{title} must hold keys and values such as 'task: train', got {show(typed)}"
        )
    return typed, problems


def _parse_extended(path_or_name: str, above: tuple[str, ...]) -> tuple[dict[Any, Any], Problems]:
    """A recipe merged into the one that it extends; `above` are those that extend it."""
    written, problems = _parse(_read(path_or_name), path_or_name)
    extended = written.pop("extends", None)
    if extended is None:
        return written, problems
    if not isinstance(extended, str):
        text = f"must be a file or the name of a shipped recipe, got {show(extended)}"
        raise RecipeError(path_or_name, [("extends", text)])
    beside = Path(path_or_name).parent / extended
    below = str(beside) if Path(path_or_name).is_file() and beside.is_file() else extended
    chain = (*above, path_or_name)
    if below in chain:
        raise RecipeError(above[0] if above else path_or_name, [("extends", _circle(chain, below))])
    base, problems_below = _parse_extended(below, chain)
    base.pop("name", None)
    return _merge(base, written), problems_below + problems


def _circle(chain: Sequence[str], last: str) -> str:
    return f"goes in a circle: {' extends '.join([*chain, last])}"


def _merge(below: dict[Any, Any], above: Mapping[Any, Any]) -> dict[Any, Any]:
    """The keys of both; sections are merged, other values of `above` win."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            value = _merge(under, value)
        merged[key] = value
    return merged


def _repeated_keys(
    node: yaml.Node, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[str, str]]:
    """Yield keys written twice in one mapping, of which YAML would silently keep the last."""
    if not isinstance(node, yaml.MappingNode) or id(node) in seen:  # seen: YAML aliases can loop
        return
    seen.add(id(node))
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            yield ".".join([*path, name]), f"written twice, in lines {lines[name]} and {line}"
        lines[name] = line
        yield from _repeated_keys(value, (*path, name), seen)


def _describe_yaml_error(error: Exception, text: str) -> tuple[str, str]:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return "YAML", _describe_value_error(error)
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    problem = getattr(error, "problem", None) or str(error)
    if "\t" in line and "\\t" in problem:
        problem = "a tab, where YAML wants spaces"
    return f"line {mark.line + 1}", f"{problem}: {show(line.strip())}" if line else problem


def _describe_value_error(error: Exception) -> str:
    if isinstance(error, IndexError | KeyError | AttributeError):
        return "a value is not of the type that its tag names, such as !!int"
    return (getattr(error, "problem", None) or str(error)).replace("\n", " ")


def _override(typed: dict[Any, Any], overrides: Sequence[str]) -> Problems:
    """Write --set values over those of the file, in their order."""
    problems: Problems = []
    for override in overrides:
        dotted, equals, value = override.partition("=")
        *sections, key = dotted.strip().split(".")
        if not equals or not all([*sections, key]):
            problems.append((f"--set {override}", "must have the form optim.lr=1e-4"))
            continue
        shown = override if len(override) <= _SHOWN else f"{override[:_SHOWN]}..."
        if len(value) > MAX_BYTES:
            text = f"the value has more than {MAX_BYTES:,} characters, as no recipe has"
            problems.append((f"--set {shown}", text))
            continue
        try:
            parsed = yaml.load(value, BoundedLoader)
        except _YAML_ERRORS as error:
            problem = _describe_value_error(error)
            problems.append((f"--set {shown}", f"the value is not YAML: {problem}"))
            continue
        section = typed
        for depth, name in enumerate(sections, start=1):
            if section.get(name) is None:
                section[name] = {}
            section = section[name]
            if not isinstance(section, dict):
                text = f"{'.'.join(sections[:depth])} is a value, not a section"
                problems.append((f"--set {override}", text))
                break
        else:
            section[key] = parsed
    return problems


def _idle_keys(written: Mapping[Any, Any], recipe: Recipe, overrides: Sequence[str]) -> Problems:
    """Keys that other keys switch off: those of --set, and those of the file without it."""
    keys = dict.fromkeys(override.partition("=")[0].strip() for override in overrides)
    off = recipe.without_effect()
    problems = [
        (key, f"has no effect without {needed}")
        for key in keys
        for switched, needed in off.items()
        if f"{key}.".startswith(f"{switched}.")
    ]
    try:
        alone = Recipe.model_validate(written) if overrides else recipe
    except ValidationError:  # the file is complete with --set alone
        return problems
    off = alone.without_effect()
    return problems + [(key, f"has no effect without {off[key]}") for key in _idle(alone)]


def _idle(recipe: Recipe) -> Iterator[str]:
    """Keys that others switch off and that differ from their default all the same."""
    for key in recipe.without_effect():
        parent, _, name = key.rpartition(".")
        section = attrgetter(parent)(recipe)
        if getattr(section, name) != type(section).model_fields[name].default:
            yield key


class _Dumper(yaml.SafeDumper):
    """Writes lists in one line, as recipes have them."""


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True)
)


def change_section(section: SectionT, changes: Mapping[str, object], *, title: str) -> SectionT:
    """A section with some keys changed, checked like a recipe; title names their origin."""
    kept = {**section.model_dump(), **_not_dumped(section)}
    return make_section(type(section), {**kept, **changes}, title=title)


def _not_dumped(section: BaseModel) -> dict[str, object]:
    fields = type(section).model_fields.items()
    return {name: getattr(section, name) for name, field in fields if field.exclude}


def make_section(kind: type[SectionT], values: Mapping[str, object], *, title: str) -> SectionT:
    """A section from its keys, checked like a recipe; title names their origin."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(title, list(describe_problems(error))) from None
