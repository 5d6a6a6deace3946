"""Callbacks of the options that name an output: each is checked before any work."""

from collections.abc import Callable
from pathlib import Path

import typer

Check = Callable[[typer.Context, typer.CallbackParam, Path | None], Path | None]


def _checked(*, folder: bool, new: bool, make_parents: bool = False) -> Check:
    def check(
        context: typer.Context, parameter: typer.CallbackParam, path: Path | None
    ) -> Path | None:
        if path is not None and not context.params.get("dry_run"):  # an eager option
            from radrep.atomic import check_output

            option = parameter.opts[-1] if parameter.opts[-1].startswith("-") else "place"
            check_output(path, option, folder=folder, new=new, make_parents=make_parents)
        return path

    return check


new_folder = _checked(folder=True, new=True)
added_folder = _checked(folder=True, new=False)
new_file = _checked(folder=False, new=True)
nested_file = _checked(folder=False, new=True, make_parents=True)
any_file = _checked(folder=False, new=False)
