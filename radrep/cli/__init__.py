"""The command line: commands, their panels in --help, and how errors end."""

import errno
import shlex
import signal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from radrep import __version__
from radrep.cli import cache, data, demo, doctor, eval, recipes, serve, weights
from radrep.cli.console import lost_results, prepare_streams, show_error
from radrep.cli.generation import generate
from radrep.cli.preparation import prepare
from radrep.cli.training import plan, runs, sweep, train
from radrep.errors import DamagedError, RadrepError

ORDER = (
    *("prepare", "data", "cache"),
    *("pretrain", "train", "plan", "sweep", "runs"),
    *("eval", "generate", "serve"),
    *("import", "export", "push", "merge"),
    *("demo", "recipes", "doctor"),
)

_MODELS = ("--checkpoint", "--discriminator")
_BROKEN_PIPE = 128 + 13  # as a shell has it of a program that SIGPIPE ended
# What paths and disks do; a file that is not found may be a bug of ours, which keeps its traceback.
_ONE_LINE = (
    *(errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EPERM, errno.EOPNOTSUPP),
    *(errno.ELOOP, errno.EFBIG, errno.ESTALE, errno.EMFILE, errno.EBUSY),
)


class _Commands(TyperGroup):
    """Ends every command alike: user errors and full disks in one red block, bugs by traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The order in --help, which also orders the panels."""
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words of the command, for errors that name another one."""
        ctx.meta["words"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
        except RadrepError as error:
            words = ctx.meta["words"]
            show_error(f"{error}{_on_whole(words, self.get_command(ctx, words[0]), error)}")
            raise typer.Exit(2) from error
        except OSError as error:
            text = _describe_disk_error(error)
            if text is None:
                raise
            show_error(text)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            show_error("stopped", prefix="")
            raise typer.Exit(130) from None
        lost = lost_results()
        if lost:
            show_error(f"{lost}: what the command wrote there is lost")
            raise typer.Exit(2)
        if lost is not None:
            raise typer.Exit(_BROKEN_PIPE)
        return result


def _on_whole(words: list[str], command: Any, error: RadrepError) -> str:
    """Where a command met a damaged checkpoint, the same one on the newest that is whole.

    Of its words an argument changes, or the value of an option that names a model: not --out.
    """
    if not isinstance(error, DamagedError):
        return ""
    from radrep.weights.run_folder import run_dir

    run, changed = error.run.resolve(), list(words)
    flags = {
        name for each in command.params if getattr(each, "is_flag", False) for name in each.opts
    }
    for place, (before, word) in enumerate(pairwise(words), start=1):
        is_model = not before.startswith("-") or before in {*flags, *_MODELS}
        if is_model and word and run_dir(Path(word)) == run:
            changed[place] = str(error.whole)
    if changed == words and words[0] in ("eval", "generate"):  # it took the newest run
        changed += ["--checkpoint"] * (words[0] == "generate") + [str(error.whole)]
    return f". Use it with: {shlex.join(['radrep', *changed])}" if changed != words else ""


def _describe_disk_error(error: OSError) -> str | None:
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no disk space left{where}. Free some, then run the same command again"
    if error.errno in (errno.EACCES, errno.EROFS):
        return f"no permission{where}: {error.strerror}. Choose another folder"
    if error.errno in _ONE_LINE and error.filename:
        return f"{error.filename}: {error.strerror}"
    return None


app = typer.Typer(
    cls=_Commands,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_show_locals=False,  # locals may hold reports, which are patient text
    epilog="Start with:  radrep demo",
)


@app.callback()
def radrep(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Train and evaluate models that write radiology reports from images."""
    if version:
        typer.echo(f"radrep {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), nl=False)


app.add_typer(prepare.app, name="prepare", rich_help_panel="Data")
app.add_typer(data.app, name="data", rich_help_panel="Data")
app.add_typer(cache.app, name="cache", rich_help_panel="Data")
app.command(rich_help_panel="Train")(train.pretrain)
app.command(rich_help_panel="Train")(train.train)
app.command(rich_help_panel="Train")(plan.plan)
app.command(rich_help_panel="Train")(sweep.sweep)
app.add_typer(runs.app, name="runs", rich_help_panel="Train")
app.command(name="eval", rich_help_panel="Evaluate & generate")(eval.evaluate)
app.command(rich_help_panel="Evaluate & generate")(generate.generate)
app.command(rich_help_panel="Evaluate & generate")(serve.serve)
app.command(name="import", rich_help_panel="Weights")(weights.import_)
app.command(rich_help_panel="Weights")(weights.export)
app.command(rich_help_panel="Weights")(weights.push)
app.command(rich_help_panel="Weights")(weights.merge)
app.command(rich_help_panel="Explore")(demo.demo)
app.add_typer(recipes.app, name="recipes", rich_help_panel="Explore")
app.command(rich_help_panel="Explore")(doctor.doctor)


def run() -> None:
    """Entry point of the `radrep` command."""
    # As Ctrl-C: workers are stopped and locks let go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare_streams()
    app()
