"""A line's number -> its record, without reading what stands before it."""

import os
from typing import IO

from bert_extract.errors import InputError
from bert_extract.formats import JSONL, Format, check_installed
from bert_extract.inspecting.members import member_before
from bert_extract.inspecting.seeking import START_BYTES, find_forwards
from bert_extract.output.compression import open_members
from bert_extract.output.json_parser import JsonParser, linex_index_of
from bert_extract.output.reading import format_of_content, read_features
from bert_extract.output.record import Record
from bert_extract.output.selection import Layers, make_selection

_MISSING = "expected the record of line {:,}, found none of this number"


def read_line(
    path: str | os.PathLike[str], line: int, *, layers: Layers | None = None
) -> Record:
    """Reads one record.

    It is looked for as in a dictionary, since the numbers of lines go up; also in what
    `bert-extract` compressed, which was done in groups of lines.

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
            file_format = format_of_content(file.read(8)) or JSONL
            if file_format is JSONL:
                file.seek(_find(file.fileno(), line))
                return JsonParser(selection).parse(file.readline())
            if file_format.is_json:
                check_installed(file_format, InputError, path)
                return JsonParser(selection).parse(_unpack(file, line, file_format))
    except _NoOrderError:
        pass  # it is read from the beginning
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read: {reason}") from error
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
        found = linex_index_of(os.pread(descriptor, START_BYTES, start))
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
    newline = find_forwards(descriptor, b"\n", start - 1, end - 1)
    return None if newline is None else newline + 1


def _unpack(file: IO[bytes], line: int, file_format: Format) -> bytes:
    """Finds a line in a compressed file.

    Raises:
      InputError: there is no such line.
      OSError: the file is broken before it.
      _NoOrderError: nobody can tell.
    """
    file.seek(0)
    if linex_index_of(open_members(file, file_format).read(START_BYTES)) is None:
        raise _NoOrderError
    file.seek(member_before(file.fileno(), line, file_format))
    for text in open_members(file, file_format):
        found = linex_index_of(text)  # None of the end of one that began before
        if found == line:
            return text
        if found is not None and found > line:
            break
    raise InputError(_MISSING.format(line))
