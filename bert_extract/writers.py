"""Encoded records -> a file that appears whole, or can be gone on with.

A regular output is written to OUTPUT.partial beside it, with OUTPUT.partial.run.json
for what the run is and how much of it is durable. When it is complete both are
renamed, to OUTPUT and OUTPUT.run.json. Everything else (standard output, a FIFO, a
device, a remote object) is written straight through.
"""

import contextlib
import errno
import fcntl
import io
import json
import mmap
import os
import socket
import stat
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, Protocol

from absl import logging

from bert_extract.errors import OptionsError, OutputError
from bert_extract.examples import is_remote
from bert_extract.records import JsonFormatter, Record

STDOUT = "-"
# zlib's fastest: six decimals of a float hardly compress, and level 6 takes four
# times as long for 4 % less. A change of it changes the bytes of every output.
_GZIP_LEVEL = 1
# One write to the disk, in bytes; a multiple of every file system's block size.
_BUFFER_SIZE = 1 << 22
_BLOCK_SIZE = 4096
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

Buffer = bytes | bytearray | memoryview
Fingerprint = Mapping[str, Any]


def crash_point(name: str) -> None:
    """Does nothing. Tests replace it in their process, to die exactly there."""


class Encoder(Protocol):
    """Turns a group of consecutive records into bytes of the output."""

    def __call__(self, records: Sequence[Record]) -> list[Buffer]:
        """Encodes whole records; called from several threads at once."""
        ...


def encoder_for(output_file: str, formatter: JsonFormatter) -> Encoder:
    """The encoder for an output of this name: by its suffix, JSONL by default."""

    def to_jsonl(records: Sequence[Record]) -> list[Buffer]:
        return [formatter.format(record) for record in records]

    def to_gzip(records: Sequence[Record]) -> list[Buffer]:
        # A member of its own for each group: cuts depend on nothing but the records.
        # zlib's own gzip header has no time and no name.
        compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
        pieces = [compressor.compress(formatter.format(record)) for record in records]
        pieces.append(compressor.flush())
        return [b"".join(pieces)]

    return to_gzip if output_file.endswith(".gz") else to_jsonl


class Writer(Protocol):
    """Where encoded records go. Exactly one of finish and suspend ends it."""

    num_records_kept: int  # records of an earlier run that need not come again
    num_bytes: int  # bytes of the output so far, kept ones included
    is_complete: bool  # nothing has to be done: the output is there already

    def write(self, buffers: Sequence[Buffer], num_records: int) -> None:
        """Appends whole records."""
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
        with _explaining(output_file):
            return _StreamWriter(_GFileWriter(output_file), output_file)
    if output_file in _OWN_DESCRIPTORS:
        _refuse_resume(resume, output_file, "it is a stream")
        with _explaining(name_of(output_file)):
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
        with _explaining(output_file):
            return _StreamWriter(open(path, "wb", buffering=0), output_file)
    return _PartialWriter(path, fingerprint, resume)


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


