"""How far a job is -> a bar: the last line of a terminal, or a notebook's widget.

What is logged meanwhile, and what else goes to `sys.stderr`, stands above the bar.
"""

import contextlib
import importlib.util
import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TextIO, cast

from absl import logging
from tqdm import tqdm

# The right edge stays free, for the "^C" that a terminal writes when it is pressed:
# in the next line nobody could take it away again.
_FREE_COLUMNS = 3
_LEAST_BAR_COLUMNS = 8
_MOST_BAR_COLUMNS = 50
# Of terminals that do not say how wide they are.
_COLUMNS = 80
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class Bar(Protocol):
    """Where a person sees how far a job is."""

    def show(self, share: float | None, words: Sequence[str]) -> None:
        """Shows another state.

        Args:
          share: how much of the job is done, 0 to 1; None if nobody knows.
          words: what to say, the most important first.
        """
        ...

    def close(self) -> None:
        """Takes the bar away."""
        ...


def is_notebook() -> bool:
    """Whether this process works for a notebook."""
    # Not imported: where there is a notebook, it is there.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def open_bar() -> Bar | None:
    """The bar that fits where standard error goes; None where nobody watches.

    Nor is there one in a terminal that has one: a job of another thread's is under way.
    """
    if is_notebook():
        return _NotebookBar()
    if isinstance(sys.stderr, TerminalBar):
        # Two would have to end in order, or standard error would not be given back.
        return None
    if sys.stderr is not None and sys.stderr.isatty() and logging.level_info():
        return TerminalBar(sys.stderr)
    return None


def notebook_bar_class() -> Any:
    """The bar of tqdm's that the screen can show: a widget where there are widgets."""
    if is_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar
    return tqdm


class _NotebookBar:
    """A bar in the cell's output."""

    def __init__(self) -> None:
        # At once: what another thread made would be shown in whatever cell runs then.
        self._bar: Any = notebook_bar_class()(
            total=1.0,
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
            leave=False,
            file=sys.stderr,
        )

    def show(self, share: float | None, words: Sequence[str]) -> None:
        self._bar.n = share or 0.0
        self._bar.set_description_str(", ".join(words), refresh=True)

    def close(self) -> None:
        self._bar.close()


class TerminalBar:
    """The last line of a terminal, and the stream for everything else.

    While it is open it is `sys.stderr`, and what absl logs goes through it, too.
    """

    def __init__(self, stream: TextIO) -> None:
        """Opens it; nothing is shown yet.

        Args:
          stream: the terminal.
        """
        self._stream = stream
        self._line = ""  # the bar as it is, or will be when the line above is whole
        self._is_within_line = False
        self._is_closed = False
        self._lock = threading.RLock()
        self._instead_of_stderr = contextlib.ExitStack()
        self._instead_of_stderr.enter_context(_stderr_replaced(cast(TextIO, self)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # whatever else a stream can do

    def show(self, share: float | None, words: Sequence[str]) -> None:
        """Shows another state, in one line, however narrow the terminal is."""
        with self._lock:
            if self._is_closed:  # a signal did not wait for the thread that looks
                return
            columns = self._columns()
            line = bar_line(share, words, columns - _FREE_COLUMNS, self._is_unicode())
            self._line = line
            if not self._is_within_line:
                self._draw(f"{self._erased(columns)}{line}")

    def write(self, text: str) -> int:
        """Writes above the bar, which waits until the line is whole."""
        if not text:
            return 0
        with self._lock:
            if self._line and not self._is_within_line:
                self._stream.write(self._erased(self._columns()))
            self._stream.write(text)
            self._is_within_line = not text.endswith("\n")
            if not self._is_within_line:
                self._stream.write(self._line)
            self._stream.flush()
            return len(text)

    def flush(self) -> None:
        """Writes out what is buffered."""
        self._stream.flush()

    def close(self) -> None:
        """Takes the bar away, and everything is as it was before."""
        with self._lock:
            self._instead_of_stderr.close()
            self._is_closed = True
            if self._line and not self._is_within_line:
                self._draw(self._erased(self._columns()))
            self._line = ""

    def _draw(self, text: str) -> None:
        # A run outlives its terminal, if it was told to: nobody is left to see a bar.
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()

    @staticmethod
    def _erased(columns: int) -> str:
        """What leaves the last line empty."""
        # To the right edge: a "^C" may stand there.
        return f"\r{' ' * (columns - 1)}\r"

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _COLUMNS
        except (OSError, ValueError):
            return _COLUMNS

    def _is_unicode(self) -> bool:
        return (self._stream.encoding or "").lower().replace("-", "") == "utf8"


def bar_line(
    share: float | None, words: Sequence[str], num_columns: int, is_unicode: bool
) -> str:
    """Lays a bar out: " 42% |█████     | 1,234 lines, 0:12, 0:17 left".

    Args:
      share: how much is done, 0 to 1; None if nobody knows, which gives no bar.
      words: what to say; if it is too long, the last ones but one are left out first.
      num_columns: how long the line may be.
      is_unicode: whether the terminal takes more than ASCII.
    """
    kept = [*words]
    if share is None:
        return ", ".join(kept)[:num_columns]
    percent = f"{math.floor(100 * share):3d}%"
    room = 0
    while kept:
        room = num_columns - len(percent) - len(", ".join(kept)) - len(" || ")
        if room >= _LEAST_BAR_COLUMNS or len(kept) == 1:
            break
        del kept[-1]
    text = ", ".join(kept)
    if room < _LEAST_BAR_COLUMNS:
        return f"{percent} {text}"[:num_columns]
    return (
        f"{percent} |{_blocks(share, min(room, _MOST_BAR_COLUMNS), is_unicode)}| {text}"
    )


def _blocks(share: float, num_columns: int, is_unicode: bool) -> str:
    if not is_unicode:
        return ("#" * int(share * num_columns)).ljust(num_columns)
    num_full, num_eighths = divmod(int(share * num_columns * 8), 8)
    last = _EIGHTHS[num_eighths] if num_full < num_columns else ""
    return (_EIGHTHS[8] * num_full + last).ljust(num_columns)


@contextlib.contextmanager
def _stderr_replaced(stream: TextIO) -> Iterator[None]:
    """Makes a stream standard error, for Python's code and for absl's log."""
    handler = logging.get_absl_handler().python_handler
    own = sys.stderr
    is_logged_there = handler.stream is own
    try:
        with contextlib.redirect_stderr(stream):
            if is_logged_there:
                handler.stream = stream
            yield
    finally:
        if is_logged_there:
            handler.stream = own
