"""A file that appears whole, or can be gone on with.

An output is written to OUTPUT.partial beside it, with OUTPUT.partial.run.json for what
the run is, how much of it is durable, and checksums of that. When it is complete both
are renamed, to OUTPUT and OUTPUT.run.json. What cannot be appended to is made from
OUTPUT.partial at the end, as OUTPUT.partial.whole, which is then renamed to OUTPUT.
"""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from absl import logging

from bert_extract.errors import OutputError, counted
from bert_extract.output import append_file
from bert_extract.output.append_file import (
    AppendFile,
    Buffer,
    explaining,
    sync_folder,
)
from bert_extract.output.checksum import crc32
from bert_extract.output.fingerprints import as_read_back, differences
from bert_extract.output.run_file import (
    START,
    Checkpoint,
    RunFile,
    read_run_file,
    with_checkpoint,
    write_run_file,
)

Fingerprint = Mapping[str, Any]

# What is said to be checked, as it takes more than a moment, in bytes.
_LONG_CHECK = 1 << 30
_BLOCK_SIZE = 1 << 20
# Groups of so few bytes are made one piece: the records of short lines are small.
_JOINED_BYTES = 1 << 16


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
    # (descriptor, start, end) -> the size of the lines' text between two ends of
    # records, as `limits` counts it; None where none is kept.
    text_size: Callable[[int, int, int], int] | None = None


# Behind the output's name: what is being written, and what is being made of it.
_PARTIAL, _CONVERTED = ".partial", ".partial.whole"


