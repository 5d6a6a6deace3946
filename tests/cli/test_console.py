"""Plain lines where no terminal listens, one live line where one does; results on stdout alone."""

import errno
import io
import json
import os
import pty
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from rich.console import Console

from radrep.cli import app, console
from radrep.cli.console import TerminalReporter, table
from radrep.errors import ImageWarning

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


def test_names_of_rows_stay_whole_at_80_columns(monkeypatch, capsys):
    narrow = Console(width=80, force_terminal=True, color_system=None, file=io.StringIO())
    monkeypatch.setattr(console, "make_console", lambda: narrow)
    titles = ["micro F1-14", "macro F1-14", "F1-14 by report", "micro F1-5",
              "micro F1-13 with side", "side accuracy"]  # fmt: skip
    names = ["constant, best rouge_l", "blank-image control"]
    table(["", *titles], [(name, *[0.25] * 6) for name in names])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in names:
        assert sum(line.startswith(name) and line.count("0.250") == 6 for line in lines) == 1


def test_tables_put_numbers_to_the_right_and_state_what_is_missing(capsys):
    table(
        ("metric", "model", "n"), [("bleu4", 0.12345, 295), ("meteor", None, 2)], title="val, full"
    )
    assert capsys.readouterr().out == (
        "val, full\nmetric  model    n\nbleu4   0.123  295\nmeteor      -    2\n"
    )


def failing(number: int | None) -> Any:
    """A stream whose writes fail with an error of the system; None for a closed one."""
    if number is None:
        return None
    if number == errno.EPIPE:
        ours, theirs = os.pipe()
        os.close(ours)
        return os.fdopen(theirs, "w")
    if number == errno.ENOSPC:
        return open("/dev/full", "w")
    return os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")


@pytest.fixture
def fresh() -> Iterator[None]:
    console._lost.clear()
    yield
    console._lost.clear()


@pytest.mark.parametrize(
    ("stdout", "code", "told"),
    [
        (None, 2, "error: stdout is closed: what the command wrote there is lost\n"),
        (errno.EBADF, 2, "error: stdout cannot be written"),
        (errno.EPIPE, 141, ""),  # as SIGPIPE ends a program: `head` has what it wants
        (errno.ENOSPC, 2, "error: no disk space left"),
    ],
    ids=["closed", "not open", "no reader", "full"],
)
@pytest.mark.usefixtures("fresh")
def test_results_that_nobody_reads_end_without_a_traceback(
    stdout: int | None, code: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    stream = failing(stdout)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(SystemExit) as ended:
        app(["recipes"])
    assert ended.value.code == code
    assert stderr.getvalue().startswith(told)
    assert len(stderr.getvalue().splitlines()) == (1 if told else 0)
    if stream is not None:
        stream.close()  # nothing is left in its buffer that fails now, or at exit


@pytest.mark.parametrize("stderr", [None, errno.EPIPE, errno.ENOSPC])
@pytest.mark.usefixtures("fresh")
def test_messages_that_nobody_reads_stop_no_work(
    stderr: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = failing(stderr)
    monkeypatch.setattr(sys, "stderr", stream)
    with TerminalReporter() as reporter, reporter.progress("reading", 2, "images") as advance:
        reporter.info("data", "x")
        reporter.warn("y")
        advance(2)
    console.show_error("gone")
    console.say("a result")
    assert capsys.readouterr().out == "a result\n"
    if stream is not None:
        with suppress(OSError):
            stream.close()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
@pytest.mark.usefixtures("fresh")
def test_narrow_encodings_lose_nothing(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, newline="\n"))
    value = {"name": "\u00e9 \u2501 \u6f22 \udcff", "report": "x"}
    console.say_json(value)
    console.say("\u00e9 \u6f22")
    console.table(("a",), [("\u6f22",)], title="\u2501")
    first, second, *_ = raw.getvalue().decode(encoding).splitlines()
    assert json.loads(first) == value
    assert second.encode("ascii", "backslashreplace").decode("unicode_escape") == "\u00e9 \u6f22"


@pytest.mark.parametrize("columns", ["0", "1", "20", "abc", "-5", ""])
@pytest.mark.parametrize("term", ["xterm", "dumb", "", "unknown"])
@pytest.mark.usefixtures("fresh")
def test_no_width_and_no_kind_of_terminal_is_too_odd(
    columns: str, term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stdout, stderr = Terminal(), Terminal()
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    console.table(("finding", "count"), [("effusion", 3)], title="t")
    with TerminalReporter() as reporter, reporter.progress("reading", 2, "images") as advance:
        reporter.info("data", "x" * 50)
        reporter.log_metrics(STEP)
        advance(2)
    console.show_error("a.yaml has 1 problem:\n  key.of.it  a problem with many words in it")
    assert "3" in stdout.getvalue()
    assert "many" in stderr.getvalue()
    for words in ([], ["--help"], ["generate", "--help"], ["no-such"]):
        with pytest.raises(SystemExit) as ended:
            app(words)
        assert ended.value.code in (0, 2)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("terminal", [False, True])
def test_no_name_steers_the_terminal(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:  # one that knows no colours, so that no escape sequence is radrep's own
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0)
    title, others = "t\x1b]0;title\x07", list[str]()
    monkeypatch.setattr(warnings, "showwarning", lambda text, *_: others.append(text))
    console.say("a\x1b[31mb\x07")
    table((f"c{title}", "d"), [(f"e{title}", f"f\x9b{title}")], title=f"g{title}")
    console.show_error("c\x9bd")
    with TerminalReporter() as reporter:
        reporter.info(f"h{title}", f"i{title}\r")
        reporter.warn(f"j{title}")
        reporter.log_metrics({f"k{title}": f"l{title}", "step": f"1/2 {title}"})
        with reporter.progress(f"m{title}", 2, f"n{title}") as advance:
            advance(1, f"o{title}")
        warnings.warn(f"p{title}", ImageWarning, stacklevel=1)
        warnings.showwarning(f"q{title}", UserWarning, __file__, 1)
    out, err = capsys.readouterr()
    assert out.startswith("a\\x1b[31mb\\x07\n")
    assert err.startswith("error: c\\x9bd\n")
    assert not re.search(r"[^\n\t\x20-\x7e]", out + err)
    # Each of the letters is there, its sequence made visible.
    assert re.findall(r"([a-z])(?:\\x9b)?(?:t\\x1b|\nt\\x1b)", out) == list("gcef")
    assert set(re.findall(r"([h-q])t\\x1b", err)) == set("hijklmnop")
    assert others == ["qt\\x1b]0;title\\x07"]


@pytest.mark.slow
@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&- <&-", "| head -n 1", "2>/dev/full"])
def test_closed_streams_of_a_process(closing: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m radrep doctor {closing}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr + done.stdout
    assert "Exception ignored" not in done.stderr
    if closing.startswith(">&-"):
        assert done.returncode == 2
