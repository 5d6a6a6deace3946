"""Validation errors of a recipe in words its author can act on."""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from radrep.recipe.models import MODELS
from radrep.recipe.recipe import Recipe

# Keys of older recipes (a file, --set, a checkpoint's recipe.yaml) and their present names.
RENAMED: Mapping[str, str] = {
    "data.held_out": "data.exclude_test_of",
    "data.pair": "data.images: views, frontal+mask or views+mask",
    "data.published": "data.equalize_and_sharpen and data.random_flip",
    "model.memory.topk": "model.memory.top_k",
    "model.enhancer.rate": "model.enhancer.stride",
    "model.enhancer.blend": "model.enhancer.pooled_weight",
    "model.regions.counts": "model.regions.regions_per_side",
    "model.hybrid.every": "model.hybrid.every_n_layers",
    "model.language_model.begin": "model.language_model.bos_token_id",
    "model.language_model.stop": "model.language_model.eos_text",
    "model.cluster": "model.cluster_size",
    "train.keep_best": "train.monitor",
    "train.track": "train.logger",
    "decode.max_words": "decode.max_new_tokens",
    "decode.min_words": "decode.min_new_tokens",
}
RENAMED_VALUES: Mapping[tuple[str, str], str] = {
    ("model.lora.target", "d"): "dt",
    ("decode.preset", "iu"): "mambaxray_iu",
    ("decode.preset", "mimic"): "mambaxray_mimic",
    ("decode.preset", "chexpert_plus"): "mambaxray_chexpert_plus",
}

_WORDS = {
    "missing": "required, but missing",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "invalid_key": "unknown key; a key is text",
}


def describe_problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    """One (dotted key, what is wrong) pair per problem, in the schema's order."""
    for found in error.errors(include_url=False):
        if found["type"] == "conflict":  # broken rules of a section bring their own keys
            yield from found["ctx"]["problems"]
        elif found["type"] == "union_tag_not_found":
            yield "model.name", f"required, but missing: one of {', '.join(MODELS)}"
        elif found["type"] == "union_tag_invalid":
            name = found["ctx"]["tag"]
            yield "model.name", f"must be one of {', '.join(MODELS)}, got {name!r}"
        else:
            yield _dotted(_typed_path(found["loc"])), _describe(found)


def _typed_path(loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """The keys in the file: pydantic puts the model's name behind "model"."""
    named = loc[:1] == ("model",) and loc[1:2] and loc[1] in MODELS
    return ("model", *loc[2:]) if named else tuple(loc)


def suggest_key(path: Sequence[str]) -> str:
    """Of an unknown key, "; did you mean 'lr'?": one beside it or of that very name; or ""."""
    *sections, key = path
    model: type[BaseModel] | None = Recipe
    if sections[:1] == ["model"] and sections[1:2] and sections[1] in MODELS:
        model, sections = MODELS[sections[1]], sections[2:]
    for name in sections:
        model = _section(model, name) if model else None
    near = get_close_matches(key, model.model_fields, n=1) if model else []
    if not near:
        elsewhere = _keys_by_name().get(key, [])
        near = elsewhere if len(elsewhere) <= 3 else []
    return f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


@cache
def _keys_by_name() -> dict[str, list[str]]:
    """Every key of a recipe of any model, with its sections, by its own name."""
    of_models = (name for model in MODELS.values() for name in _all_keys(model, "model."))
    keys: dict[str, list[str]] = {}
    for dotted in dict.fromkeys([*_all_keys(Recipe), *of_models]):
        keys.setdefault(dotted.split(".")[-1], []).append(dotted)
    return keys


def show(value: object) -> str:
    """A value as YAML writes it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a section of keys"
    return reprlib.repr(value)


def _dotted(loc: Sequence[int | str]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return "".join(parts).removeprefix(".")


def _describe(found: ErrorDetails) -> str:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    key = _dotted(_typed_path(found["loc"]))
    if kind == "extra_forbidden":
        if key in RENAMED:
            return f"renamed: write {RENAMED[key]}"
        return "unknown key" + suggest_key([str(part) for part in found["loc"]])
    if isinstance(value, str) and (key, value) in RENAMED_VALUES:
        return f"renamed: write {RENAMED_VALUES[key, value]}, got '{value}'"
    if kind == "value_error":  # a check of section.py, whose text is complete
        return str(context["error"])
    if kind in ("missing", "invalid_key"):
        return _WORDS[kind]
    text = f"must be {context['expected']}" if kind == "literal_error" else _WORDS.get(kind)
    if text is None:  # pydantic's own words, such as "Input should be less than or equal to 1"
        text = re.sub(r"^\w+ should ", "must ", found["msg"])
        text = re.sub(" after validation.*", "", text)
        text = text.replace("greater than or equal to", "at least")
        text = text.replace("less than or equal to", "at most")
    hint = " (so YAML reads a bare no or off)" if value is False and kind == "literal_error" else ""
    return f"{text}, got {show(value)}{hint}"


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    kinds = [field.annotation, *get_args(field.annotation)] if field else []
    sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return sections[0] if len(sections) == 1 else None


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in model.model_fields:
        section = _section(model, name)
        yield prefix + name
        if section:
            yield from _all_keys(section, f"{prefix}{name}.")