@contextlib.contextmanager
def _explaining(
    path: str, num_bytes: int | None = None, can_resume: bool = False
) -> Iterator[None]:
    """Turns what the system says of an output into an `OutputError`."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read it has seen enough: no error
    except OSError as error:
        way_out = ""
        go_on = " and give the same command with --resume to go on" * can_resume
        if num_bytes is not None and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
        ):
            way_out = (
                f". The output needed {num_bytes:,} bytes so far; make room{go_on}"
            )
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot write it: {reason}{way_out}") from error


# --------------------------------------------------------------- straight through


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

    def write(self, buffers: Sequence[Buffer], num_records: int) -> None:
        for buffer in buffers:
            self.num_bytes += len(buffer)
            with _explaining(self._name, self.num_bytes):
                view = memoryview(buffer)
                while view:
                    num_written = self._stream.write(view)
                    view = view[num_written or 0 :]

    def commit(self) -> None:
        with _explaining(self._name, self.num_bytes):
            self._stream.flush()

    def finish(self) -> None:
        with _explaining(self._name, self.num_bytes):
            self._stream.flush()
            self._stream.close()

    def suspend(self) -> int:
        if isinstance(self._stream, _GFileWriter):
            with _explaining(self._name):
                self._stream.discard()
            return 0
        try:
            self._stream.close()
        except OSError:
            # It failed before, and that is what the run ends with.
            logging.debug("%s: not closed", self._name)
        return 0


# ------------------------------------------------------- a file that appears whole


@dataclass(frozen=True)
class _RunFile:
    """What stands beside an output: how it came to be, how much of it is durable."""

    fingerprint: dict[str, Any]
    num_records: int  # durable ones
    num_bytes: int  # the output's bytes that hold them
    is_complete: bool
    process_id: int
    host: str


class _PartialWriter:
    """Writes OUTPUT.partial and renames it when it is complete."""

    def __init__(self, path: str, fingerprint: Fingerprint, resume: bool) -> None:
        self.num_records_kept = 0
        self.num_bytes = 0
        self.is_complete = False
        self._path = path
        self._partial = path + ".partial"
        self._partial_run_file = self._partial + ".run.json"
        self._run_file = path + ".run.json"
        self._fingerprint = _as_read_back(fingerprint)
        self._num_records = 0
        self._num_durable = 0  # records
        # False while a call of write, commit or finish has not returned: if it was
        # interrupted, the buffer may hold anything.
        self._is_at_rest = True
        self._descriptor = -1
        self._file: _AppendFile | None = None
        with _explaining(self._partial):
            self._lock()
        try:
            with _explaining(self._partial, can_resume=True):
                if resume:
                    self._keep()
                else:
                    self._discard_leftover()
                if not self.is_complete:
                    self._start()
        except BaseException:
            self._abandon()
            raise

    # -- opening

    def _lock(self) -> None:
        """Opens the partial file and holds a lock on it that dies with the process."""
        while True:
            descriptor = os.open(
                self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
            try:
                _flock(descriptor, fcntl.LOCK_EX, self._partial)
            except BlockingIOError:
                os.close(descriptor)
                raise self._locked_error() from None
            # The run that held the lock may have renamed the file meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self._partial)):
                    self._descriptor = descriptor
                    break
            os.close(descriptor)
        if self._is_being_finished():
            # Only our own empty file goes: what tells of the run is the other one's.
            os.unlink(self._partial)
            os.close(self._descriptor)
            raise self._locked_error()

    def _is_being_finished(self) -> bool:
        """Whether a run has renamed its file to OUTPUT, but not yet all of it."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False  # there is none, most likely
        try:
            _flock(descriptor, fcntl.LOCK_SH, self._path)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _locked_error(self) -> OutputError:
        other = _read_run_file(self._partial_run_file)
        who = f"process {other.process_id} on {other.host}" if other else "another run"
        return OutputError(
            f"{self._path}: {who} is writing this output right now; wait for it, or "
            "write to another file"
        )

    def _keep(self) -> None:
        """Finds out what an earlier run left, and goes on after it."""
        left = _read_run_file(self._partial_run_file)
        size = os.fstat(self._descriptor).st_size
        if size == 0:
            self._keep_nothing(left)
            return
        if left is None:
            raise OutputError(
                f"{self._partial}: --resume cannot tell which run wrote it: "
                f"{self._partial_run_file} is missing or broken. Remove the partial "
                "file, or run without --resume to start over"
            )
        _check_fingerprint(left, self._fingerprint, self._partial)
        self.num_bytes, self.num_records_kept = self._whole_records(left)
        os.ftruncate(self._descriptor, self.num_bytes)

    def _keep_nothing(self, left: _RunFile | None) -> None:
        """No record is left, but the output may be there already."""
        if self._was_renamed(left):
            # It died between the two renames.
            os.replace(self._partial_run_file, self._run_file)
        elif left is not None and left.fingerprint == self._fingerprint:
            return  # this very run was about to replace whatever output there is
        done = _complete_run(self._path, self._run_file, self._fingerprint)
        if done is not None:
            self.num_records_kept, self.num_bytes = done.num_records, done.num_bytes
            self.is_complete = True
            self._abandon()

    def _whole_records(self, left: _RunFile | None) -> tuple[int, int]:
        """The bytes of the partial file that are whole records, and how many."""
        size = os.fstat(self._descriptor).st_size
        start = num_records = 0
        # If not even that is there, the disk lost what it had confirmed.
        if left is not None and left.num_bytes <= size:
            start, num_records = left.num_bytes, left.num_records
        scan = _scan_members if self._path.endswith(".gz") else _scan_lines
        end, num_found = scan(self._descriptor, start)
        return end, num_records + num_found

    def _was_renamed(self, left: _RunFile | None) -> bool:
        return (
            left is not None
            and left.is_complete
            and os.path.isfile(self._path)
            and os.path.getsize(self._path) == left.num_bytes
        )

    def _discard_leftover(self) -> None:
        if os.fstat(self._descriptor).st_size:
            left = _read_run_file(self._partial_run_file)
            _, num_records = self._whole_records(left)
            logging.warning(
                "%s: discarding what a run left that was stopped, %s lines; with "
                "--resume it would have gone on after them",
                self._partial,
                f"{num_records:,}",
            )
        os.ftruncate(self._descriptor, 0)

    def _start(self) -> None:
        self._num_records = self.num_records_kept
        self._write_run_file(is_complete=False)
        self._file = _AppendFile(self._descriptor, self.num_bytes)

    # -- writing

    def write(self, buffers: Sequence[Buffer], num_records: int) -> None:
        assert self._file is not None
        self._is_at_rest = False
        num_bytes = sum(len(buffer) for buffer in buffers)
        with _explaining(self._partial, self.num_bytes + num_bytes, can_resume=True):
            for buffer in buffers:
                self._file.append(buffer)
        self.num_bytes += num_bytes
        self._num_records += num_records
        self._is_at_rest = True

    def commit(self) -> None:
        assert self._file is not None
        self._is_at_rest = False
        with _explaining(self._partial, self.num_bytes, can_resume=True):
            self._make_durable(is_complete=False)
        self._is_at_rest = True

    def finish(self) -> None:
        assert self._file is not None
        self._is_at_rest = False
        with _explaining(self._path, self.num_bytes, can_resume=True):
            self._make_durable(is_complete=True)
            crash_point("rename")
            os.replace(self._partial, self._path)
            crash_point("rename")
            os.replace(self._partial_run_file, self._run_file)
            _sync_folder(self._path)
            os.close(self._descriptor)

    def _make_durable(self, is_complete: bool) -> None:
        assert self._file is not None
        self._file.flush()
        crash_point("flush")
        os.fsync(self._descriptor)
        self._write_run_file(is_complete)

    def suspend(self) -> int:
        # After a call that failed or was interrupted, what was durable before it is
        # left as it is; the next run finds the whole records behind it.
        if self._is_at_rest:
            try:
                self.commit()
            except OutputError as error:
                logging.debug("%s", error)
        num_records = self._num_durable
        left = _read_run_file(self._partial_run_file)
        if left is not None:
            with contextlib.suppress(OSError):
                _, num_records = self._whole_records(left)
        self._abandon()
        return num_records

    def _abandon(self) -> None:
        """Lets go of the lock, and of the partial file if it holds nothing."""
        with contextlib.suppress(OSError):
            status = os.fstat(self._descriptor)
            is_ours = os.path.samestat(status, os.stat(self._partial))
            if is_ours and status.st_size == 0:
                os.unlink(self._partial)
                os.unlink(self._partial_run_file)
        os.close(self._descriptor)

    def _write_run_file(self, is_complete: bool) -> None:
        run_file = _RunFile(
            self._fingerprint,
            self._num_records,
            self.num_bytes,
            is_complete,
            os.getpid(),
            socket.gethostname(),
        )
        text = json.dumps(asdict(run_file), indent=1) + "\n"
        temporary = self._partial_run_file + ".tmp"
        try:
            with open(temporary, "w", encoding="utf-8") as writer:
                writer.write(text)
                writer.flush()
                os.fsync(writer.fileno())
            os.replace(temporary, self._partial_run_file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._num_durable = self._num_records


def find_complete(output_file: str, fingerprint: Fingerprint) -> tuple[int, int] | None:
    """Finds an output that is there already, without opening anything for writing.

    Returns:
      Its records and bytes; None if something has to be done, or to be said, which
      `open_writer` does.
    """
    if is_remote(output_file) or output_file in _OWN_DESCRIPTORS:
        return None
    path = os.path.realpath(output_file)
    if not os.path.isfile(path) or os.path.exists(path + ".partial.run.json"):
        return None
    try:
        done = _complete_run(path, path + ".run.json", _as_read_back(fingerprint))
    except OutputError:
        return None
    return None if done is None else (done.num_records, done.num_bytes)


def _complete_run(
    path: str, run_file: str, fingerprint: dict[str, Any]
) -> _RunFile | None:
    """What made the output that is there; None if there is none.

    Raises:
      OutputError: nobody knows how it was made, or it was made in another way.
    """
    if not os.path.exists(path):
        return None
    done = _read_run_file(run_file)
    if done is None or not done.is_complete:
        raise OutputError(
            f"{path}: --resume cannot tell how it was made: {run_file} is missing or "
            "broken. Remove the output, or run without --resume to replace it"
        )
    _check_fingerprint(done, fingerprint, path)
    size = os.path.getsize(path)
    if size != done.num_bytes:
        raise OutputError(
            f"{path}: has {size:,} bytes and had {done.num_bytes:,} when it was "
            f"complete, as {run_file} says. Remove it, or run without --resume to "
            "replace it"
        )
    return done


def _check_fingerprint(found: _RunFile, fingerprint: dict[str, Any], path: str) -> None:
    differences = []
    for key in sorted({*found.fingerprint, *fingerprint}):
        was, now = found.fingerprint.get(key), fingerprint.get(key)
        if was != now:
            differences.append(f"  {key}: was {was!r}, is now {now!r}")
    if differences:
        raise OutputError(
            f"{path}: --resume cannot go on, it was made by a different run:\n"
            + "\n".join(differences)
            + "\nGive the command that made it, remove it, or run without --resume to "
            "start over"
        )


def _as_read_back(fingerprint: Fingerprint) -> dict[str, Any]:
    """The fingerprint as JSON gives it back: with lists for tuples."""
    read_back: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
    return read_back


def _flock(descriptor: int, operation: int, path: str) -> None:
    """Takes a lock at once, or raises BlockingIOError."""
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        # Some network file systems are mounted without locks.
        logging.warning(
            "%s: cannot lock it (%s): nothing keeps a second run from writing it too",
            path,
            error.strerror,
        )


def _read_run_file(path: str) -> _RunFile | None:
    """Reads what stands beside an output; None if it is missing or broken."""
    try:
        with open(path, encoding="utf-8") as reader:
            return _RunFile(**json.load(reader))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        logging.debug("%s: %s", path, error)
        return None


def _sync_folder(path: str) -> None:
    """Makes a rename durable."""
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)


