"""Corpus -> a plan of many Splits, in 32 bytes each, with the checksum of their bytes.

One pass over the input: newlines are counted, so that every split knows the index of
its first line, and each split's bytes are summed, so that whoever computes it can tell
that it sees the same file.
"""

import array
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from bert_extract.errors import InputError
from bert_extract.files import is_remote
from bert_extract.output.checksum import crc32
from bert_extract.text.examples import is_only_returns, open_raw, reading
from bert_extract.text.splits import Split, count_lines
from bert_extract.text.unpacking import is_compressed

# Bytes that are read at once: they stay in a core's cache while they are counted.
_BLOCK_SIZE = 1 << 20
_NEWLINE = 0x0A


@dataclass(frozen=True, slots=True)
class PlannedSplit:
    """A split that one worker does, and what it must find there."""

    split: Split
    file_number: int  # of the input's files, in order
    num_lines: int
    num_bytes: int  # on the disk
    crc: int  # CRC-32 of these bytes


class SplitPlan(Sequence[PlannedSplit]):
    """The splits of an input, in order; they are all of it, and no two overlap.

    Attributes:
      num_lines: of the whole input.
      num_bytes: the same on the disk.
    """

    def __init__(self, input_files: Sequence[str], split_bytes: int) -> None:
        """Reads the input once and cuts it behind newlines.

        A compressed file is one split. An input of no lines is one split, too, so that
        there is an output.

        Args:
          input_files: regular files, or remote ones, in order.
          split_bytes: a split has as many, and what is left of its last line; the last
            one of a file has what is left of the file.

        Raises:
          InputError: a file cannot be read.
        """
        assert split_bytes > 0
        self._input_files = list(input_files)
        self._file_numbers = array.array("i")
        self._starts = array.array("q")  # bytes
        self._ends = array.array("q")
        self._first_lines = array.array("q")  # in its file
        self._crcs = array.array("I")
        # Lines of the files before each file.
        self._lines_before = [0]
        self.num_bytes = 0
        for number, path in enumerate(self._input_files):
            cut = _cut_compressed if is_compressed(path) else _cut_text
            num_lines = 0
            for piece in cut(path, split_bytes):
                self._add(number, piece, num_lines)
                num_lines += piece.num_lines
            self._lines_before.append(self._lines_before[-1] + num_lines)
        self.num_lines = self._lines_before[-1]
        if not self._starts:
            self._add(0, _Piece(0, 0, 0, 0), 0)

    def _add(self, file_number: int, piece: "_Piece", first_line: int) -> None:
        self._file_numbers.append(file_number)
        self._starts.append(piece.start)
        self._ends.append(piece.end)
        self._first_lines.append(first_line)
        self._crcs.append(piece.crc)
        self.num_bytes += piece.end - piece.start

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> PlannedSplit:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(number)
        file_number = self._file_numbers[number]
        start, end = self._starts[number], self._ends[number]
        first_line = self._first_lines[number]
        path = self._input_files[file_number]
        is_last = (
            number + 1 == len(self) or self._file_numbers[number + 1] != file_number
        )
        if is_last:
            lines = self._lines_before[file_number : file_number + 2]
            end_line = lines[1] - lines[0]
        else:
            end_line = self._first_lines[number + 1]
        split = Split(
            path,
            start,
            None if is_compressed(path) else end,
            first_line,
            self._lines_before[file_number] + first_line,
        )
        return PlannedSplit(
            split, file_number, end_line - first_line, end - start, self._crcs[number]
        )


def choose_split_bytes(
    num_bytes: int, num_workers: int, tokens_per_second: float
) -> int:
    """How large splits are: a minute's work, or less where workers would be idle.

    Args:
      num_bytes: of the input.
      num_workers: that will share it.
      tokens_per_second: of one worker, about.
    """
    minute = int(tokens_per_second * _SPLIT_SECONDS * _BYTES_PER_TOKEN)
    share = num_bytes // (_SPLITS_PER_WORKER * max(1, num_workers))
    return max(_LEAST_SPLIT, min(minute, share))


