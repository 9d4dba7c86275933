"""Parts -> one output: their bytes, one after the other, checked on the way.

A part is joined as soon as it and all before it are in their places, while later ones
are still computed: when the last one comes, little is left to do.
"""

import errno
import fcntl
import mmap
import os
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from absl import logging

from bert_extract.errors import OutputError
from bert_extract.output.append_file import BUFFER_SIZE
from bert_extract.output.checksum import crc32
from bert_extract.output.parts import Part, PartsFolder, fingerprint_of_parts
from bert_extract.output.resumable import PartialWriter, partial_fingerprint
from bert_extract.output.writers import OutputSpec, Writer, open_partial

# After so many bytes a join that is killed need not begin again.
_COMMIT_BYTES = 1 << 30


# How long a part may take to appear here when a worker has told of it, in seconds.
_PATIENCE = 10.0


class Joined(NamedTuple):
    """An output that is there."""

    fingerprint: dict[str, Any]
    num_bytes: int


class _ClosedError(Exception):
    """Nobody waits for the output any more."""


class Joiner:
    """Joins parts in a thread of its own, as they come."""

    def __init__(
        self,
        output_file: str,
        kind: OutputSpec,
        fingerprint: Mapping[str, Any],
        folder: PartsFolder,
        names: Sequence[str],
        parts: Mapping[str, Part],
        resume: bool,
    ) -> None:
        """Does nothing yet.

        Args:
          output_file: a path; what is there is replaced in the end.
          kind: JSON lines, compressed or not.
          fingerprint: what the bytes depend on besides the parts' arithmetic.
          folder: of the parts, which stay there.
          names: of all parts, in order.
          parts: those that are there; it grows, and `wake` tells of that.
          resume: whether to go on after what an earlier run has joined.
        """
        self._output_file = output_file
        self._kind = kind
        self._fingerprint = fingerprint
        self._folder = folder
        self._names = names
        self._parts = parts
        self._resume = resume
        # A token for each part that came; a signal may end a put at any place.
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_over = False
        self._has_begun = False
        self._is_last_try = False
        self._num_joined = 0
        self._pool = ThreadPoolExecutor(1, "join")
        self._work: Future[Joined] | None = None

    def start(self) -> None:
        """Begins, with the first part as soon as it is there."""
        self._work = self._pool.submit(self._join)

    def wake(self) -> None:
        """Tells of a part that is there now.

        Raises:
          OutputError: the output cannot even be opened: nothing need be computed.
        """
        self._news.put(None)
        work = self._work
        if work is not None and work.done():
            is_of_parts = self._has_begun and isinstance(work.exception(), OutputError)
            if not is_of_parts:
                work.result()

    def finish(self) -> Joined:
        """Waits for the output, when all parts are there.

        What failed on the way is tried once more: a disk may have room again.

        Raises:
          OutputError: a part is not what was written, or the output cannot be written.
        """
        assert self._work is not None
        num_left = len(self._names) - self._num_joined
        if num_left:
            logging.info(
                "%s: every line is computed; joining the last %s of %s parts",
                self._output_file,
                f"{num_left:,}",
                f"{len(self._names):,}",
            )
        if isinstance(self._work.exception(), OutputError) and self._has_begun:
            self._resume = self._is_last_try = True
            self.start()
        return self._work.result()

    def close(self) -> None:
        """Ends it; what is joined by then can be gone on with."""
        self._is_over = True
        self._news.put(None)
        self._pool.shutdown()

    # -- the thread

    def _join(self) -> Joined:
        try:
            return self._join_all()
        except OutputError as error:
            if self._has_begun and not self._is_last_try:
                logging.warning(
                    "%s: joining it stopped, and is tried again when every line is "
                    "computed: %s",
                    self._output_file,
                    error,
                )
            raise

    def _join_all(self) -> Joined:
        arithmetics = [dict(self._wait_for(self._names[0]).arithmetic)]
        writer = self._open(arithmetics)
        self._has_begun = True

        def parts() -> Iterator[Part]:
            for number, name in enumerate(self._names):
                self._num_joined = number
                part = self._wait_for(name)
                if dict(part.arithmetic) not in arithmetics:
                    arithmetics.append(dict(part.arithmetic))
                    writer.change_fingerprint(self._with(arithmetics))
                yield part

        join_parts(self._folder.path, parts(), writer, self._check)
        self._num_joined = len(self._names)
        return Joined(self._with(arithmetics), writer.num_bytes)

    def _check(self) -> None:
        if self._is_over:
            raise _ClosedError

    def _with(self, arithmetics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return fingerprint_of_parts(self._fingerprint, arithmetics)

    def _wait_for(self, name: str) -> Part:
        """Waits until a part is told of, and until it is seen here, too."""
        while name not in self._parts:
            self._check()
            self._news.get()
        end = time.monotonic() + _PATIENCE
        # A worker that was thought dead may have put its own part where that of its
        # replacement was.
        while (part := self._folder.read_part(name)) is None:
            if time.monotonic() > end:
                return self._parts[name]  # the error is told of where it is read
            self._check()
            time.sleep(0.1)
        return part

    # -- what an earlier run has joined

    def _open(self, arithmetics: list[dict[str, Any]]) -> PartialWriter:
        """Opens the output, behind the parts that are in it where that can be.

        Args:
          arithmetics: of the first part; gets those that the output tells of.
        """
        found = self._find_told(arithmetics) if self._resume else None
        if found is None:
            return open_partial(
                self._output_file, self._kind, self._with(arithmetics), resume=False
            )
        arithmetics[:] = found
        writer = open_partial(
            self._output_file, self._kind, self._with(found), resume=True
        )
        try:
            if not writer.is_complete and not self._is_joined(writer):
                logging.warning(
                    "%s: what was joined is not what the parts are now: joining them "
                    "anew",
                    self._output_file,
                )
                writer.start_over()
        except BaseException:
            writer.suspend()
            raise
        return writer

    def _find_told(
        self, arithmetics: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]] | None:
        """The arithmetics of what was joined; None if it is not of these parts."""
        told = partial_fingerprint(self._output_file)
        found = list(arithmetics)
        if told is None or told == self._with(found):
            return None if told is None else found
        for name in self._names:
            if name not in self._parts:
                break
            arithmetic = dict(self._parts[name].arithmetic)
            if arithmetic not in found:
                found.append(arithmetic)
                if told == self._with(found):
                    return found
        return None

    def _is_joined(self, writer: PartialWriter) -> bool:
        """Whether an output that was begun ends as these parts do there.

        They may have been made anew since, in a few bytes more.
        """
        end = end_of_records = 0
        for name in self._names:
            if end >= writer.num_bytes or name not in self._parts:
                break
            part = self._parts[name]
            start, end = end, end + part.num_bytes
            end_of_records += part.num_lines
        if end < writer.num_bytes:
            return False
        if not writer.num_bytes:
            return True
        num_missing = end_of_records - writer.num_records_kept
        if not 0 <= num_missing <= part.num_lines:
            return False
        if (num_missing == 0) is not (end == writer.num_bytes):
            return False
        crc = _crc_of_start(self._folder.path, part, writer.num_bytes - start)
        return writer.crc_from(start) == crc


