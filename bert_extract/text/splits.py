"""Corpus -> Splits -> Examples: pieces of the input that anyone can read alone."""

import bisect
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from absl import logging

from bert_extract.errors import InputError, OptionsError
from bert_extract.files import is_remote, status_of
from bert_extract.text.examples import (
    STDIN,
    Example,
    LineReader,
    is_only_returns,
    open_raw,
    read_example,
    reading,
)
from bert_extract.text.stamps import InputWatch
from bert_extract.text.unpacking import is_compressed

_BLOCK_SIZE = 1 << 22
# Of more than so many times its share of the input, a shard says so.
_LARGE_SHARD = 2


@dataclass(frozen=True, slots=True)
class Split:
    """The lines of one file whose first byte is in [start, end)."""

    path: str
    start: int  # bytes
    end: int | None  # bytes; None is the end of the file
    first_line: int  # index of the split's first line in its file
    first_index: int  # index of the split's first line in the whole input


def file_size(path: str) -> int:
    """A file's bytes, on the disk or far away.

    Raises:
      InputError: it cannot be looked at.
    """
    with reading(path):
        return status_of(path).size


def plan_splits(
    input_files: Sequence[str],
    shard: tuple[int, int] | None = None,
    size_of: Callable[[str], int] = file_size,
) -> list[Split]:
    """Divides the input into the pieces that one run reads.

    Without a shard each file is one split. With one, the bytes of all files, laid end
    to end, are divided into N equal parts, and shard I has the lines that start in
    part I. A compressed file is never cut: a cut within it moves to the nearer of its
    ends, and farther where a part would have nothing (`check_shards` tells if that
    cannot be). Of what stands before the shard only newlines are counted.

    Args:
      input_files: the files in order.
      shard: (I, N), or None for everything.
      size_of: tells a file's bytes, where they are known already.

    Raises:
      InputError: a file cannot be read.
    """
    if shard is None:
        # The index of later files' lines follows from reading the earlier ones.
        return [Split(path, 0, None, 0, 0) for path in input_files]
    index, num_shards = shard
    sizes = [size_of(path) for path in input_files]
    cuts = _cuts(input_files, sizes, num_shards)
    first, last = cuts[index], cuts[index + 1]
    splits: list[Split] = []
    num_lines = stop = 0
    for path, size in zip(input_files, sizes, strict=True):
        begin, stop = stop, stop + size
        if begin >= last:
            break
        start = min(max(first - begin, 0), size)
        end = min(last - begin, size)
        if start < end:
            index_in_file = count_lines(path, start)
            splits.append(
                Split(
                    path,
                    start,
                    None if end == size else end,
                    index_in_file,
                    num_lines + index_in_file,
                )
            )
        elif not splits:
            num_lines += count_lines(path, size)
    return splits


def check_shards(
    input_files: Sequence[str],
    shard: tuple[int, int],
    size_of: Callable[[str], int] = file_size,
) -> None:
    """Refuses shards for which compressed files leave nothing; warns of a large one.

    Args:
      input_files: the files in order.
      shard: (I, N).
      size_of: tells a file's bytes, where they are known already.

    Raises:
      OptionsError: there are fewer pieces that could be shared than shards.
      InputError: a file cannot be read.
    """
    index, num_shards = shard
    if not any(map(is_compressed, input_files)):
        return
    sizes = [size_of(path) for path in input_files]
    # In an empty one there is nothing to share.
    compressed = [
        path
        for path, size in zip(input_files, sizes, strict=True)
        if size and is_compressed(path)
    ]
    if not compressed:
        return
    num_pieces = _num_pieces(input_files, sizes)
    if num_pieces < num_shards:
        raise OptionsError(
            f"--shard={index}/{num_shards}: the input cannot be shared among so many: "
            f"{compressed[0]} is compressed, and such a file cannot be cut. Decompress "
            f"it, or split it into at least {num_shards} files"
            + (f", or make {num_pieces} shards" if num_pieces > 1 else "")
        )
    total = sum(sizes)
    cuts = _cuts(input_files, sizes, num_shards)
    num_bytes = cuts[index + 1] - cuts[index]
    if num_bytes > _LARGE_SHARD * total / num_shards:
        logging.warning(
            "--shard=%d/%d has %.0f %% of the input's bytes: compressed files cannot "
            "be cut; decompress the large ones, or split them into more files",
            index,
            num_shards,
            100 * num_bytes / total,
        )


def _num_pieces(input_files: Sequence[str], sizes: Sequence[int]) -> int:
    """How many shards can have something."""
    return sum(
        min(size, 1) if is_compressed(path) else size
        for path, size in zip(input_files, sizes, strict=True)
    )