# Records may be cut anywhere when a process dies, and after a power failure the blocks
# behind the last durable one may hold anything.


def _scan_lines(descriptor: int, start: int) -> tuple[int, int]:
    """Finds where the last whole line ends, and how many there are from `start` on."""
    end, num_lines, rest = start, 0, b""
    while True:
        block = os.pread(descriptor, _BUFFER_SIZE, end + len(rest))
        rest += block
        whole = rest.rfind(b"\n") + 1
        hole = rest.find(b"\0", 0, whole)  # JSON has no NUL
        if hole >= 0:
            whole = rest.rfind(b"\n", 0, hole) + 1
        num_lines += rest.count(b"\n", 0, whole)
        end += whole
        rest = rest[whole:]
        if hole >= 0 or not block:
            return end, num_lines


def _scan_members(descriptor: int, start: int) -> tuple[int, int]:
    """The same for gzip: the last whole member, and the lines that they hold."""
    end = position = start
    num_lines = num_lines_in_member = 0
    decompressor = zlib.decompressobj(31)
    rest = b""
    while block := rest or os.pread(descriptor, _BUFFER_SIZE, position):
        if not rest:
            position += len(block)
        try:
            num_lines_in_member += decompressor.decompress(block).count(b"\n")
        except zlib.error:
            break
        rest = b""
        if decompressor.eof:
            rest = decompressor.unused_data
            end = position - len(rest)
            num_lines += num_lines_in_member
            decompressor, num_lines_in_member = zlib.decompressobj(31), 0
    return end, num_lines


class _AppendFile:
    """Appends to a file through one aligned buffer.

    Large writes go past the page cache (O_DIRECT) where the file system can do that:
    copying 300 MB of JSON a second into the cache took 20 to 50 % of a core, writing
    it directly 2 %.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._buffer = memoryview(mmap.mmap(-1, _BUFFER_SIZE))  # starts at a page
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
            taken = view[: _BUFFER_SIZE - self._num_filled]
            self._buffer[self._num_filled : self._num_filled + len(taken)] = taken
            self._num_filled += len(taken)
            view = view[len(taken) :]
            if self._num_filled == _BUFFER_SIZE:
                self._write_buffer()
                self._offset += _BUFFER_SIZE
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
