"""Terminal output: results on stdout, progress, warnings and errors on stderr."""

import errno
import json
import os
import re
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import IO, Any, Self, cast

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from radrep.errors import ImageWarning
from radrep.progress import Advance, Reporter

REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 10.0  # between two lines of progress without a terminal
BAR_CELLS = 20
_LONGEST_NAME = 24  # of rows of a table that stay in one line on a narrow terminal
_NARROWEST = 20  # columns; in fewer no number can be read
UNWRAPPED = 10_000  # files and pipes get whole lines, so that they grep well


# Control characters, of file names and of texts, that a terminal would obey.
_SHOWN = {i: f"\\x{i:02x}" for i in (*range(32), *range(127, 160)) if chr(i) not in "\n\t"}
# Errors of a stream that nobody reads any more: its reader ended, it is closed, no terminal.
_GONE = (errno.EPIPE, errno.EBADF, errno.EIO)


def clean(text: str) -> str:
    """A text of one or more lines with what a terminal would obey, such as ESC, made visible."""
    return text.translate(_SHOWN)


_lost: list[str] = []  # why results did not reach stdout, if so


def prepare_streams() -> None:
    """Make the standard streams usable, whatever the caller closed and however he encodes."""
    _lost.clear()
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file to be opened would be taken for that stream
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (libraries write to it until the end)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def lost_results() -> str | None:
    """Why results did not reach stdout, "" if its reader ended, as `head` does; None: they did."""
    return _lost[0] if _lost else None


class _Forgiving:
    """A stream for messages, whose loss must not end hours of work."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def make_console(*, stderr: bool = False) -> Console:
    """A console that leaves text as it is: no markup, no highlighting, no wrapping in files."""
    stream = sys.stderr if stderr else sys.stdout
    file = cast(IO[str], _Forgiving(stream)) if stderr and stream is not None else None
    console = Console(file=file, stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = UNWRAPPED
    elif console.width < _NARROWEST:  # such as COLUMNS=0 or 1
        console.width = 80
    return console


def say(text: str) -> None:
    """Write a result to stdout, unwrapped, above the live line if there is one."""
    _write(clean(text) + "\n")


def say_json(value: object) -> None:
    """Write one line of JSON to stdout, in ASCII where stdout cannot take more."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    say(json.dumps(value, ensure_ascii=encoding != "utf8"))


def quote(name: str) -> str:
    """A name as it is or, if it would not stay in its line or field, as a JSON string."""
    return name if name.isprintable() and not name.startswith('"') else json.dumps(name)


def _write(text: str) -> None:
    """Write to stdout; if nobody reads it, note that and go on: the work may be in files."""
    if _lost:
        return
    stream = sys.stdout
    if stream is None or stream.closed:
        _lost.append("stdout is closed")
        return
    encoding = stream.encoding or "utf-8"
    try:
        # Names from downloads may hold what no terminal and no file can: halves of characters.
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()  # each result is in the pipe at once
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left in the buffer would fail at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if error.errno not in _GONE:
            raise
        _lost.append("" if error.errno == errno.EPIPE else f"stdout cannot be written ({error})")


def show_error(text: str, *, prefix: str = "error: ") -> None:
    """Write one red block to stderr; on a terminal long problems wrap below their own text."""
    console = make_console(stderr=True)
    lines = [_hang(clean(line), console.width) for line in (prefix + text).split("\n")]
    console.print("\n".join(lines), style="red", soft_wrap=True)


