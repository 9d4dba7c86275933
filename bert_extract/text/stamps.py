"""Input files -> size and time: whether what is read is what the run began with."""

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import IO, Any

from bert_extract.errors import InputError
from bert_extract.files import FileStatus, is_remote, sha256_of, status_of, to_status
from bert_extract.text.examples import STDIN, name_of, reading

_SECOND = 10**9  # in nanoseconds


class InputWatch:
    """The inputs as they are when the run begins, and whether they stay like that.

    Reading tells it of each file; what is written can then be trusted as long as
    `check` does not raise. Pipes are not watched; standard input is, where a shell has
    made it of a file.
    """

    def __init__(self, input_files: Sequence[str]) -> None:
        """Takes the files' stamps.

        Raises:
          InputError: one of them cannot be read.
        """
        self._stamps = {
            path: _stamp(path)
            for path in input_files
            if path != STDIN or sys.stdin is not None  # it is closed, as reading says
        }
        self._input_files = input_files
        # Those of which lines may be underway. Filled by the thread that reads.
        self._begun: dict[str, None] = {}

    def fingerprint(self) -> list[list[Any]]:
        """What tells whether each input is still the same, by run files."""
        return [self._fingerprint_of(path) for path in self._input_files]

    def _fingerprint_of(self, path: str) -> list[Any]:
        if path == STDIN:
            return [path]
        stamp = self._stamps[path]
        name = path if is_remote(path) else os.path.abspath(path)
        return [name, stamp.size, stamp.mtime_ns]

    def size_of(self, path: str) -> int:
        """A file's bytes on the disk, or far away, as they were at first."""
        return self._stamps[path].size

    def checksums(self) -> list[str | None]:
        """The SHA-256 of each input as it lies there; None of a pipe, and far away.

        Raises:
          InputError: one of them cannot be read, or has changed.
        """
        found: dict[str, str] = {}
        for path in filter(self._is_watched, self._stamps):
            if path != STDIN and not is_remote(path):
                with reading(path):
                    found[path] = sha256_of(path)
                self._check(path)
        return [found.get(path) for path in self._input_files]

    def begin(self, path: str, opened: IO[bytes]) -> None:
        """Compares a file that was just opened.

        Raises:
          InputError: it is another one than it was, or cannot be looked at.
        """
        if not self._is_watched(path):
            return
        self._begun[path] = None
        if is_remote(path):
            self._compare(path, _stamp(path))
        else:
            # What is open, not what has that name by now.
            with reading(path):
                self._compare(path, to_status(os.fstat(opened.fileno())))

    def end(self, path: str) -> None:
        """Compares a file of which all was read that will be.

        Raises:
          InputError: it is another one than it was, or cannot be looked at.
        """
        if self._is_watched(path):
            self._check(path)
            # Else it stays, so that `check` finds it too.
            self._begun.pop(path, None)

    def check(self) -> None:
        """Compares the files of which lines were read since they were last compared.

        Raises:
          InputError: one is another than it was, or cannot be looked at.
        """
        for path in list(self._begun):
            self._check(path)

    def check_all(self) -> None:
        """Compares all files.

        Raises:
          InputError: one is another than it was, or cannot be looked at.
        """
        for path in filter(self._is_watched, self._stamps):
            self._check(path)

    def is_sound(self) -> bool:
        """Whether all that was read so far is known to be what it was.

        Asked by a run that has to end at once: no network is waited for.
        """
        try:
            if any(map(is_remote, list(self._begun))):
                return False
            self.check()
        except InputError:
            return False
        return True

    def _is_watched(self, path: str) -> bool:
        stamp = self._stamps.get(path)
        return stamp is not None and stamp.is_regular

    def _check(self, path: str) -> None:
        is_local = path != STDIN and not is_remote(path)
        if is_local and not os.path.lexists(path):
            return  # who removes a file that is read does not change what is read
        self._compare(path, _stamp(path))

    def _compare(self, path: str, now: FileStatus) -> None:
        was = self._stamps[path]
        if now != was:
            raise InputError(
                f"{name_of(path)}: changed while it was read: had {_shown(was)}; has "
                f"{_shown(now)}. Run again without --resume when nobody writes to it "
                "any more, or read a copy"
            )


def _stamp(path: str) -> FileStatus:
    with reading(path):
        return to_status(os.fstat(0)) if path == STDIN else status_of(path)


def _shown(stamp: FileStatus) -> str:
    # Some remote file systems know no times.
    date = f", last modified {_date(stamp.mtime_ns)}" if stamp.mtime_ns else ""
    return f"{stamp.size:,} bytes{date}"


def _date(mtime_ns: int) -> str:
    """A time as people write it: 2026-11-25 03:12:29.123456."""
    try:
        date = datetime.fromtimestamp(mtime_ns // _SECOND)
    except (ValueError, OverflowError, OSError):  # some disks hold nonsense
        return f"{mtime_ns} ns after 1970"
    return f"{date}.{mtime_ns % _SECOND:09d}"
