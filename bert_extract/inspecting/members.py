"""A large compressed file -> its members: the last line, or one with some number.

What `bert-extract` writes is compressed in groups of lines, each of which can be read
alone. They are found by how they begin, and known by what is unpacked of them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from bert_extract.formats import GZIP, ZSTANDARD, Format
from bert_extract.inspecting.seeking import (
    START_BYTES,
    find_backwards,
    find_forwards,
)
from bert_extract.output.compression import reader_of
from bert_extract.output.json_parser import linex_index_of

# How the members of our files begin: zlib writes no name and no time.
_MAGIC = {
    GZIP: b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\x03",
    ZSTANDARD: b"\x28\xb5\x2f\xfd",
}
# Little at once: rows of zeros are a thousand times longer than they look.
_READ_BYTES = 1 << 16
# What is unpacked to find where the next line begins: a line may have many members.
_MOST_TEXT = 256 << 20
# A line that is so near, in bytes of the file, is looked for line by line.
_NEAR_BYTES = 4 << 20


@dataclass
class Unpacked:
    """How far a file is unpacked."""

    end: int = 0  # the byte of the file behind what was unpacked
    ends_well: bool = False  # the file ends where a member does


def unpack(
    descriptor: int, start: int, file_format: Format, state: Unpacked
) -> Iterator[bytes]:
    """Yields the text of the members from a byte on, where one begins.

    Args:
      descriptor: the file.
      start: the byte.
      file_format: GZIP or ZSTANDARD.
      state: tells how far it is.

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


def last_line_number(
    descriptor: int, size: int, file_format: Format
) -> tuple[int | None, bool | None]:
    """Looks for the last line, without what comes before its member.

    Returns:
      The line's number, and whether the file ends where a member does; None for what
      cannot be told.
    """
    end = size
    while True:
        start = find_backwards(descriptor, _MAGIC[file_format], end)
        if start is None or start < 0:
            return None, None
        state = Unpacked()
        found: int | None = None
        is_member = False
        try:
            for text, numbers in _numbered(descriptor, start, file_format, state):
                is_member = is_member or bool(text)
                found = numbers[-1] if numbers else found
        except OSError:
            pass  # it is no member, or the last one is cut off
        # The bytes of a beginning may stand anywhere.
        if is_member and (found is not None or not state.ends_well):
            return found, state.ends_well
        end = start


def member_before(descriptor: int, line: int, file_format: Format) -> int:
    """Finds a member that does not begin behind a line, and near it.

    Args:
      descriptor: a file whose lines stand in the order of their numbers.
      line: the line's number.
      file_format: GZIP or ZSTANDARD.

    Returns:
      Where it begins; the beginning of the file if nothing better can be told.
    """
    # The line begins in the member at `low`, or behind that and before `high`.
    low, high = 0, os.fstat(descriptor).st_size
    while high - low > _NEAR_BYTES:
        middle = (low + high) // 2
        start, number = _next_member(descriptor, middle, high, file_format)
        if start is not None and number is not None and number <= line:
            low = start
        else:
            high = middle
    return low


def _next_member(
    descriptor: int, start: int, end: int, file_format: Format
) -> tuple[int | None, int | None]:
    """Finds the first member from a byte on, and the first line that begins from it."""
    while True:
        found = find_forwards(descriptor, _MAGIC[file_format], start, end)
        if found is None:
            return None, None
        num_bytes = 0
        try:
            for text, numbers in _numbered(descriptor, found, file_format, Unpacked()):
                num_bytes += len(text)
                if numbers:
                    return found, numbers[0]
                if num_bytes > _MOST_TEXT:
                    break
        except OSError:
            pass  # the bytes of a beginning may stand anywhere
        start = found + 1


def _numbered(
    descriptor: int, start: int, file_format: Format, state: Unpacked
) -> Iterator[tuple[bytes, list[int]]]:
    """Yields text, with the numbers of the lines that begin in it."""
    line = b""  # the beginning of the line that is being unpacked
    for text in unpack(descriptor, start, file_format, state):
        pieces = text.split(b"\n")
        numbers = []
        for count, piece in enumerate(pieces):
            line = b"" if count else line
            if len(line) < START_BYTES:
                line = (line + piece[:START_BYTES])[:START_BYTES]
                found = linex_index_of(line)
                numbers += [] if found is None else [found]
        yield text, numbers
