"""A line's number -> its record, without reading what stands before it."""

import os

from bert_extract.errors import InputError
from bert_extract.formats import JSONL
from bert_extract.output.json_parser import JsonParser, linex_index_of
from bert_extract.output.reading import format_of_content, read_features
from bert_extract.output.record import Record
from bert_extract.output.selection import Layers, make_selection

_BLOCK_BYTES = 1 << 20
_START_BYTES = 64  # of a line: enough for its linex_index
_MISSING = "expected the record of line {:,}, found none of this number"


def read_line(
    path: str | os.PathLike[str], line: int, *, layers: Layers | None = None
) -> Record:
    """Reads one record.

    In JSON lines that are not compressed it is looked for as in a dictionary, since
    their numbers go up; a compressed file is read up to it.

    Args:
      path: see `read_features`.
      line: its number, the record's linex_index.
      layers: see `read_features`.

    Raises:
      InputError: there is no such line, or the file cannot be read.
    """
    path = os.fspath(path)
    selection = make_selection(layers, range(line, line + 1))
    try:
        with open(path, "rb") as file:
            if (format_of_content(file.read(8)) or JSONL) is JSONL:
                start = _find(file.fileno(), line)
                file.seek(start)
                return JsonParser(selection).parse(file.readline())
    except _NoOrderError:
        pass  # it is read from the beginning
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for record in read_features(path, layers=layers, lines=selection.lines):
        return record
    raise InputError(f"{path}: {_MISSING.format(line)}")


class _NoOrderError(Exception):
    """The lines do not say their numbers as ours do."""


def _find(descriptor: int, line: int) -> int:
    """Finds where a line begins, as lines stand in the order of their numbers.

    Raises:
      InputError: there is no such line.
      _NoOrderError: nobody can tell.
    """
    # The line begins at `low`, or behind it and not behind `high`.
    low, high = 0, os.fstat(descriptor).st_size
    while low < high:
        middle = (low + high) // 2
        start = low if middle == low else _next_line(descriptor, middle, high)
        if start is None:  # one line goes on from the middle to the end
            high = middle
            continue
        found = linex_index_of(os.pread(descriptor, _START_BYTES, start))
        if found is None:
            raise _NoOrderError
        if found == line:
            return start
        if found < line:
            following = _next_line(descriptor, start + 1, high)
            low = high if following is None else following
        else:
            high = middle
    raise InputError(_MISSING.format(line))


def _next_line(descriptor: int, start: int, end: int) -> int | None:
    """Finds the first line that begins at `start` or later, and before `end`."""
    position = start - 1  # where the newline before it may stand
    while position < end:
        block = os.pread(descriptor, _BLOCK_BYTES, position)
        if not block:
            return None
        place = block.find(b"\n")
        if place >= 0:
            found = position + place + 1
            return found if found < end else None
        position += len(block)
    return None