def join_parts(
    folder: str,
    parts: Iterable[Part],
    writer: Writer,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Writes the output; the parts stay.

    Args:
      folder: of the parts, which are JSON lines, compressed or not.
      parts: all of them, in order; to get the next one may take long.
      writer: of the output; what it has from an earlier join is not written again.
      check: is called for each block, and may raise what is to end it.

    Raises:
      OutputError: a part is not what was written, or the output cannot be written.
    """
    if writer.is_complete:
        return
    try:
        num_kept = writer.num_bytes
        num_records = writer.num_records_kept
        end = end_of_records = last_commit = 0
        for part in parts:
            start, end = end, end + part.num_bytes
            end_of_records += part.num_lines
            if end <= num_kept:
                continue
            for block in _new_blocks(folder, part, max(0, num_kept - start)):
                check()
                writer.write([block], 0, is_whole=False)
            writer.write([], max(0, end_of_records - num_records), is_whole=True)
            num_records = max(num_records, end_of_records)
            if end - last_commit >= _COMMIT_BYTES:
                last_commit = end
                writer.commit()
        writer.finish()
    except BaseException:
        writer.suspend()
        raise


def _new_blocks(folder: str, part: Part, num_skipped: int) -> Iterator[memoryview]:
    """Yields a part's bytes behind the first ones; all of them are checked."""
    path = os.path.join(folder, part.name)
    position = crc = 0
    for block in _blocks(path):
        crc = crc32(block, crc)
        skipped = min(max(num_skipped - position, 0), len(block))
        position += len(block)
        if skipped < len(block):
            yield block[skipped:]
    if position != part.num_bytes or crc != part.crc:
        raise OutputError(
            f"{path}: damaged: expected the {part.num_bytes:,} bytes that were written "
            f"there; found {position:,}, or others. Remove it and give the same "
            "command with --resume, which computes it again"
        )


def _crc_of_start(folder: str, part: Part, num_bytes: int) -> int | None:
    """The CRC-32 of a part's first bytes."""
    if num_bytes == part.num_bytes:
        return part.crc
    crc = 0
    for block in _blocks(os.path.join(folder, part.name)):
        crc = crc32(block[:num_bytes], crc)
        num_bytes -= min(num_bytes, len(block))
        if not num_bytes:
            break
    return crc


def _blocks(path: str) -> Iterator[memoryview]:
    """Yields a file's bytes, each block until the next one is asked for.

    They are read past the page cache, as parts are written, where the file system can
    do that: through the cache a join took three times the CPU time.

    Raises:
      OutputError: it cannot be read.
    """
    buffer = memoryview(mmap.mmap(-1, BUFFER_SIZE))  # starts at a page
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            position = 0
            _set_direct(descriptor, _DIRECT)
            while num_read := _read(descriptor, buffer, position):
                position += num_read
                yield buffer[:num_read]
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error


# Reading past the cache, and what a file system says that cannot do that.
_DIRECT = getattr(os, "O_DIRECT", 0)
_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)


def _read(descriptor: int, buffer: memoryview, position: int) -> int:
    """Reads a block past the cache, or through it where there is no other way."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & _DIRECT:
        try:
            # Behind a block that ended within a page there is nothing, most likely.
            if position % mmap.PAGESIZE == 0:
                return os.preadv(descriptor, [buffer], position)
        except OSError as error:
            if error.errno not in _NOT_DIRECT:
                raise
        _set_direct(descriptor, 0)
    return os.preadv(descriptor, [buffer], position)


def _set_direct(descriptor: int, flag: int) -> None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flag)
    except OSError as error:
        if error.errno not in _NOT_DIRECT:
            raise