def _cuts(
    input_files: Sequence[str], sizes: Sequence[int], num_shards: int
) -> list[int]:
    """Where shards begin and the last one ends, in bytes of the files end to end."""
    total = sum(sizes)
    equal = [total * number // num_shards for number in range(num_shards + 1)]
    ends = [*itertools.accumulate(sizes)]
    whole = [
        (end - size, end)
        for path, size, end in zip(input_files, sizes, ends, strict=True)
        if size and is_compressed(path)
    ]
    if not whole:
        return equal
    points = _CutPoints(whole)
    cuts = [points.nearest(cut) for cut in equal]
    if _num_pieces(input_files, sizes) < num_shards:
        return cuts
    # None is empty: each is moved away from the one before, then from the one behind.
    for number in range(1, num_shards):
        cuts[number] = max(cuts[number], points.after(cuts[number - 1]))
    for number in range(num_shards - 1, 0, -1):
        cuts[number] = min(cuts[number], points.before(cuts[number + 1]))
    return cuts


class _CutPoints:
    """Where the input may be cut: anywhere but within a compressed file."""

    def __init__(self, whole: Sequence[tuple[int, int]]) -> None:
        self._begins = [begin for begin, _ in whole]
        self._ends = [end for _, end in whole]

    def nearest(self, cut: int) -> int:
        """Moves a cut out of a compressed file."""
        number = bisect.bisect_right(self._begins, cut) - 1
        if number < 0 or cut >= self._ends[number]:
            return cut
        begin, end = self._begins[number], self._ends[number]
        return begin if cut - begin <= end - cut else end

    def after(self, cut: int) -> int:
        """The next one."""
        number = bisect.bisect_right(self._begins, cut) - 1
        return max(cut + 1, self._ends[number]) if number >= 0 else cut + 1

    def before(self, cut: int) -> int:
        """The one before."""
        number = bisect.bisect_left(self._ends, cut)
        if number == len(self._ends):
            return cut - 1
        return min(cut - 1, self._begins[number])


class SplitReader:
    """The examples of splits that follow each other in the input."""

    def __init__(
        self,
        splits: Sequence[Split],
        errors: str,
        num_skipped: int = 0,
        watch: InputWatch | None = None,
        pairs: bool = True,
    ) -> None:
        """Makes a reader; nothing is opened before it is iterated over.

        Args:
          splits: as `plan_splits` gives them.
          errors: what to do with bytes that are not UTF-8, as Python names it.
          num_skipped: how many lines from the beginning to pass over undecoded.
          watch: compares each file when it is opened and when its lines are read.
          pairs: whether " ||| " separates two texts.
        """
        self._splits = splits
        self._errors = errors
        self._num_skipped = num_skipped
        self._watch = watch
        self._pairs = pairs
        self._num_bytes_done = 0
        self._num_lines_read = 0
        self._lines: LineReader | None = None

    def num_bytes_of(self, num_lines: int) -> int:
        """How much of the input its first lines take, about, in bytes on the disk.

        Args:
          num_lines: at most as many as were read, skipped ones included.
        """
        current = self._lines
        num_bytes = self._num_bytes_done + (current.num_bytes_read if current else 0)
        return num_bytes * num_lines // max(1, self._num_lines_read)

    def __iter__(self) -> Iterator[Example]:
        """Yields one `Example` a line.

        Raises:
          InputError: a file cannot be read or has changed, or a line is not UTF-8.
        """
        try:
            yield from self._examples()
        except InputError:
            if self._watch is not None:
                self._watch.check()  # half a line or file has a reason, which it tells
            raise

    def _examples(self) -> Iterator[Example]:
        num_to_skip = self._num_skipped
        unique_id = 0
        for split in self._splits:
            unique_id = max(unique_id, split.first_index)
            self._lines = LineReader(split.path, split.start, split.end, self._watch)
            line_number = split.first_line
            for line in self._lines:
                line_number += 1
                self._num_lines_read += 1
                if num_to_skip:
                    num_to_skip -= 1
                else:
                    example = read_example(
                        line,
                        self._errors,
                        split.path,
                        line_number,
                        unique_id,
                        self._pairs,
                    )
                    del line  # it may be long
                    yield example
                    del example
                unique_id += 1
            self._num_bytes_done += self._lines.num_bytes_read
            self._lines = None


def input_size(
    splits: Sequence[Split], size_of: Callable[[str], int] = file_size
) -> int | None:
    """The bytes on the disk that the splits will read; None where nobody knows."""
    total = 0
    for split in splits:
        if split.path == STDIN or not (
            is_remote(split.path) or os.path.isfile(split.path)
        ):
            return None
        end = size_of(split.path) if split.end is None else split.end
        total += end - split.start
    return total


def may_be_slow(splits: Sequence[Split]) -> bool:
    """Whether one is a pipe, or the like, whose other end may write now and then."""
    for split in splits:
        if split.path == STDIN:
            with reading(STDIN):
                if not stat.S_ISREG(os.fstat(0).st_mode):
                    return True
        elif not is_remote(split.path) and not os.path.isfile(split.path):
            return True
    return False


def count_lines(path: str, end: int) -> int:
    """How many lines start before the byte offset `end`.

    Raises:
      InputError: the file cannot be read.
    """
    if end == 0:
        return 0
    if is_compressed(path):
        return sum(1 for _ in LineReader(path))
    # A line starts at 0 and after each newline; the last newline before `end` starts
    # one only if it stands before end - 1.
    num_lines = 1
    position = start_of_last = 0
    with reading(path), open_raw(path) as stream:
        while block := stream.read(min(_BLOCK_SIZE, end - 1 - position)):
            num_newlines = block.count(b"\n")
            if num_newlines:
                num_lines += num_newlines
                start_of_last = position + block.rindex(b"\n") + 1
            position += len(block)
        stream.seek(start_of_last)
        return num_lines - _holds_only_returns(stream)


def _holds_only_returns(stream: IO[bytes]) -> bool:
    """Whether what is left of a file is no line: CRs, and nothing else."""
    while block := stream.read(_BLOCK_SIZE):
        if not is_only_returns(block):
            return False
    return True
