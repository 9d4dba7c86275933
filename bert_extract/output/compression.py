"""Bytes <-> members of a compressed file, each of which can be read alone.

Every group of records becomes a gzip member or a Zstandard frame of its own, so that
where the file may be cut depends on nothing but the records.
"""

import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple

from bert_extract.formats import GZIP, ZSTANDARD, Format
from bert_extract.output.append_file import Buffer

# zlib's fastest: six decimals of a float hardly compress, and level 6 takes four
# times as long for 4 % less. A change of it changes the bytes of every output.
_GZIP_LEVEL = 1
# The same holds for Zstandard: level 3 takes twice as long for 2 % less.
_ZSTANDARD_LEVEL = 1
# Compressed bytes that are taken at once: rows of zeros are a thousand times longer
# than they look.
_STEP = 4096


def compressor_for(compression: Format) -> Callable[[Sequence[Buffer]], bytes]:
    """Makes what turns pieces into one member; serves any number of threads."""
    return {GZIP: _to_gzip_member, ZSTANDARD: _to_zstandard_frame}[compression]


def _to_gzip_member(pieces: Sequence[Buffer]) -> bytes:
    # zlib's own gzip header has no time and no name.
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])


def _to_zstandard_frame(pieces: Sequence[Buffer]) -> bytes:
    import zstandard  # only this format needs it

    compressor = zstandard.ZstdCompressor(_ZSTANDARD_LEVEL, write_checksum=True)
    stream = compressor.compressobj(size=sum(map(len, pieces)))
    return b"".join([*map(stream.compress, pieces), stream.flush()])


def library_version(compression: Format) -> str:
    """The library whose version decides which bytes come out."""
    if compression is GZIP:
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    import zstandard

    return f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}"


def reader_of(compression: Format) -> tuple[Callable[[], Any], type[Exception]]:
    """What makes a decompressor of one member, and what it raises."""
    if compression is GZIP:
        return (lambda: zlib.decompressobj(31)), zlib.error
    import zstandard

    return (lambda: zstandard.ZstdDecompressor().decompressobj()), zstandard.ZstdError


def scanner_for(compression: Format) -> Callable[[int, int], tuple[int, int]]:
    """Makes what finds the last whole member that ends a line.

    Returns:
      (descriptor, start) -> the byte behind that member, and the lines from `start`,
      where a member begins, up to there.
    """

    def scan(descriptor: int, start: int) -> tuple[int, int]:
        end, num_lines = start, 0
        try:
            for member in _to_line_ends(descriptor, start, compression):
                if member.ends_line:
                    end, num_lines = member.end, num_lines + member.num_lines
        except _BrokenMember:
            pass  # what stands before it is whole
        return end, num_lines

    return scan


def find_members(
    descriptor: int, compression: Format
) -> Iterator[tuple[int, int, int]]:
    """Finds what can be read by itself; the whole file is decompressed for it.

    Yields:
      Of each member, or of several that end a line together: the byte that it begins
      with, the one behind it, and its lines.

    Raises:
      OSError: it is cut off or broken.
    """
    for member in _to_line_ends(descriptor, 0, compression):
        # The last line of a text may lack its end.
        num_lines = member.num_lines + (not member.ends_line)
        yield member.start, member.end, num_lines


class _BrokenMember(OSError):
    """A member that is cut off, or none."""


class _ToLineEnd(NamedTuple):
    """A member, or several that end a line together."""

    start: int
    end: int
    num_lines: int  # that end in it
    ends_line: bool  # only the last of a file may not


def _to_line_ends(
    descriptor: int, start: int, compression: Format
) -> Iterator[_ToLineEnd]:
    """Decompresses a file from a byte on, where a member begins.

    Raises:
      _BrokenMember: what follows is cut off or broken.
    """
    new_decompressor, failure = reader_of(compression)
    position = start
    num_lines = 0
    last_byte = b"\n"  # a member of no lines is whole
    decompressor = new_decompressor()
    is_within_member = False
    while block := os.pread(descriptor, _STEP, position):
        try:
            text = decompressor.decompress(block)
        except failure as error:
            raise _BrokenMember(str(error)) from error
        num_lines += text.count(b"\n")
        last_byte = text[-1:] or last_byte
        position += len(block)
        is_within_member = not decompressor.eof
        if decompressor.eof:
            position -= len(decompressor.unused_data)
            decompressor = new_decompressor()
            if last_byte == b"\n":
                yield _ToLineEnd(start, position, num_lines, True)
                start, num_lines = position, 0
    if is_within_member:
        raise _BrokenMember("it is cut off within a member")
    if last_byte != b"\n":
        yield _ToLineEnd(start, position, num_lines, False)


def open_members(file: IO[bytes], compression: Format) -> IO[bytes]:
    """Opens a compressed file for reading.

    Args:
      file: at its beginning.
      compression: GZIP or ZSTANDARD.

    Returns:
      What stands in its members. Reading raises an OSError where it is cut off or
      broken.
    """
    return io.BufferedReader(_Members(file, compression))


class _Members(io.RawIOBase):
    def __init__(self, file: IO[bytes], compression: Format) -> None:
        self._file = file
        self._new_decompressor, self._failure = reader_of(compression)
        self._decompressor = self._new_decompressor()
        self._is_within_member = False
        self._compressed = b""
        self._text = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._text:
            self._compressed = self._compressed or self._file.read(_STEP)
            if not self._compressed:
                if self._is_within_member:
                    raise OSError("it is cut off within a member")
                return 0
            self._decompress()
        taken = self._text[: len(buffer)]
        buffer[: len(taken)] = taken
        self._text = self._text[len(taken) :]
        return len(taken)

    def _decompress(self) -> None:
        try:
            self._text = self._decompressor.decompress(self._compressed)
        except self._failure as error:
            raise OSError(str(error)) from error
        self._is_within_member = not self._decompressor.eof
        self._compressed = b""
        if self._decompressor.eof:
            self._compressed = self._decompressor.unused_data
            self._decompressor = self._new_decompressor()
