"""A terminal with a person before it: the command on a pty, and what is seen."""

import codecs
import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from support.running import TIMEOUT

# Makes standard error the terminal of the process, so that ^C reaches it.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'bert_extract', *sys.argv[1:]])"
)


class Screen:
    r"""What a terminal shows: characters, "\r", "\n", and lines that are full."""

    def __init__(self, num_columns: int) -> None:
        self._num_columns = num_columns
        self._rows: list[list[str]] = [[]]
        self._column = 0
        self._first_row = 0  # of what was written since the last "\n"
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    @property
    def lines(self) -> list[str]:
        """All of it, what was scrolled away too."""
        return ["".join(row).rstrip() for row in self._rows]

    @property
    def last_line(self) -> str:
        """What was written since the last "\\n", in however many rows it stands."""
        return "".join(self.lines[self._first_row :])

    def write(self, output: bytes) -> None:
        """Shows what a process wrote."""
        for character in self._decoder.decode(output):
            if character == "\r":
                self._column = 0
            elif character == "\n":
                self._first_row = len(self._rows)
                self._rows.append([])
            else:
                assert character.isprintable(), f"not modelled: {character!r}"
                self._put(character)

    def _put(self, character: str) -> None:
        if self._column == self._num_columns:
            self._rows.append([])
            self._column = 0
        row = self._rows[-1]
        row.extend(" " * (self._column + 1 - len(row)))
        row[self._column] = character
        self._column += 1


@dataclass
class Session:
    """What a person saw of a command."""

    exit_code: int
    lines: list[str]  # that were left when it had ended
    # Each state of the last line that was seen, and when, in seconds.
    bars: list[tuple[float, str]] = field(default_factory=list)


def watch_command(
    flags: Sequence[str],
    num_columns: int,
    press_when: Callable[[str], bool] | None = None,
    **settings: Any,
) -> Session:
    """Runs the command in a terminal to its end.

    Args:
      flags: of the command.
      num_columns: the terminal's width.
      press_when: ^C is pressed when the last line is such, and once.
      **settings: of the process.
    """
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(
            slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, num_columns, 0, 0)
        )
        process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=slave,
            start_new_session=True,
            **settings,
        )
    finally:
        os.close(slave)
    screen, start = Screen(num_columns), time.monotonic()
    bars: list[tuple[float, str]] = []
    try:
        while output := _read(master, start + TIMEOUT):
            screen.write(output)
            line = screen.last_line
            if line and (not bars or line != bars[-1][1]):
                bars.append((time.monotonic() - start, line))
            if press_when is not None and press_when(line):
                os.write(master, b"\x03")
                press_when = None
        return Session(process.wait(TIMEOUT), screen.lines, bars)
    finally:
        os.close(master)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()


def _read(master: int, deadline: float) -> bytes:
    """What the process wrote next; nothing when it has ended."""
    ready, _, _ = select.select([master], [], [], max(0.0, deadline - time.monotonic()))
    assert ready, "the command hangs"
    try:
        return os.read(master, 1 << 16)
    except OSError:  # as Linux says it
        return b""