def _hang(line: str, width: int) -> str:
    """Wrap a row "  key  problem"; other lines stay whole, so that commands can be copied."""
    row = re.match(r"  \S+(?: \S+)*  +(?=\S)", line)
    if row is None or len(line) <= width:
        return line
    indent = " " * min(len(row[0]), width // 2)
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Write a table to stdout: numbers to the right, floats with three decimals, None as "-"."""
    grid = Table(box=None, title=clean(title) or None, title_justify="left", pad_edge=False)
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        # Where it is narrow, titles break between words before names do.
        names = index == 0 and all(len(str(row[0])) <= _LONGEST_NAME for row in rows)
        justify: JustifyMethod = "right" if numeric else "left"
        grid.add_column(clean(name), justify=justify, overflow="fold", no_wrap=names)
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    print_grid(grid)


def print_grid(grid: Table) -> None:
    """Write a rich table of clean texts to stdout, in files without trailing spaces."""
    console = make_console()
    with console.capture() as captured:
        console.print(grid)
    text = captured.get()
    if not console.is_terminal:
        text = "".join(f"{line.rstrip()}\n" for line in text.split("\n")[:-1])
    _write(text)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else clean(str(value))


class TerminalReporter(Reporter, AbstractContextManager["TerminalReporter"]):
    """Shows a run on stderr: one live line on a terminal, plain lines elsewhere.

    Between enter and exit it shows each ImageWarning too, once.
    """

    def __init__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._console = make_console(stderr=True)
        self._moves = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live: Progress | None = None

    def __enter__(self) -> Self:
        self._warnings.__enter__()
        warnings.simplefilter("always", ImageWarning)
        show_others = warnings.showwarning
        shown = set[str]()  # an image may be read at several sizes

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if not issubclass(category, ImageWarning):
                show_others(clean(str(message)), category, *place)
            elif str(message) not in shown:
                shown.add(str(message))
                self.warn(str(message))

        warnings.showwarning = cast(Any, show)
        return self

    def __exit__(self, *_: object) -> None:
        self._warnings.__exit__(None, None, None)
        self._clear()

    def info(self, label: str, text: str) -> None:
        """Write "label   text", all texts aligned."""
        label, text = clean(label), clean(text)
        if not self._console.is_terminal:
            self._console.print(f"{label:<7} {text}")
            return
        head = Column(style="bold", min_width=7, no_wrap=True)
        line = Table.grid(head, Column(overflow="fold"), padding=(0, 1))
        line.add_row(label, text)
        self._console.print(line)

    def warn(self, text: str) -> None:
        """Write "warning: text"."""
        self._console.print(f"warning: {clean(text)}", style="yellow", soft_wrap=True)

    def log_metrics(self, fields: Mapping[str, object]) -> None:
        """Show "name value" pairs in order; "step", as "done/total", moves the bar."""
        pairs = [_pair(name, value) for name, value in fields.items()]
        if not self._moves or "step" not in fields:
            self._console.print("  ".join(pairs))
            return
        step, count = list(fields).index("step"), clean(str(fields["step"]))
        done, _, total = count.partition("/")
        tail = "  ".join([count, *pairs[step + 1 :]])
        self._draw("  ".join(pairs[:step]), int(done), int(total), tail)

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Show a bar, the rate and the time left; at the end one line that stays."""
        label, unit = clean(label), clean(unit)
        start = shown = time.monotonic()
        done = 0

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal done, shown
            done += n
            now = time.monotonic()
            if now - shown < (REDRAW_SECONDS if self._moves else PLAIN_SECONDS):
                return
            shown = now
            text = f"{done}/{total} {unit}"
            if done:
                left = _clock((now - start) * max(total - done, 0) / done)
                text += f"  {clean(note) or _rate(done, now - start) + '/s'}  {left} left"
            if self._moves:
                self._draw(label, done, total, text)
            else:
                self._console.print(f"{label}  {text}")

        if self._moves:
            self._draw(label, 0, total, f"0/{total} {unit}")
        try:
            yield advance
        finally:
            self._clear()
        seconds = time.monotonic() - start
        rate = f", {_rate(done, seconds)} {unit}/s" if done else ""
        self._console.print(f"{label}  {done} {unit} in {_clock(seconds)}{rate}", soft_wrap=True)

    def _draw(self, head: str, done: int, total: int, tail: str) -> None:
        """Redraw the live line: head, a bar that gives way on narrow terminals, tail."""
        if self._live is None:
            bar = Column(max_width=BAR_CELLS)
            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(None, complete_style="green", finished_style="green", table_column=bar),
                TextColumn("{task.fields[tail]}", markup=False),
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # results must reach a file or a pipe
            )
            self._live.add_task(head, total=total, tail=tail)
            self._live.start()
        task = self._live.task_ids[0]
        self._live.update(
            task, description=head, completed=done, total=total, tail=tail, refresh=True
        )

    def _clear(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None


def _pair(name: str, value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return clean(f"{text} {name}" if name.endswith("/s") else f"{name} {text}")


def _rate(done: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
