"""JSON lines of any size, compressed or not -> what is in them, from samples.

A small file is read whole. Of a large one the beginning, the end and some pieces
between are read: an entry takes nearly the same number of bytes everywhere, and the
number of the last line tells how many there are.
"""

import os
import re
from dataclasses import dataclass, replace

from bert_extract.errors import InputError
from bert_extract.formats import JSONL, Format
from bert_extract.inspecting.members import Unpacked, last_line_number, unpack
from bert_extract.inspecting.seeking import START_BYTES, find_backwards, read_at
from bert_extract.output.contents import Contents
from bert_extract.output.json_parser import JsonParser, linex_index_of
from bert_extract.output.record import Record

# What is read whole: bytes of the file, and of the text that a compressed one holds.
_SMALL_FILE = 32 << 20
_SMALL_COMPRESSED = 8 << 20
_COMPRESSED_HEAD = 2 << 20  # of a larger one
_SMALL_TEXT = 64 << 20
# The beginning, in which the first record is looked for, and how many are tried.
_HEAD_BYTES = 4 << 20
_MOST_TRIED = 100
# Pieces of a large file: one has several entries of BERT-Large with all its layers.
_NUM_SAMPLES = 24
_SAMPLE_BYTES = 1 << 20
# Whatever the spacing: in a JSON string a quote has a backslash before it.
_ENTRY = re.compile(rb'"token": ?"')
# The beginning of an entry that is not the first of its line.
_NEXT_ENTRY = re.compile(rb', ?\{"token": ?"')
_CUT_LINE = "its last line is cut off"