class PartialWriter:
    """Writes OUTPUT.partial and renames it when it is complete."""

    def __init__(
        self, path: str, form: PartialForm, fingerprint: Fingerprint, resume: bool
    ) -> None:
        self.num_records_kept = 0
        self.text_size_kept = 0
        self.num_bytes = 0
        self.is_complete = False
        self.num_copies = 1 if form.convert is None else 2
        self._path = path
        self._form = form
        self._partial = path + _PARTIAL
        self._converted = path + _CONVERTED
        self._partial_run_file = self._partial + ".run.json"
        self._run_file = path + ".run.json"
        self._fingerprint = as_read_back(fingerprint)
        self._num_records = 0
        self._text_size = 0
        self._crc = 0  # of the first num_bytes
        # What can be gone on with: up to the last group that ended with a record.
        self._whole = START
        self._checkpoints: list[Checkpoint] = []  # durable ones
        self._has_damage = False  # as was found while the output was made of it
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
        other = read_run_file(self._partial_run_file)
        who = f"process {other.process_id} on {other.host}" if other else "another run"
        return OutputError(
            f"{self._path}: {who} is writing this output right now; wait for it, or "
            "write to another file"
        )

    def _keep(self) -> None:
        """Finds out what an earlier run left, and goes on after it."""
        left = read_run_file(self._partial_run_file)
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
        if left.checkpoints is None:
            raise OutputError(
                f"{self._partial}: --resume cannot check it: an earlier version of "
                "bert-extract wrote it, without checksums. Finish it with that one, or "
                "run without --resume to start over"
            )
        self._checkpoints = self._sound_checkpoints(left.checkpoints)
        self._whole = self._durable
        self.num_bytes, self.num_records_kept, self._crc, text_size = self._whole
        if text_size is None:
            text_size = self._count_text(0, self.num_bytes)
            self._whole = self._whole._replace(text_size=text_size)
            self._checkpoints[-1] = self._whole
        self.text_size_kept = text_size
        # Nothing vouches for what stands behind.
        os.ftruncate(self._descriptor, self.num_bytes)

    @property
    def _durable(self) -> Checkpoint:
        return self._checkpoints[-1] if self._checkpoints else START

    def _sound_checkpoints(self, left: list[Checkpoint]) -> list[Checkpoint]:
        """The checkpoints before which everything is as it was written."""
        if left and left[-1].num_bytes >= _LONG_CHECK:
            logging.info(
                "%s: checking the %s bytes that are kept",
                self._partial,
                f"{left[-1].num_bytes:,}",
            )
        good = START
        for number, checkpoint in enumerate(left):
            crc = _checksum(self._descriptor, good, checkpoint.num_bytes)
            if crc != checkpoint.crc:
                logging.warning(
                    "%s: damaged between its bytes %s and %s: not what was written. "
                    "The %s lines before are kept, the %s from there on are computed "
                    "again",
                    self._partial,
                    f"{good.num_bytes:,}",
                    f"{checkpoint.num_bytes:,}",
                    f"{good.num_records:,}",
                    f"{left[-1].num_records - good.num_records:,}",
                )
                return left[:number]
            good = checkpoint
        return left

    def _count_text(self, start: int, end: int) -> int:
        count = self._form.text_size
        return 0 if count is None else count(self._descriptor, start, end)

    def _keep_nothing(self, left: RunFile | None) -> None:
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

    def _was_renamed(self, left: RunFile | None) -> bool:
        return (
            left is not None
            and left.is_complete
            and os.path.isfile(self._path)
            and os.path.getsize(self._path) == left.num_bytes
            and not os.path.exists(self._converted)
        )

    def _discard_leftover(self) -> None:
        if os.fstat(self._descriptor).st_size:
            left = read_run_file(self._partial_run_file)
            what = way = ""
            if left is not None and left.checkpoints:
                what = f", {counted(left.checkpoints[-1].num_records, 'line')}"
                if not differences(left.fingerprint, self._fingerprint):
                    way = "; with --resume it would have gone on after them"
            logging.warning(
                "%s: discarding what a stopped run left%s%s",
                self._partial,
                what,
                way,
            )
        os.ftruncate(self._descriptor, 0)

    def _start(self) -> None:
        self._num_records = self.num_records_kept
        self._text_size = self.text_size_kept
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._converted)  # of a run that was killed there
        self._write_run_file(self._checkpoints)
        self._file = AppendFile(self._descriptor, self.num_bytes)

    # -- changing one's mind

    def start_over(self) -> None:
        """Forgets what an earlier run left."""
        assert not self.is_complete
        with explaining(self._partial):
            os.ftruncate(self._descriptor, 0)
            self.num_records_kept = self.text_size_kept = self.num_bytes = self._crc = 0
            self._whole, self._checkpoints = START, []
            self._start()

    def change_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Says what the bytes depend on from now on, those before included."""
        self._fingerprint = as_read_back(fingerprint)
        with explaining(self._partial, self.num_bytes, can_resume=True):
            self._write_run_file(self._checkpoints)

    def crc_from(self, start: int) -> int | None:
        """The CRC-32 of what an earlier run left, from a byte on."""
        with explaining(self._partial):
            behind = START._replace(num_bytes=start)
            return _checksum(self._descriptor, behind, self.num_bytes)

    # -- writing

    def write(
        self,
        buffers: Sequence[Buffer],
        num_records: int,
        is_whole: bool,
        text_size: int = 0,
    ) -> None:
        """Appends a group in which so many records end; it may end within one."""
        assert self._file is not None
        self._is_at_rest = False
        num_bytes = sum(len(buffer) for buffer in buffers)
        with explaining(self._partial, self.num_bytes + num_bytes, can_resume=True):
            if num_bytes <= _JOINED_BYTES:
                buffers = [b"".join(buffers)]
            for buffer in buffers:
                self._crc = crc32(buffer, self._crc)
                self._file.append(buffer)
        self.num_bytes += num_bytes
        self._num_records += num_records
        self._text_size += text_size
        if is_whole:
            self._whole = Checkpoint(
                self.num_bytes, self._num_records, self._crc, self._text_size
            )
        self._is_at_rest = True

    def commit(self) -> None:
        """Makes what was written durable."""
        self._is_at_rest = False
        with explaining(self._partial, self.num_bytes, can_resume=True):
            self._make_durable()
            self._write_run_file(with_checkpoint(self._checkpoints, self._whole))
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
            checkpoints = with_checkpoint(self._checkpoints, self._whole)
            self._write_run_file(checkpoints, complete_size=self.num_bytes)
            append_file.crash_point("rename")
            os.replace(self._partial, self._path)
            self._finish_run_file()
            os.close(self._descriptor)

    def _make_durable(self) -> None:
        assert self._file is not None
        self._file.flush()
        append_file.crash_point("flush")
        os.fsync(self._descriptor)
        self._check_place()

    def _check_place(self) -> None:
        # A file system that was unmounted takes writes as before, for hours, and there
        # is no place any more where the output could appear.
        if not os.path.samestat(os.fstat(self._descriptor), os.stat(self._partial)):
            raise OSError(errno.ESTALE, "another file has taken its place")

    def _finish_run_file(self) -> None:
        append_file.crash_point("rename")
        os.replace(self._partial_run_file, self._run_file)
        sync_folder(os.path.dirname(self._path))

    def _finish_converted(self, convert: Callable[[str, str], None]) -> None:
        """Makes the output of the partial file, and takes that away.

        It stays until the output is in its place: whatever happens before, the next
        run finds all records there and does this again.
        """
        self._is_at_rest = False
        descriptor = -1
        try:
            with explaining(self._path, self.num_bytes, can_resume=True):
                try:
                    convert(self._partial, self._converted)
                except OutputError:
                    self._has_damage = True
                    raise
                descriptor = os.open(self._converted, os.O_RDONLY | os.O_CLOEXEC)
                os.fsync(descriptor)
                # The output is locked before another run can see it.
                _flock(descriptor, fcntl.LOCK_EX, self._converted)
                size = os.fstat(descriptor).st_size
                self._write_run_file(self._checkpoints, complete_size=size)
                append_file.crash_point("rename")
                os.replace(self._converted, self._path)
                append_file.crash_point("rename")
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

    def suspend(self, keeps_last: bool = True) -> int:
        """Ends an unfinished run; returns how many records can be gone on with."""
        append_file.crash_point("suspend")
        with contextlib.suppress(OSError, OutputError):
            if self._has_damage:
                # The next run will find it too, and keep what stands before it.
                self._checkpoints = self._sound_checkpoints(self._checkpoints)
            elif not keeps_last:
                self._check_place()
                os.ftruncate(self._descriptor, self._durable.num_bytes)
            elif self._is_at_rest:
                self.commit()
            else:
                self._salvage()
        num_records = self._durable.num_records
        self._abandon()
        return num_records

    def _salvage(self) -> None:
        """Keeps what reached the file in a call that failed or was interrupted.

        What was to come after it is in the buffer, which may hold anything.
        """
        self._check_place()
        end, num_found = self._form.scan(self._descriptor, self._durable.num_bytes)
        # First: where the disk is full, this makes room for the run file.
        os.ftruncate(self._descriptor, end)
        os.fsync(self._descriptor)
        crc = _checksum(self._descriptor, self._durable, end)
        if crc is not None:
            durable = self._durable
            assert durable.text_size is not None  # `_keep` has counted it
            whole = Checkpoint(
                end,
                durable.num_records + num_found,
                crc,
                durable.text_size + self._count_text(durable.num_bytes, end),
            )
            self._write_run_file(with_checkpoint(self._checkpoints, whole))

    def _abandon(self) -> None:
        """Lets go of the lock, and of the partial file if it holds nothing."""
        with contextlib.suppress(OSError):
            status = os.fstat(self._descriptor)
            is_ours = os.path.samestat(status, os.stat(self._partial))
            if is_ours and status.st_size == 0:
                os.unlink(self._partial)
                os.unlink(self._partial_run_file)
        os.close(self._descriptor)
        self._descriptor = -1  # another file's number soon

    def _write_run_file(
        self, checkpoints: list[Checkpoint], complete_size: int | None = None
    ) -> None:
        durable = checkpoints[-1] if checkpoints else START
        run_file = RunFile(
            self._fingerprint,
            durable.num_records,
            durable.num_bytes if complete_size is None else complete_size,
            complete_size is not None,
            os.getpid(),
            socket.gethostname(),
            checkpoints,
        )
        write_run_file(self._partial_run_file, run_file)
        self._checkpoints = checkpoints


def complete_run(path: str, fingerprint: Fingerprint) -> tuple[int, int] | None:
    """Looks for an output that is there already, and was made in the same way.

    Returns:
      Its records and bytes; None if something has to be done, or to be said, which
      `PartialWriter` does.
    """
    if not os.path.isfile(path) or os.path.exists(path + ".partial.run.json"):
        return None
    try:
        done = _complete_run(path, path + ".run.json", as_read_back(fingerprint))
    except OutputError:
        return None
    return None if done is None else (done.num_records, done.num_bytes)


def told_fingerprint(path: str) -> dict[str, Any] | None:
    """What a run file says of the run; None if it is missing or broken."""
    run_file = read_run_file(path)
    return None if run_file is None else run_file.fingerprint


def remove_partial(path: str) -> None:
    """Takes away what a run left unfinished, which nobody goes on with."""
    for name in (path + _PARTIAL, path + _PARTIAL + ".run.json"):
        with explaining(name), contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def partial_fingerprint(path: str) -> dict[str, Any] | None:
    """What is told of the run that left an output unfinished; None if nothing is."""
    return told_fingerprint(path + _PARTIAL + ".run.json")


def refuse_difference(
    was: Mapping[str, Any], now: Mapping[str, Any], path: str
) -> None:
    """Refuses to go on with what another run made.

    Args:
      was: the fingerprint of that run, read from JSON.
      now: the fingerprint of this one.
      path: what that run made.

    Raises:
      OutputError: they differ; the message says in what.
    """
    _refuse_difference(was, as_read_back(now), path)


def left_fingerprint(path: str) -> dict[str, Any] | None:
    """The fingerprint of the run that left an output, or what was to become one.

    None if there is nothing, or an output that is not as long as a run left it.
    """
    unfinished = read_run_file(path + ".partial.run.json")
    whole = read_run_file(path + ".run.json") if os.path.exists(path) else None
    if os.path.exists(path):
        told = [run.num_bytes for run in (whole, unfinished) if run and run.is_complete]
        if os.path.getsize(path) not in told:
            return None
    left = unfinished or whole
    return None if left is None else left.fingerprint


def _complete_run(
    path: str, run_file: str, fingerprint: dict[str, Any]
) -> RunFile | None:
    """What made the output that is there; None if there is none.

    Raises:
      OutputError: nobody knows how it was made, or it was made in another way.
    """
    if not os.path.exists(path):
        return None
    done = read_run_file(run_file)
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


def _check_fingerprint(found: RunFile, fingerprint: dict[str, Any], path: str) -> None:
    _refuse_difference(found.fingerprint, fingerprint, path)


def _refuse_difference(was: Mapping[str, Any], now: dict[str, Any], path: str) -> None:
    found_differences = differences(was, now)
    if found_differences:
        raise OutputError(
            f"{path}: --resume cannot go on, it was made by a different run:\n"
            + "\n".join(f"  {difference}" for difference in found_differences)
            + "\nGive the command that made it, remove it, or run without --resume to "
            "start over"
        )


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


def _checksum(descriptor: int, start: Checkpoint, end: int) -> int | None:
    """The CRC-32 of a file's first `end` bytes; None if there are not so many."""
    position, crc = start.num_bytes, start.crc
    while position < end:
        block = os.pread(descriptor, min(_BLOCK_SIZE, end - position), position)
        if not block:
            return None
        crc = crc32(block, crc)
        position += len(block)
    return crc


def num_bytes_written(path: str) -> int:
    """What an output that is being written has on the disk by now, in all its forms."""
    total = 0
    for suffix in (_PARTIAL, _CONVERTED):
        with contextlib.suppress(OSError):  # not yet, or not any more
            total += os.path.getsize(path + suffix)
    return total
