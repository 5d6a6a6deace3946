"""What radrep says before it does anything, and how a command ends that cannot go on."""

import errno
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from radrep import __version__
from radrep.cli import app
from radrep.errors import DataError

HEAVY = {"torch", "numba", "numpy", "timm", "accelerate", "pydantic", "yaml", "PIL"}


def run(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "radrep", *args]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def failing_with(monkeypatch):
    """Make `radrep recipes` fail with a given exception."""

    def run_failing(error: BaseException):
        def fail() -> None:
            raise error

        monkeypatch.setattr("radrep.recipe.load.shipped_recipes", fail)
        return CliRunner().invoke(app, ["recipes"])

    return run_failing


def test_help_imports_nothing_heavy():
    code = (
        "import json, sys\n"
        "from radrep.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "names = sorted({name.split('.')[0] for name in sys.modules})\n"
        "print(json.dumps(names), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr))
    assert "typer" in loaded
    assert not loaded & HEAVY
    assert "Usage" in done.stdout


def test_generation_imports_transformers_only_for_a_model_that_needs_it():
    code = (
        "import sys, radrep.inference.generator\n"
        "sys.exit(bool({'transformers', 'datasets', 'accelerate'} & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_arguments_show_the_help():
    bare = run()
    assert bare.returncode == 0
    assert bare.stdout.split() == run("--help").stdout.split()


def test_every_command_is_in_a_named_panel():
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "─ Explore ─" in shown
    assert "─ Commands ─" not in shown, "a command without rich_help_panel"


def test_version_is_that_of_the_package():
    assert run("--version").stdout == f"radrep {__version__}\n"


def test_an_unknown_command_is_refused_with_the_nearest():
    done = run("recipe")
    assert done.returncode == 2
    assert "Did you mean 'recipes'" in done.stderr


def test_a_mistake_is_one_block_on_stderr_and_exit_code_2():
    done = run("recipes", "copy", "dmeo")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: no shipped recipe is named 'dmeo'. Did you mean 'demo'?")
    assert done.stderr.count("\n") == 1


def test_a_mistake_is_red_on_a_terminal_and_plain_with_no_color():
    env = {**os.environ, "TTY_COMPATIBLE": "1", "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    assert "\x1b[31m" in run("recipes", "copy", "dmeo", env=env).stderr
    assert "\x1b[31m" not in run("recipes", "copy", "dmeo", env={**env, "NO_COLOR": "1"}).stderr


def test_messages_are_shown_as_they_are(failing_with):
    result = failing_with(DataError("[bold]x[/bold] :smile: has " + "long " * 40 + "lines\n  kept"))
    assert result.stderr == "error: [bold]x[/bold] :smile: has " + "long " * 40 + "lines\n  kept\n"


def test_a_full_disk_is_a_clear_error(failing_with):
    result = failing_with(OSError(errno.ENOSPC, "No space left on device", "runs/x/best"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no disk space left at runs/x/best. Free some")


def test_a_folder_that_cannot_be_written_is_a_clear_error(failing_with):
    result = failing_with(PermissionError(errno.EACCES, "Permission denied", "/runs"))
    assert result.exit_code == 2
    assert result.stderr == (
        "error: no permission at /runs: Permission denied. Choose another folder\n"
    )


def test_ctrl_c_prints_stopped_and_exits_130(failing_with):
    result = failing_with(KeyboardInterrupt())
    assert (result.exit_code, result.stderr) == (130, "stopped\n")


@pytest.mark.parametrize("bug", [ValueError("a bug"), OSError(errno.EIO, "broken disk")])
def test_bugs_keep_their_exception(failing_with, bug):
    assert failing_with(bug).exception is bug


def test_a_bugs_traceback_shows_no_locals():
    code = (
        "import radrep.recipe.load as load, radrep.cli as cli, sys\n"
        "def shipped_recipes():\n"
        "    report = 'patient' + ' text'\n"
        "    raise ValueError('a bug')\n"
        "load.shipped_recipes = shipped_recipes\n"
        "sys.argv = ['radrep', 'recipes']\n"
        "cli.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "a bug" in done.stderr
    assert "Traceback" in done.stderr
    assert "patient text" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error():
    command = [sys.executable, "-m", "radrep", "recipes"]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
