"""A file that appears whole, or can be gone on with.

An output is written to OUTPUT.partial beside it, with OUTPUT.partial.run.json for what
the run is and how much of it is durable. When it is complete both are renamed, to
OUTPUT and OUTPUT.run.json. What cannot be appended to is made from OUTPUT.partial at
the end, as OUTPUT.partial.whole, which is then renamed to OUTPUT.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from absl import logging

from bert_extract import appending
from bert_extract.appending import AppendFile, Buffer, explaining
from bert_extract.errors import OutputError
from bert_extract.fingerprints import differences

Fingerprint = Mapping[str, Any]


@dataclass(frozen=True)
class PartialForm:
    """What stands in a partial file, and what becomes of it."""

    # (descriptor, start) -> the byte behind the last whole record, and how many
    # records there are from `start`, where one begins, up to there. Behind it there
    # may be anything: records are cut when a process dies, and after a power failure
    # the blocks behind the last durable one may hold whatever was there before.
    scan: Callable[[int, int], tuple[int, int]]
    # (partial file, new file): writes the output; None where the partial file is it.
    convert: Callable[[str, str], None] | None = None
    max_records: int | None = None
    too_many: str = ""  # what to say of more


@dataclass(frozen=True)
class _RunFile:
    """What stands beside an output: how it came to be, how much of it is durable."""

    fingerprint: dict[str, Any]
    num_records: int  # durable ones, up to the end of a group that ends with a record
    num_bytes: int  # the output's bytes that hold them
    is_complete: bool
    process_id: int
    host: str


class PartialWriter:
    """Writes OUTPUT.partial and renames it when it is complete."""

    def __init__(
        self, path: str, form: PartialForm, fingerprint: Fingerprint, resume: bool
    ) -> None:
        self.num_records_kept = 0
        self.num_bytes = 0
        self.is_complete = False
        self.num_copies = 1 if form.convert is None else 2
        self._path = path
        self._form = form
        self._partial = path + ".partial"
        self._converted = self._partial + ".whole"
        self._partial_run_file = self._partial + ".run.json"
        self._run_file = path + ".run.json"
        self._fingerprint = _as_read_back(fingerprint)
        # What can be gone on with: up to the last group that ended with a record.
        self._num_whole_records = 0
        self._num_whole_bytes = 0
        self._num_records = 0
        self._num_durable = 0  # records
        # False while a call of write, commit or finish has not returned: if it was
        # interrupted, the buffer may hold anything.
        self._is_at_rest = True
        self._descriptor = -1
        self._file: AppendFile | None = None
        with explaining(self._partial):
            self._lock()
        try:
            with explaining(self._partial, can_resume=True):
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
        # If not even that is there, the disk lost what it had confirmed; and once an
        # output was made of the partial file, its bytes are what is confirmed.
        is_converted = self._form.convert is not None and left and left.is_complete
        if left is not None and left.num_bytes <= size and not is_converted:
            start, num_records = left.num_bytes, left.num_records
        end, num_found = self._form.scan(self._descriptor, start)
        return end, num_records + num_found

    def _was_renamed(self, left: _RunFile | None) -> bool:
        return (
            left is not None
            and left.is_complete
            and os.path.isfile(self._path)
            and os.path.getsize(self._path) == left.num_bytes
            and not os.path.exists(self._converted)
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
        self._num_records = self._num_whole_records = self.num_records_kept
        self._num_whole_bytes = self.num_bytes
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._converted)  # of a run that was killed there
        self._write_run_file(self.num_bytes, is_complete=False)
        self._file = AppendFile(self._descriptor, self.num_bytes)

    # -- writing

    def write(
        self, buffers: Sequence[Buffer], num_records: int, is_whole: bool
    ) -> None:
        """Appends a group in which so many records end; it may end within one."""
        assert self._file is not None
        most = self._form.max_records
        if most is not None and self._num_records + num_records > most:
            raise OutputError(f"{self._path}: {self._form.too_many}")
        self._is_at_rest = False
        num_bytes = sum(len(buffer) for buffer in buffers)
        with explaining(self._partial, self.num_bytes + num_bytes, can_resume=True):
            for buffer in buffers:
                self._file.append(buffer)
        self.num_bytes += num_bytes
        self._num_records += num_records
        if is_whole:
            self._num_whole_records = self._num_records
            self._num_whole_bytes = self.num_bytes
        self._is_at_rest = True

    def commit(self) -> None:
        """Makes what was written durable."""
        self._is_at_rest = False
        with explaining(self._partial, self.num_bytes, can_resume=True):
            self._make_durable()
            self._write_run_file(self._num_whole_bytes, is_complete=False)
        self._is_at_rest = True

    def finish(self) -> None:
        """Puts the output in its place."""
        if self._form.convert is not None:
            self.commit()
            self._finish_converted(self._form.convert)
            return
        self._is_at_rest = False
        with explaining(self._path, self.num_bytes, can_resume=True):
            self._make_durable()
            self._write_run_file(self.num_bytes, is_complete=True)
            appending.crash_point("rename")
            os.replace(self._partial, self._path)
            self._finish_run_file()
            os.close(self._descriptor)

    def _make_durable(self) -> None:
        assert self._file is not None
        self._file.flush()
        appending.crash_point("flush")
        os.fsync(self._descriptor)
        # A file system that was unmounted takes writes as before, for hours, and there
        # is no place any more where the output could appear.
        if not os.path.samestat(os.fstat(self._descriptor), os.stat(self._partial)):
            raise OSError(errno.ESTALE, "another file has taken its place")

    def _finish_run_file(self) -> None:
        appending.crash_point("rename")
        os.replace(self._partial_run_file, self._run_file)
        _sync_folder(self._path)

    def _finish_converted(self, convert: Callable[[str, str], None]) -> None:
        """Makes the output of the partial file, and takes that away.

        It stays until the output is in its place: whatever happens before, the next
        run finds all records there and does this again.
        """
        self._is_at_rest = False
        descriptor = -1
        try:
            with explaining(self._path, self.num_bytes, can_resume=True):
                convert(self._partial, self._converted)
                descriptor = os.open(self._converted, os.O_RDONLY | os.O_CLOEXEC)
                os.fsync(descriptor)
                # The output is locked before another run can see it.
                _flock(descriptor, fcntl.LOCK_EX, self._converted)
                size = os.fstat(descriptor).st_size
                self._write_run_file(size, is_complete=True)
                appending.crash_point("rename")
                os.replace(self._converted, self._path)
                appending.crash_point("rename")
                os.unlink(self._partial)
                self._finish_run_file()
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self._converted)
            raise
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        self.num_bytes = size
        os.close(self._descriptor)

    def suspend(self) -> int:
        """Ends an unfinished run; returns how many records can be gone on with."""
        appending.crash_point("suspend")
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

    def _write_run_file(self, num_bytes: int, is_complete: bool) -> None:
        run_file = _RunFile(
            self._fingerprint,
            self._num_whole_records,
            num_bytes,
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
        self._num_durable = self._num_whole_records


def complete_run(path: str, fingerprint: Fingerprint) -> tuple[int, int] | None:
    """Looks for an output that is there already, and was made in the same way.

    Returns:
      Its records and bytes; None if something has to be done, or to be said, which
      `PartialWriter` does.
    """
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
    found_differences = differences(found.fingerprint, fingerprint)
    if found_differences:
        raise OutputError(
            f"{path}: --resume cannot go on, it was made by a different run:\n"
            + "\n".join(f"  {difference}" for difference in found_differences)
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
