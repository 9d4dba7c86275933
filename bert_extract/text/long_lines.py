"""The bytes of a long line -> its texts, which are decoded where they are looked at.

A str takes up to four bytes for each of its characters, so that one emoji makes a line
of ASCII four times as long. A line of megabytes stays what it is, UTF-8, and blocks of
it become text when they are needed. CRs are dropped then, as everywhere.
"""

import bisect
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Bytes that are decoded at once, about.
_BLOCK_SIZE = 1 << 16
# A sequence of UTF-8 has at most so many bytes behind its first one.
_MAX_CONTINUATION = 3


class LongLine:
    """A line of UTF-8 and an index of its blocks.

    A position, here, counts the line's characters without its CRs.

    Attributes:
      start: the position of the first character that is not whitespace.
      end: the position behind the last one.
      has_carriage_return: whether the line has a CR anywhere.
    """

    def __init__(self, line: bytes, errors: str) -> None:
        """Decodes the line once, block by block, and keeps nothing of it.

        Args:
          line: its bytes.
          errors: what to do with bytes that are not UTF-8, as Python names it.

        Raises:
          UnicodeDecodeError: errors is "strict" and the line is not UTF-8; `start` is
            the byte of the line.
        """
        self._line = line
        self._errors = errors
        self._bounds = list(_block_bounds(line))  # bytes
        self._positions = [0]  # at each bound
        self._num_returns = [0]  # CRs before each bound
        self.start = self.end = 0
        for block in range(len(self._bounds) - 1):
            decoded = self._decode(block)
            text = decoded.replace("\r", "")
            position = self._positions[-1]
            if not self.end:
                self.start = position + len(text) - len(text.lstrip())
            stripped = text.rstrip()
            if stripped:
                self.end = position + len(stripped)
            self._positions.append(position + len(text))
            self._num_returns.append(self._num_returns[-1] + len(decoded) - len(text))
        self.start = min(self.start, self.end)  # a blank line has no such character
        self.has_carriage_return = self._num_returns[-1] > 0
        self._found: tuple[int, NDArray[np.int64]] | None = None

    def pieces(self, start: int, end: int) -> Iterator[str]:
        """Yields the characters from one position to another, a block at a time."""
        block = self._block_of(start)
        while start < end:
            first = self._positions[block]
            text = self._decode(block).replace("\r", "")[start - first : end - first]
            if text:
                yield text
            start += len(text)
            block += 1

    def rfind(self, wanted: str, start: int, end: int) -> int:
        """Finds the last place of a text between two positions; -1 if there is none."""
        following = ""  # as much as may belong to what starts in the block before
        block = self._block_of(end - 1) if end > start else -1
        while block >= 0 and self._positions[block + 1] > start:
            first = max(start, self._positions[block])
            stop = min(end, self._positions[block + 1])
            text = "".join(self.pieces(first, stop)) + following
            place = text.rfind(wanted)
            if place >= 0:
                return first + place
            following = text[: len(wanted) - 1]
            block -= 1
        return -1

    def count_before(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many CRs stand before the characters at some positions: int64."""
        blocks = np.searchsorted(self._positions, positions, side="right") - 1
        counts = np.empty(len(positions), np.int64)
        for block in np.unique(blocks).tolist():
            is_here = blocks == block
            counts[is_here] = self._num_returns[block] + np.searchsorted(
                self._returns_in(block),
                positions[is_here] - self._positions[block],
                side="right",
            )
        return counts

    def _block_of(self, position: int) -> int:
        return bisect.bisect_right(self._positions, position) - 1

    def _returns_in(self, block: int) -> NDArray[np.int64]:
        """For each CR of a block, how many of its characters stand before."""
        if self._found is None or self._found[0] != block:
            self._found = block, others_before_returns(self._decode(block))
        return self._found[1]

    def _decode(self, block: int) -> str:
        start, end = self._bounds[block : block + 2]
        try:
            return self._line[start:end].decode("utf-8", self._errors)
        except UnicodeDecodeError:
            return self._decode_with_what_follows(start, end)

    def _decode_with_what_follows(self, start: int, end: int) -> str:
        """Fails as decoding the whole line does: the reason may lie behind a block."""
        try:
            return self._line[start : end + _MAX_CONTINUATION + 1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnicodeDecodeError(
                error.encoding,
                self._line,
                start + error.start,
                start + error.end,
                error.reason,
            ) from None


class LongText:
    """A text of a long line, as much of a str as those need who read it in parts."""

    def __init__(self, line: LongLine, start: int, end: int) -> None:
        self._line = line
        self._start = start
        self._end = end

    def __len__(self) -> int:
        return self._end - self._start

    def __getitem__(self, characters: slice) -> str:
        start, end, step = characters.indices(len(self))
        assert step == 1  # nobody needs another
        return "".join(self._line.pieces(self._start + start, self._start + end))

    def __contains__(self, wanted: str) -> bool:
        return self._line.rfind(wanted, self._start, self._end) >= 0

    def __str__(self) -> str:
        return self[:]

    def pieces(self, start: int = 0) -> Iterator[str]:
        """Yields the characters from some position on, some at a time."""
        return self._line.pieces(self._start + start, self._end)


# What a line's text may be.
Text = str | LongText


def others_before_returns(text: str) -> NDArray[np.int64]:
    r"""For each CR of a text, how many other characters stand before it.

    "\ra\r\rb" -> [0, 1, 1]
    """
    places: list[int] = []
    place = text.find("\r")
    while place >= 0:
        places.append(place)
        place = text.find("\r", place + 1)
    return np.array(places, np.int64) - np.arange(len(places))


def _block_bounds(line: bytes) -> Iterator[int]:
    """Cuts a line where no sequence of UTF-8 goes on, however broken it is."""
    bound = 0
    while bound < len(line):
        yield bound
        following = bound + _BLOCK_SIZE
        earliest = following - _MAX_CONTINUATION
        for start in range(following, max(earliest - 1, bound), -1):
            # What is no continuation byte begins something new.
            if start < len(line) and line[start] & 0xC0 != 0x80:
                following = start
                break
        bound = following
    yield len(line)
