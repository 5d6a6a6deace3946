"""Every option that names an output is checked before any work, in one line."""

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer

from radrep.atomic import check_output
from radrep.cli import app, outputs
from radrep.errors import RadrepError
from tests.whole_way import radrep

CHECKS = {
    getattr(outputs, n)
    for n in ("new_folder", "added_folder", "new_file", "nested_file", "any_file")
}
# What only is read; `recipes copy` makes its target from two words and checks it itself.
READ = {
    *("raw", "reports", "data", "checkpoint", "discriminator", "images", "runs", "predictions"),
    *("references", "prepared", "against", "file", "adapters", "dest", "studies"),
    *("prior", "prior_report", "first", "second", "folder", "rad_restruct"),
}


def path_parameters(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from path_parameters(inner, *names, name)
    types = get_type_hints(inspect.unwrap(command.callback))
    for parameter in command.params:
        if "Path" in str(types.get(parameter.name)):
            yield names, parameter


def paths() -> list[tuple[tuple[str, ...], Any]]:
    return list(path_parameters(typer.main.get_command(app)))


def outputs_of_commands() -> list[tuple[tuple[str, ...], Any]]:
    return [(names, p) for names, p in paths() if p.name not in READ]


def test_every_path_is_read_or_checked() -> None:
    assert len(paths()) > 25
    unchecked = [
        (*names, p.name)
        for names, p in outputs_of_commands()
        if p.callback is None or inspect.unwrap(p.callback) not in CHECKS
    ]
    assert not unchecked, "an output: give it a callback of cli/outputs.py; an input: add to READ"
    wanted = {(*names, p.name) for names, p in outputs_of_commands()}
    assert {("generate", "heatmap"), ("eval", "out"), ("train", "out"), ("import", "out")} <= wanted
    assert {("prepare", "iu", "out"), ("export", "out"), ("data", "show", "out")} <= wanted


@pytest.mark.parametrize(
    ("names", "parameter"),
    outputs_of_commands(),
    ids=lambda v: "-".join(v) if isinstance(v, tuple) else v.name,
)
@pytest.mark.parametrize("place", ["below a file", "read-only", "too long"])
def test_an_output_that_cannot_be_written_ends_in_one_line_before_any_work(
    names: tuple[str, ...],
    parameter: Any,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    where = {
        "below a file": str(tmp_path / "file/out"),
        "read-only": "/proc/out.png",
        "too long": str(tmp_path / ("x" * 300)),
    }[place]
    monkeypatch.chdir(tmp_path)
    command: Any = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    arguments = [p for p in command.params if isinstance(p, typer.core.TyperArgument)]
    options = [p.opts[-1] for p in command.params if p.required and p is not parameter]
    words = [word for option in options if option.startswith("-") for word in (option, "x")]
    result = radrep(*names, *(["x"] if arguments else []), *words, parameter.opts[-1], where)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: "), result.output
    assert "cannot be written" in result.stderr
    assert parameter.opts[-1] in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("folder", "new", "path", "told"),
    [
        (False, True, "there.txt", "exists already and is not overwritten; name another --x"),
        (False, True, "dangling", "exists already"),
        (False, True, "missing/new.png", "there is no folder"),
        (False, True, "there.txt/new.png", "is a file and no folder"),
        (False, False, "folder", "is a folder; name a file with --x"),
        (True, True, "folder", "exists already"),
        (True, False, "there.txt", "is a file and no folder"),
        (True, False, "there.txt/new/deep", "is a file and no folder"),
        (False, True, "new.png", None),
        (False, False, "there.txt", None),
        (True, True, "new/deep", None),
        (True, False, "folder", None),
        (False, False, "/dev/null", None),
    ],
)
def test_places(folder: bool, new: bool, path: str, told: str | None, tmp_path: Path) -> None:
    (tmp_path / "there.txt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(os.listdir(tmp_path))
    if told is None:
        check_output(tmp_path / path, "--x", folder=folder, new=new)
    else:
        with pytest.raises(RadrepError, match=told):
            check_output(tmp_path / path, "--x", folder=folder, new=new)
    assert sorted(os.listdir(tmp_path)) == before, "the check leaves nothing"


def test_a_dry_run_needs_no_place_to_write(tmp_path: Path) -> None:
    words = ("prepare", "phantom", "--out", "/proc/x", "--num-studies", 6, "--workers", 1)
    assert radrep(*words, "--dry-run").exit_code == 0
    assert radrep(*words).exit_code == 2


def test_a_run_that_is_there_is_refused_before_any_work(trained_run: Path, tmp_path: Path) -> None:
    result = radrep("train", trained_run / "recipe.yaml", "--out", trained_run)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {trained_run} exists already")