# A lost worker loses at most one of them.
_SPLIT_SECONDS = 60.0
# English text has four to five bytes a wordpiece.
_BYTES_PER_TOKEN = 4
# The last of so many is a twentieth of a worker's time: nobody waits long for it.
_SPLITS_PER_WORKER = 20
# Less is not worth a part of its own.
_LEAST_SPLIT = 1 << 14


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive lines of a file."""

    start: int  # bytes
    end: int
    num_lines: int
    crc: int


def _cut_text(path: str, split_bytes: int) -> Iterator[_Piece]:
    r"""Cuts a file behind the first newline from each split_bytes on.

    "a\nbb\nc\n", 2 -> "a\n", "bb\n", "c\n"; 3 -> "a\nbb\n", "c\n"
    """
    start = position = num_lines = crc = 0
    with reading(path), open_raw(path) as stream:
        while block := stream.read(_BLOCK_SIZE):
            done = 0  # bytes of the block
            while True:
                # The first byte that may be the newline behind which it is cut.
                target = max(start + split_bytes - 1 - position, done)
                end = block.find(b"\n", target) + 1 if target < len(block) else 0
                taken = memoryview(block)[done : end or len(block)]
                num_lines += _count_newlines(taken)
                crc = crc32(taken, crc)
                if not end:
                    break
                yield _Piece(start, position + end, num_lines, crc)
                start, done = position + end, end
                num_lines = crc = 0
            position += len(block)
        if start == position:
            return
        # What stands behind the last newline is a line, unless it is nothing but CRs.
        if _ends_with_a_line(stream, start, position):
            num_lines += 1
    if num_lines:
        yield _Piece(start, position, num_lines, crc)


def _count_newlines(block: memoryview) -> int:
    # NumPy does 4 GB/s where bytes.count, which stops at each, does 0.6.
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == _NEWLINE))


def _ends_with_a_line(stream: IO[bytes], start: int, end: int) -> bool:
    """Whether there is a line behind the last newline of a file from `start` on."""
    position = end
    while position > start:
        begin = max(start, position - _BLOCK_SIZE)
        stream.seek(begin)
        block = stream.read(position - begin)
        tail = block[block.rfind(b"\n") + 1 :]
        if tail and not is_only_returns(tail):
            return True
        if len(tail) < len(block):
            return False
        position = begin
    return False


def _cut_compressed(path: str, split_bytes: int) -> Iterator[_Piece]:
    num_bytes = crc = 0
    with reading(path), open_raw(path) as stream:
        while block := stream.read(_BLOCK_SIZE):
            num_bytes += len(block)
            crc = crc32(block, crc)
    num_lines = count_lines(path, num_bytes)
    if num_lines:
        yield _Piece(0, num_bytes, num_lines, crc)


def check_bytes(
    planned: PlannedSplit, on_bytes: Callable[[int], object] = lambda num_bytes: None
) -> None:
    """Compares a split's bytes with those that the plan was made of.

    Args:
      planned: the split.
      on_bytes: is told how many were read, now and then.

    Raises:
      InputError: they are others, or cannot be read; the message names the path.
    """
    path, start = planned.split.path, planned.split.start
    left, crc = planned.num_bytes, 0
    last = b""
    with reading(path), open_raw(path) as stream:
        if start:
            stream.seek(start)
        while left and (block := stream.read(min(_BLOCK_SIZE, left))):
            crc = crc32(block, crc)
            left -= len(block)
            last = block[-1:]
            on_bytes(len(block))
        # A line without a newline was the last of its file.
        ends_there = last in (b"", b"\n") and planned.split.end is not None
        has_grown = not left and planned.num_bytes and not ends_there and stream.read(1)
    if left or has_grown or crc != planned.crc:
        raise InputError(
            f"{path}: its bytes from {start:,} to {start + planned.num_bytes:,} are "
            "not those that the driver has there: expected the CRC-32 "
            f"{planned.crc:08x}, found "
            + (f"{left:,} bytes too few" if left else f"{crc:08x}")
            + (", and more behind them" if has_grown else "")
            + ". Every node must see the same file under this path"
        )


def check_plannable(input_files: Sequence[str]) -> None:
    """Refuses what only one process can read, and only once.

    Raises:
      InputError: a file is no regular one.
    """
    for path in input_files:
        if not is_remote(path) and not os.path.isfile(path):
            raise InputError(
                f"{path}: expected a regular file, which every node can read; found "
                "something else. Copy it to a file, or leave out --runner=ray"
            )
