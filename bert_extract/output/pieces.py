"""A file of records -> pieces of it that can be read in any order.

    JSON lines       a line, found by where it begins
    .gz, .zst        a member, eight lines as we write them: found by decompressing once
    HDF5             some lines, by their numbers
    Parquet          the lines of a row group

A piece that another program made may be a whole file, as its only member is: it is read
line by line all the same.
"""

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import InputError
from bert_extract.formats import HDF5, JSONL, PARQUET, Format
from bert_extract.output import hdf5, parquet
from bert_extract.output.compression import find_members, open_members
from bert_extract.output.json_parser import JsonParser
from bert_extract.output.reading import Path, files_at, format_of_file, read_features
from bert_extract.output.record import Record
from bert_extract.output.selection import Layers, make_selection

# One read of a file that is looked through for its lines.
_STEP = 4 << 20
# A piece up to which it is read at once.
_MOST_AT_ONCE = 64 << 20
# Lines of a piece of HDF5: to open the file takes as long as to read some of them.
_HDF5_LINES = 32


@dataclass(frozen=True)
class Pieces:
    """The pieces of one file.

    Attributes:
      path: the file.
      format: what it is.
      starts: int64 [num_pieces]: the first byte of each; of HDF5 and Parquet the first
        line.
      ends: int64 [num_pieces]: the one behind its last.
      num_lines: int64 [num_pieces]: how many records each has, about as many in HDF5.
    """

    path: str
    format: Format
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    num_lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, number: int, layers: Layers | None = None) -> Iterator[Record]:
        """Reads the records of a piece, in order.

        Args:
          number: from 0.
          layers: as `read_features` takes them.

        Raises:
          InputError: it cannot be read, or has not the layers.
        """
        start, end = int(self.starts[number]), int(self.ends[number])
        if not self.format.is_json:
            yield from read_features(self.path, layers=layers, lines=range(start, end))
            return
        parser = JsonParser(make_selection(layers, None))
        try:
            with _open_piece(self.path, start, end) as file:
                lines = (
                    file if self.format is JSONL else open_members(file, self.format)
                )
                for line in itertools.islice(lines, int(self.num_lines[number])):
                    yield parser.parse(line)
        except InputError as error:
            raise InputError(f"{self.path}: at byte {start}: {error}") from error
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read from byte {start} on: {error}"
            ) from error


def find_pieces(path: Path | Iterable[Path]) -> list[Pieces]:
    """Finds the pieces of a file, or of several: 24 bytes of memory a piece.

    Files of JSON lines are read once for it; of the others only a part.

    Args:
      path: as `read_features` takes it.

    Raises:
      InputError: a file cannot be read, or was cut off.
    """
    return [_find(file, format_of_file(file)) for file in files_at(path)]


def _find(path: str, found: Format) -> Pieces:
    if found is HDF5:
        return _of_lines(path, found, hdf5.line_numbers(path))
    if found is PARQUET:
        return _of_ranges(path, found, parquet.line_ranges(path))
    try:
        with open(path, "rb", buffering=0) as file:
            if found is not JSONL:
                members = list(find_members(file.fileno(), found))
                return _of_ranges(path, found, members)
            starts, end = _line_starts(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    ends = np.append(starts[1:], end)[: len(starts)]
    return Pieces(path, found, starts, ends, np.ones_like(starts))


def _line_starts(descriptor: int) -> tuple[NDArray[np.int64], int]:
    """Where the lines of a file begin, and where it ends."""
    found = [np.zeros(1, np.int64)]
    position = 0
    while block := os.pread(descriptor, _STEP, position):
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        found.append(ends + (position + 1))
        position += len(block)
    starts = np.concatenate(found)
    return starts[starts < position], position


def _of_lines(path: str, found: Format, lines: NDArray[np.int64]) -> Pieces:
    """Pieces of some lines each, of those whose numbers are given, ascending."""
    firsts = np.arange(0, len(lines), _HDF5_LINES)
    lasts = np.minimum(firsts + _HDF5_LINES, len(lines)) - 1
    return Pieces(path, found, lines[firsts], lines[lasts] + 1, lasts - firsts + 1)


def _of_ranges(path: str, found: Format, ranges: list[tuple[int, int, int]]) -> Pieces:
    columns = np.array(ranges, np.int64).reshape(-1, 3).T
    return Pieces(path, found, *columns)


def _open_piece(path: str, start: int, end: int) -> IO[bytes]:
    """What stands there, as a file at its beginning."""
    file = open(path, "rb")  # noqa: SIM115 - it is the caller's, or closed here
    file.seek(start)
    if end - start > _MOST_AT_ONCE:
        return file
    with file:
        return io.BytesIO(file.read(end - start))
