"""Bytes -> what is no file: standard output, a FIFO, a device, a remote object."""

import errno
import io
import sys
from collections.abc import Sequence
from typing import IO

from absl import logging

from bert_extract.files import RemoteWriter, is_remote
from bert_extract.output.append_file import Buffer, explaining

STDOUT = "-"
# Standard output and its like under the names that a shell gives them.
_OWN_DESCRIPTORS = {
    "-": 1,
    "/dev/stdout": 1,
    "/dev/stderr": 2,
    "/proc/self/fd/1": 1,
    "/proc/self/fd/2": 2,
    "/dev/fd/1": 1,
    "/dev/fd/2": 2,
}


def descriptor_of(output_file: str) -> int | None:
    """The descriptor that a name stands for; None if it is that of a file."""
    return _OWN_DESCRIPTORS.get(output_file)


def name_of(output_file: str) -> str:
    """The output as messages show it."""
    return "standard output" if output_file == STDOUT else output_file


class StreamWriter:
    """Writes straight through, and can keep nothing: a `Writer`."""

    num_records_kept = 0
    text_size_kept = 0
    is_complete = False
    num_copies = 1

    def __init__(self, output_file: str) -> None:
        """Opens it.

        Raises:
          OutputError: it cannot be opened.
        """
        self.num_bytes = 0
        self._name = name_of(output_file)
        with explaining(self._name):
            self._stream = _open(output_file)

    def write(
        self,
        buffers: Sequence[Buffer],
        num_records: int,
        is_whole: bool,
        text_size: int = 0,
    ) -> None:
        """See `Writer`."""
        for buffer in buffers:
            self.num_bytes += len(buffer)
            with explaining(self._name, self.num_bytes):
                view = memoryview(buffer)
                while view:
                    num_written = self._stream.write(view)
                    view = view[num_written or 0 :]

    def commit(self) -> None:
        """See `Writer`."""
        with explaining(self._name, self.num_bytes):
            self._stream.flush()

    def finish(self) -> None:
        """See `Writer`."""
        with explaining(self._name, self.num_bytes):
            self._stream.flush()
            self._stream.close()

    def suspend(self, keeps_last: bool = True) -> int:
        """See `Writer`; a remote object goes."""
        if isinstance(self._stream, RemoteWriter):
            with explaining(self._name):
                self._stream.discard()
            return 0
        try:
            self._stream.close()
        except OSError:
            # It failed before, and that is what the run ends with.
            logging.debug("%s: not closed", self._name)
        return 0


def _open(output_file: str) -> IO[bytes] | io.RawIOBase:
    """Opens it unbuffered: a failed write is known at once, and not when it ends."""
    if is_remote(output_file):
        return RemoteWriter(output_file)
    descriptor = descriptor_of(output_file)
    if descriptor is None:
        return open(output_file, "wb", buffering=0)
    if sys.stdout is None and descriptor == 1:
        # A shell's >&-; another file may have its number by now.
        raise OSError(errno.EBADF, "it is closed")
    return open(descriptor, "wb", buffering=0, closefd=False)
