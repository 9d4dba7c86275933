"""Bytes -> the end of a file, past the page cache; and what is said of a full disk."""

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator

from bert_extract.errors import OutputError

# One write to the disk, in bytes; a multiple of every file system's block size.
BUFFER_SIZE = 1 << 22
_BLOCK_SIZE = 4096

Buffer = bytes | bytearray | memoryview

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a disk says that is not there any more, or a network's.
_GONE = (errno.EIO, errno.ENOENT, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EROFS)


def crash_point(name: str) -> None:
    """Does nothing. Tests replace it in their process, to die exactly there."""


def write_durably(path: str, text: str) -> None:
    """Writes a small file, which is on the disk when this returns.

    Raises:
      OSError: it cannot be written.
    """
    with open(path, "w", encoding="utf-8") as writer:
        writer.write(text)
        writer.flush()
        os.fsync(writer.fileno())


def sync_folder(folder: str) -> None:
    """Makes the names in a folder durable, where the file system can do that.

    Raises:
      OSError: the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explaining(
    path: str, num_bytes: int | None = None, can_resume: bool = False
) -> Iterator[None]:
    """Turns what the system says of an output into an `OutputError`.

    Args:
      path: the output, for the message.
      num_bytes: how long the output is so far; a message of a disk that is full or
        gone says it.
      can_resume: whether that message may advise `--resume`.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read it has seen enough: no error
    except OSError as error:
        way_out = ""
        go_on = " and give the same command with --resume to go on" * can_resume
        if num_bytes is not None and error.errno in _NO_ROOM:
            way_out = (
                f". The output needed {num_bytes:,} bytes so far; make room{go_on}"
            )
        elif num_bytes is not None and error.errno in _GONE:
            way_out = (
                f". The output has {num_bytes:,} bytes so far; find out what became of "
                f"its disk{go_on}"
            )
        elif error.errno in _NO_ROOM:
            way_out = ". Make room on its disk, or write to another one"
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot write it: {reason}{way_out}") from error


class AppendFile:
    """Appends to a file through one aligned buffer.

    Large writes go past the page cache (O_DIRECT) where the file system can do that:
    copying 300 MB of JSON a second into the cache took 20 to 50 % of a core, writing
    it directly 2 %.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._buffer = memoryview(mmap.mmap(-1, BUFFER_SIZE))  # starts at a page
        # The buffer holds the file's bytes from `offset`, a multiple of a block.
        self._num_filled = size % _BLOCK_SIZE
        self._offset = size - self._num_filled
        tail = os.pread(descriptor, self._num_filled, self._offset)
        self._buffer[: len(tail)] = tail
        self._can_be_direct = hasattr(os, "O_DIRECT")

    def append(self, data: Buffer) -> None:
        """Takes all of the data; some of it may stay in the buffer."""
        view = memoryview(data)
        while view:
            taken = view[: BUFFER_SIZE - self._num_filled]
            self._buffer[self._num_filled : self._num_filled + len(taken)] = taken
            self._num_filled += len(taken)
            view = view[len(taken) :]
            if self._num_filled == BUFFER_SIZE:
                self._write_buffer()
                self._offset += BUFFER_SIZE
                self._num_filled = 0

    def flush(self) -> None:
        """Gives the rest of the buffer to the file."""
        if self._num_filled:
            self._write(self._buffer[: self._num_filled], self._offset)
        # What stands before the last block is done with.
        num_done = self._num_filled // _BLOCK_SIZE * _BLOCK_SIZE
        tail = bytes(self._buffer[num_done : self._num_filled])
        self._buffer[: len(tail)] = tail
        self._offset += num_done
        self._num_filled = len(tail)

    def _write_buffer(self) -> None:
        num_written = 0
        if self._can_be_direct:
            num_written = self._write_directly()
        self._write(self._buffer[num_written:], self._offset + num_written)

    def _write_directly(self) -> int:
        """Writes the full buffer past the cache; returns how much that wrote."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
            crash_point("write")
            return os.pwrite(self._descriptor, self._buffer, self._offset)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self._can_be_direct = False  # this file system cannot
            return 0
        finally:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags)

    def _write(self, view: memoryview, offset: int) -> None:
        while view:
            crash_point("write")
            num_written = os.pwrite(self._descriptor, view, offset)
            view = view[num_written:]
            offset += num_written
