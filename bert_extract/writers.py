"""Encoded records -> the output, whatever it is.

A regular file goes through `partial`; everything else (standard output, a FIFO, a
device, a remote object) is written straight through.
"""

import errno
import io
import os
import stat
import sys
import zlib
from collections.abc import Sequence
from typing import IO, Any, Protocol

from absl import logging

from bert_extract.appending import Buffer, explaining
from bert_extract.errors import OptionsError, OutputError
from bert_extract.examples import is_remote
from bert_extract.partial import Fingerprint, PartialWriter, complete_run
from bert_extract.records import JsonFormatter, Record

STDOUT = "-"
# zlib's fastest: six decimals of a float hardly compress, and level 6 takes four
# times as long for 4 % less. A change of it changes the bytes of every output.
_GZIP_LEVEL = 1
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


class Encoder(Protocol):
    """Turns a group of consecutive records and parts of them into bytes."""

    def __call__(self, parts: Sequence[Record]) -> list[Buffer]:
        """Encodes a group; called from several threads at once."""
        ...


def encoder_for(output_file: str, formatter: JsonFormatter) -> Encoder:
    """The encoder for an output of this name: by its suffix, JSONL by default."""

    def to_jsonl(parts: Sequence[Record]) -> list[Buffer]:
        return [formatter.format(part) for part in parts]

    def to_gzip(parts: Sequence[Record]) -> list[Buffer]:
        # A member of its own for each group: cuts depend on nothing but the records.
        # zlib's own gzip header has no time and no name.
        compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
        pieces = [compressor.compress(formatter.format(part)) for part in parts]
        pieces.append(compressor.flush())
        return [b"".join(pieces)]

    return to_gzip if output_file.endswith(".gz") else to_jsonl


class Writer(Protocol):
    """Where encoded records go. Exactly one of finish and suspend ends it."""

    num_records_kept: int  # records of an earlier run that need not come again
    num_bytes: int  # bytes of the output so far, kept ones included
    is_complete: bool  # nothing has to be done: the output is there already

    def write(
        self, buffers: Sequence[Buffer], num_records: int, is_whole: bool
    ) -> None:
        """Appends a group.

        Args:
          buffers: what the encoder made of it.
          num_records: how many records end in it.
          is_whole: whether its last part ends a record.
        """
        ...

    def commit(self) -> None:
        """Makes what was written durable."""
        ...

    def finish(self) -> None:
        """Makes the output appear."""
        ...

    def suspend(self) -> int:
        """Ends an unfinished run; what can be gone on with stays.

        Returns:
          How many records that is; 0 where nothing can be gone on with.
        """
        ...


def open_writer(output_file: str, fingerprint: Fingerprint, resume: bool) -> Writer:
    """Opens an output.

    Args:
      output_file: a path, or "-" for standard output.
      fingerprint: everything that the bytes of the output depend on.
      resume: whether to go on after what an earlier run left.

    Raises:
      OptionsError: resume, and this kind of output cannot be gone on with.
      OutputError: the output cannot be created, another run writes it, or what an
        earlier run left does not match.
    """
    if is_remote(output_file):
        _refuse_resume(resume, output_file, "a remote object cannot be gone on with")
        with explaining(output_file):
            return _StreamWriter(_GFileWriter(output_file), output_file)
    if output_file in _OWN_DESCRIPTORS:
        _refuse_resume(resume, output_file, "it is a stream")
        with explaining(name_of(output_file)):
            return _StreamWriter(_own_stream(output_file), output_file)
    path = os.path.realpath(output_file)
    if os.path.isdir(path):
        raise OutputError(f"{output_file}: expected a file to write; found a folder")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise OutputError(
            f"{output_file}: the folder {folder} is not there; make it first"
        )
    if os.path.exists(path) and not os.path.isfile(path):
        _refuse_resume(resume, output_file, "it is not a regular file")
        with explaining(output_file):
            return _StreamWriter(open(path, "wb", buffering=0), output_file)
    return PartialWriter(path, fingerprint, resume)


def _own_stream(output_file: str) -> IO[bytes]:
    if sys.stdout is None and _OWN_DESCRIPTORS[output_file] == 1:
        # A shell's >&-; another file may have its number by now.
        raise OSError(errno.EBADF, "it is closed")
    # Unbuffered: a failed write is known at once, and not again when it is closed.
    return open(_OWN_DESCRIPTORS[output_file], "wb", buffering=0, closefd=False)


def name_of(output_file: str) -> str:
    """The output as messages show it."""
    return "standard output" if output_file == STDOUT else output_file


def _refuse_resume(resume: bool, output_file: str, reason: str) -> None:
    if resume:
        raise OptionsError(
            f"--resume: {output_file}: {reason}; run without it, or write to a file"
        )


class _GFileWriter(io.RawIOBase):
    """A remote object; it appears when it is closed."""

    def __init__(self, path: str) -> None:
        import tensorflow as tf  # only remote paths need it

        self._tf = tf
        self._path = path
        self._file = tf.io.gfile.GFile(path, "wb")
        self._call(self._file.write, b"")  # opens it: fails now if it cannot

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        self._call(self._file.write, bytes(block))
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._call(self._file.close)
        super().close()

    def discard(self) -> None:
        """Closes the object and removes it: half an output must not look done."""
        self.close()
        self._call(self._tf.io.gfile.remove, self._path)

    def _call(self, function: Any, *args: Any) -> None:
        try:
            function(*args)
        except self._tf.errors.OpError as error:
            raise OSError(None, error.message, self._path) from error


class _StreamWriter:
    """Writes straight through, and can keep nothing."""

    num_records_kept = 0
    is_complete = False

    def __init__(self, stream: IO[bytes] | io.RawIOBase, name: str) -> None:
        self.num_bytes = 0
        self._stream = stream
        self._name = name_of(name)

    def write(
        self, buffers: Sequence[Buffer], num_records: int, is_whole: bool
    ) -> None:
        for buffer in buffers:
            self.num_bytes += len(buffer)
            with explaining(self._name, self.num_bytes):
                view = memoryview(buffer)
                while view:
                    num_written = self._stream.write(view)
                    view = view[num_written or 0 :]

    def commit(self) -> None:
        with explaining(self._name, self.num_bytes):
            self._stream.flush()

    def finish(self) -> None:
        with explaining(self._name, self.num_bytes):
            self._stream.flush()
            self._stream.close()

    def suspend(self) -> int:
        if isinstance(self._stream, _GFileWriter):
            with explaining(self._name):
                self._stream.discard()
            return 0
        try:
            self._stream.close()
        except OSError:
            # It failed before, and that is what the run ends with.
            logging.debug("%s: not closed", self._name)
        return 0


def find_complete(output_file: str, fingerprint: Fingerprint) -> tuple[int, int] | None:
    """Finds an output that is there already, without opening anything for writing.

    Returns:
      Its records and bytes; None if something has to be done, or to be said, which
      `open_writer` does.
    """
    if is_remote(output_file) or output_file in _OWN_DESCRIPTORS:
        return None
    return complete_run(os.path.realpath(output_file), fingerprint)


def free_bytes(output_file: str) -> int | None:
    """The room that is left for an output; None where nobody knows."""
    if is_remote(output_file) or output_file in _OWN_DESCRIPTORS:
        return None
    path = os.path.realpath(output_file)
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        return None
    status = os.statvfs(os.path.dirname(path))
    return status.f_bavail * status.f_frsize


def peak_memory_bytes() -> int:
    """The most memory that this process has had in use."""
    import resource  # not on Windows, where nothing here runs anyway

    kilobytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes_or_bytes * (1 if sys.platform == "darwin" else 1024)
