"""JSON lines of any size, compressed or not -> what is in them, from samples.

A small file is read whole. Of a large one the beginning, the end and some pieces
between are read: an entry takes nearly the same number of bytes everywhere, and the
number of the last line tells how many there are.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bert_extract.errors import InputError
from bert_extract.formats import GZIP, JSONL, ZSTANDARD, Format
from bert_extract.output.compression import reader_of
from bert_extract.output.contents import Contents
from bert_extract.output.json_parser import JsonParser, linex_index_of
from bert_extract.output.record import Record

# What is read whole: bytes of the file, and of the text that a compressed one holds.
_SMALL_FILE = 32 << 20
_SMALL_COMPRESSED = 8 << 20
_COMPRESSED_HEAD = 2 << 20  # of a larger one
_SMALL_TEXT = 64 << 20
# Little at once: rows of zeros are a thousand times longer than they look.
_READ_BYTES = 1 << 16
# The beginning, in which the first record is looked for, and how many are tried.
_HEAD_BYTES = 4 << 20
_MOST_TRIED = 100
# Pieces of a large file: one has several entries of BERT-Large with all its layers.
_NUM_SAMPLES = 24
_SAMPLE_BYTES = 1 << 20
# How far from the end the beginning of the last line, or member, is looked for.
_TAIL_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20
# Whatever the spacing: in a JSON string a quote has a backslash before it.
_ENTRY = re.compile(rb'"token": ?"')
# The beginning of an entry that is not the first of its line.
_NEXT_ENTRY = re.compile(rb', ?\{"token": ?"')
_START_BYTES = 64  # of a line: enough for its linex_index
# How the members of our files begin: zlib writes no name and no time.
_MAGIC = {
    GZIP: b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\x03",
    ZSTANDARD: b"\x28\xb5\x2f\xfd",
}
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
        return _of_whole_text(_read(descriptor, 0, size))
    head = _read(descriptor, 0, _HEAD_BYTES)
    start, ends_well = _last_line(descriptor, size)
    last = linex_index_of(_read(descriptor, start, _START_BYTES))
    return _with_numbers(
        Contents(
            first=_first_record(head),
            num_tokens=_estimate_tokens(descriptor, size),
            tokens_from="estimated",
            vector_dtype="six decimals",
            trouble="" if ends_well else _CUT_LINE,
        ),
        head,
        last,
    )


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
        first_line=linex_index_of(text[:_START_BYTES]),
        last_line=linex_index_of(text[start : start + _START_BYTES]) if end else None,
        num_tokens=len(_ENTRY.findall(text, 0, end)),
        tokens_from="counted",
        vector_dtype="six decimals",
        trouble="" if end == len(text) else _CUT_LINE,
    )


def _with_numbers(contents: Contents, head: bytes, last: int | None) -> Contents:
    """Adds the lines, of which the numbers of the first and the last are known."""
    first = linex_index_of(head[:_START_BYTES])
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


def _last_line(descriptor: int, size: int) -> tuple[int, bool]:
    """Finds where the last whole line begins, and whether nothing is behind it."""
    ends_well = _read(descriptor, size - 1, 1) == b"\n"
    end = size - 1
    if not ends_well:
        end = _find_backwards(descriptor, b"\n", size)
    return _find_backwards(descriptor, b"\n", end) + 1, ends_well


def _find_backwards(descriptor: int, wanted: bytes, end: int) -> int:
    """Finds the last place before `end` where `wanted` stands; -1 if there is none."""
    overlap = len(wanted) - 1
    lowest = max(0, end - _TAIL_BYTES)
    while end > lowest:
        start = max(lowest, end - _BLOCK_BYTES)
        place = _read(descriptor, start, end - start + overlap).rfind(wanted)
        if place >= 0:
            return start + place
        end = start
    return -1


def _estimate_tokens(descriptor: int, size: int) -> int | None:
    """Estimates the entries of a file from the bytes between entries here and there."""
    num_bytes = num_entries = 0
    for number in range(_NUM_SAMPLES):
        start = (size - _SAMPLE_BYTES) * number // (_NUM_SAMPLES - 1)
        places = [
            match.start()
            for match in _ENTRY.finditer(_read(descriptor, start, _SAMPLE_BYTES))
        ]
        if len(places) > 1:
            num_bytes += places[-1] - places[0]
            num_entries += len(places) - 1
    return round(size * num_entries / num_bytes) if num_bytes else None


def _read(descriptor: int, start: int, num_bytes: int) -> bytes:
    pieces = []
    while num_bytes > 0 and (piece := os.pread(descriptor, num_bytes, start)):
        pieces.append(piece)
        start += len(piece)
        num_bytes -= len(piece)
    return b"".join(pieces)


# ------------------------------------------------------------------------- compressed


@dataclass
class _Unpacked:
    """What the members from some place on hold, so far."""

    end: int = 0  # the byte of the file behind what was unpacked
    ends_well: bool = False  # the file ends where a member does


def _of_members(descriptor: int, file_format: Format) -> Contents:
    size = os.fstat(descriptor).st_size
    state = _Unpacked()
    pieces: list[bytes] = []
    num_bytes = 0
    trouble = ""
    try:
        for text in _unpack(descriptor, 0, file_format, state):
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
    last, ends_well = _last_member(descriptor, size, file_format)
    contents = Contents(
        first=_first_record(head[:_HEAD_BYTES]),
        num_tokens=round(len(_ENTRY.findall(head)) * size / state.end),
        tokens_from="estimated",
        vector_dtype="six decimals",
        trouble="" if ends_well is not False else "it is cut off within a member",
    )
    return _with_numbers(contents, head, last)


def _unpack(
    descriptor: int, start: int, file_format: Format, state: _Unpacked
) -> Iterator[bytes]:
    """Yields the text of the members from a byte on, where one begins.

    Raises:
      OSError: they are broken, or cut off.
    """
    new_decompressor, failure = reader_of(file_format)
    decompressor = new_decompressor()
    is_within = False
    position = start
    while block := os.pread(descriptor, _READ_BYTES, position):
        position += len(block)
        while block:
            try:
                text = decompressor.decompress(block)
            except failure as error:
                raise OSError(f"it is broken at byte {position:,}: {error}") from error
            block, is_within = b"", not decompressor.eof
            if decompressor.eof:
                block = decompressor.unused_data
                decompressor = new_decompressor()
            state.end = position - len(block)
            yield text
    if is_within:
        raise OSError("it is cut off within a member")
    state.ends_well = True


def _last_member(
    descriptor: int, size: int, file_format: Format
) -> tuple[int | None, bool | None]:
    """Looks for the last line, without what comes before its member.

    Returns:
      The line's number, and whether the file ends where a member does; None for what
      cannot be told.
    """
    end = size
    while (start := _find_backwards(descriptor, _MAGIC[file_format], end)) >= 0:
        found, is_member, ends_well = _lines_from(descriptor, start, file_format)
        # The bytes of a beginning may stand anywhere.
        if is_member and (found is not None or not ends_well):
            return found, ends_well
        end = start
    return None, None


def _lines_from(
    descriptor: int, start: int, file_format: Format
) -> tuple[int | None, bool, bool]:
    """Reads the members from a byte on.

    Returns:
      The number of the last line that begins there, if one does; whether a member
      begins there; whether the file ends where a member does.
    """
    state = _Unpacked()
    line = b""
    found: int | None = None
    is_member = False
    try:
        for text in _unpack(descriptor, start, file_format, state):
            is_member = is_member or bool(text)
            *whole, rest = text.split(b"\n")
            for piece in whole:
                number = linex_index_of((line + piece[:_START_BYTES])[:_START_BYTES])
                found, line = (found if number is None else number), b""
            line = (line + rest[:_START_BYTES])[:_START_BYTES]
    except OSError:
        return found, is_member, False
    return found, is_member, True