def contents_of_json(path: str, file_format: Format) -> Contents:
    """Looks into a file of JSON lines.

    Args:
      path: the file.
      file_format: JSONL, GZIP or ZSTANDARD.

    Raises:
      InputError: it holds no records.
      OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if file_format is JSONL:
            return _of_text(descriptor)
        return _of_members(descriptor, file_format)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------ plain text


def _of_text(descriptor: int) -> Contents:
    size = os.fstat(descriptor).st_size
    if size <= _SMALL_FILE:
        return _of_whole_text(read_at(descriptor, 0, size))
    head = read_at(descriptor, 0, _HEAD_BYTES)
    start, ends_well = _last_line(descriptor, size)
    last = None
    if start is not None:
        last = linex_index_of(read_at(descriptor, start, START_BYTES))
    samples = _samples(descriptor, size)
    contents = Contents(
        first=_first_record(head),
        num_tokens=samples.estimate_tokens(size),
        tokens_from="estimated",
        vector_dtype="six decimals",
        trouble="" if ends_well else _CUT_LINE,
    )
    # Where numbers begin anew, as in outputs that were put together, the last one tells
    # nothing.
    return _with_numbers(contents, head, last if samples.go_up(last) else None)


def _of_whole_text(text: bytes) -> Contents:
    """Counts what is in a text that is held in memory."""
    if not text:
        return Contents(
            num_lines=0, lines_from="counted", num_tokens=0, tokens_from="counted"
        )
    # A cut line holds no record.
    end = text.rfind(b"\n") + 1
    start = text.rfind(b"\n", 0, end - 1) + 1 if end else 0
    return Contents(
        first=_first_record(text[:_HEAD_BYTES]),
        num_lines=text.count(b"\n"),
        lines_from="counted",
        first_line=linex_index_of(text[:START_BYTES]),
        last_line=linex_index_of(text[start : start + START_BYTES]) if end else None,
        num_tokens=len(_ENTRY.findall(text, 0, end)),
        tokens_from="counted",
        vector_dtype="six decimals",
        trouble="" if end == len(text) else _CUT_LINE,
    )


def _with_numbers(contents: Contents, head: bytes, last: int | None) -> Contents:
    """Adds the lines, of which the numbers of the first and the last are known."""
    first = linex_index_of(head[:START_BYTES])
    if first is None or last is None or last < first:
        return replace(contents, first_line=first)
    return replace(
        contents,
        num_lines=last - first + 1,
        lines_from="numbers",
        first_line=first,
        last_line=last,
    )


def _first_record(head: bytes) -> Record:
    """Reads the first record with entries, or as much of it as is there.

    Raises:
      InputError: this is no record.
    """
    lines = head.split(b"\n", _MOST_TRIED)
    record: Record | None = None
    parser = JsonParser()
    for line in lines[:-1]:
        found = parser.parse(line)
        record = record if record is not None and not found.tokens else found
        if record.tokens:
            return record
    return record if record is not None else parser.parse(_mended(lines[0]))


def _mended(start: bytes) -> bytes:
    """Ends the beginning of a line behind its last whole entry, if it has one."""
    entries = [*_NEXT_ENTRY.finditer(start)]
    return start[: entries[-1].start()] + b"]}" if entries else start


def _last_line(descriptor: int, size: int) -> tuple[int | None, bool]:
    """Finds where the last whole line begins, and whether nothing is behind it.

    It is None where the line is too long to look for.
    """
    ends_well = read_at(descriptor, size - 1, 1) == b"\n"
    end: int | None = size - 1
    if not ends_well:
        end = find_backwards(descriptor, b"\n", size)
    start = None if end is None else find_backwards(descriptor, b"\n", end)
    return None if start is None else start + 1, ends_well


@dataclass(frozen=True, slots=True)
class _Samples:
    """What pieces of a file tell, from its beginning to its end."""

    num_bytes: int  # from the first entry of each piece to its last
    num_entries: int  # that stand in these
    line_numbers: list[int]  # of the lines that begin in the pieces

    def estimate_tokens(self, size: int) -> int | None:
        """The entries of a file of this size."""
        if not self.num_bytes:
            return None
        return round(size * self.num_entries / self.num_bytes)

    def go_up(self, last: int | None) -> bool:
        """Whether lines are numbered upwards to the last one."""
        numbers = self.line_numbers if last is None else [*self.line_numbers, last]
        return numbers == sorted(numbers)


def _samples(descriptor: int, size: int) -> _Samples:
    num_bytes = num_entries = 0
    line_numbers = []
    for number in range(_NUM_SAMPLES):
        start = (size - _SAMPLE_BYTES) * number // (_NUM_SAMPLES - 1)
        sample = read_at(descriptor, max(0, start), _SAMPLE_BYTES)
        places = [match.start() for match in _ENTRY.finditer(sample)]
        if len(places) > 1:
            num_bytes += places[-1] - places[0]
            num_entries += len(places) - 1
        newline = sample.find(b"\n")
        beginning = sample[newline + 1 : newline + 1 + START_BYTES]
        found = linex_index_of(beginning) if newline >= 0 else None
        line_numbers += [] if found is None else [found]
    return _Samples(num_bytes, num_entries, line_numbers)


# ------------------------------------------------------------------------- compressed


def _of_members(descriptor: int, file_format: Format) -> Contents:
    size = os.fstat(descriptor).st_size
    state = Unpacked()
    pieces: list[bytes] = []
    num_bytes = 0
    trouble = ""
    try:
        for text in unpack(descriptor, 0, file_format, state):
            pieces.append(text)
            num_bytes += len(text)
            if num_bytes >= _SMALL_TEXT or (
                state.end >= _COMPRESSED_HEAD and size > _SMALL_COMPRESSED
            ):
                break
    except OSError as error:
        trouble = str(error)
    head = b"".join(pieces)
    if trouble and not head:
        raise InputError(trouble)
    if state.ends_well or trouble:
        contents = _of_whole_text(head)
        return replace(contents, trouble=trouble or contents.trouble)
    last, ends_well = last_line_number(descriptor, size, file_format)
    contents = Contents(
        first=_first_record(head[:_HEAD_BYTES]),
        num_tokens=round(len(_ENTRY.findall(head)) * size / state.end),
        tokens_from="estimated",
        vector_dtype="six decimals",
        trouble="" if ends_well is not False else "it is cut off within a member",
    )
    return _with_numbers(contents, head, last)
