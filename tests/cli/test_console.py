"""Plain lines where no terminal listens, one live line where one does; results on stdout alone."""

import os
import pty
import subprocess
import sys

import pytest

from radrep.cli import console
from radrep.cli.console import TerminalReporter, table

STEP = {"epoch": "7/20", "step": "412/1300", "loss": 2.41712, "img/s": 212, "eta": "2:14"}
ON_A_TERMINAL = f"""
import sys
from radrep.cli.console import TerminalReporter, say
with TerminalReporter() as reporter:
    reporter.info("device", "cpu")
    reporter.log_metrics({STEP})
    say("a result")
    sys.stderr.write("a stray warning\\n")
    reporter.info("val", "epoch 6")
"""


def run_on_a_terminal(code: str, columns: int, **env: str) -> tuple[str, str]:
    """What code writes to a piped stdout and to a stderr that is a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", **env}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux says so when the other end has closed
                break
            if not part:
                break
            shown += part
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return out, shown.decode()


def test_facts_and_warnings_are_aligned_plain_lines(capsys):
    with TerminalReporter() as reporter:
        reporter.info("data", "2069 train [all] " + "x" * 200)
        reporter.info("device", "cpu")
        reporter.warn("no Java")
    assert capsys.readouterr() == (
        "",
        f"data    2069 train [all] {'x' * 200}\ndevice  cpu\nwarning: no Java\n",
    )


def test_steps_are_plain_lines_with_the_same_fields(capsys):
    with TerminalReporter() as reporter:
        reporter.log_metrics(STEP)
    assert capsys.readouterr().err == (
        "epoch 7/20  step 412/1300  loss 2.417  212 img/s  eta 2:14\n"
    )


def test_progress_is_a_line_now_and_then_and_one_at_the_end(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))  # four seconds between any two looks at the clock
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with TerminalReporter() as reporter, reporter.progress("reading", 10, "images") as advance:
        for _ in range(5):
            advance(2)
    assert capsys.readouterr().err == (
        "reading  6/10 images  0.5/s  0:08 left\nreading  10 images in 0:24, 0.42 images/s\n"
    )


def test_work_that_fails_claims_no_success(capsys):
    def fail_halfway() -> None:
        with TerminalReporter() as reporter, reporter.progress("reading", 10, "images") as advance:
            advance()
            raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        fail_halfway()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_live_line_and_results_still_reach_stdout():
    out, shown = run_on_a_terminal(ON_A_TERMINAL, columns=100)
    assert out == "a result\n"
    assert "━━━━━━" in shown
    assert "412/1300  loss 2.417  212 img/s  eta 2:14" in shown
    assert "a stray warning" in shown
    assert "epoch 6" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor comes back"


def test_a_narrow_terminal_gets_a_shorter_line():
    _, shown = run_on_a_terminal(ON_A_TERMINAL, columns=64)
    assert "━━" in shown
    assert "412/1300  loss 2.417  212 img/s  eta 2:14" in shown
    _, shown = run_on_a_terminal(ON_A_TERMINAL, columns=48)
    assert "━" not in shown
    assert "412/1300  loss 2.417  212 img/s  eta 2…" in shown


def test_long_problems_wrap_below_their_own_text_and_commands_stay_whole():
    code = """
from radrep.cli.console import show_error
from radrep.errors import RecipeError
problem = ("train.monitor", "must be a val/ metric, got 'test/bleu4'")
show_error(str(RecipeError("bad.yaml", [("optim.lr", "required, but missing"), problem])))
show_error("not found. Make it with: radrep prepare iu --raw data/raw --out data/iu")
"""
    shown = run_on_a_terminal(code, columns=50, NO_COLOR="1")[1].replace("\r\n", "\n")
    assert (
        shown
        == """\
error: bad.yaml has 2 problems:
  optim.lr       required, but missing
  train.monitor  must be a val/ metric, got
                 'test/bleu4'
error: not found. Make it with: radrep prepare iu --raw data/raw --out data/iu
"""
    )


def test_progress_on_a_terminal_ends_with_one_line_that_stays():
    code = """
from radrep.cli.console import TerminalReporter
with TerminalReporter() as reporter:
    with reporter.progress("reading", 4, "images") as advance:
        advance(4)
    reporter.info("then", "more")
"""
    _, shown = run_on_a_terminal(code, columns=80)
    assert "━━━━━━" in shown
    live, rest = shown.split("\x1b[2Kreading  4 images in 0:00")
    assert "0/4 images" in live
    assert "0/4 images" not in rest, "the live line goes when the work is done"
    assert "more" in rest


def test_a_terminal_without_cursor_control_gets_plain_lines():
    _, shown = run_on_a_terminal(ON_A_TERMINAL, columns=100, TERM="dumb")
    assert "epoch 7/20  step 412/1300" in shown
    assert "\x1b[?25l" not in shown


def test_no_color_leaves_the_line_without_colour():
    assert "\x1b[32m" in run_on_a_terminal(ON_A_TERMINAL, columns=100)[1]
    assert "\x1b[32m" not in run_on_a_terminal(ON_A_TERMINAL, columns=100, NO_COLOR="1")[1]


def test_a_result_is_in_the_pipe_at_once():
    code = "import os; from radrep.cli.console import say; say('a result'); os._exit(0)"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "a result\n"


def test_tables_put_numbers_to_the_right_and_state_what_is_missing(capsys):
    table(
        ("metric", "model", "n"), [("bleu4", 0.12345, 295), ("meteor", None, 2)], title="val, full"
    )
    assert capsys.readouterr().out == (
        "val, full\nmetric  model    n\nbleu4   0.123  295\nmeteor      -    2\n"
    )
