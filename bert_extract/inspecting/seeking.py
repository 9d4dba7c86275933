"""A large file -> a place in it, and what stands there, without the rest."""

import os

BLOCK_BYTES = 1 << 20
# How far from where a search starts backwards it is given up.
MOST_BACKWARDS = 256 << 20
# Of a line: enough for its linex_index.
START_BYTES = 64


def read_at(descriptor: int, start: int, num_bytes: int) -> bytes:
    """Reads so many bytes, or what there is of them.

    Raises:
      OSError: the system cannot read.
    """
    pieces = []
    while num_bytes > 0 and (piece := os.pread(descriptor, num_bytes, start)):
        pieces.append(piece)
        start += len(piece)
        num_bytes -= len(piece)
    return b"".join(pieces)


def find_forwards(descriptor: int, wanted: bytes, start: int, end: int) -> int | None:
    """Finds the first place from `start` on, before `end`, where bytes stand."""
    overlap = len(wanted) - 1
    while start < end:
        block = read_at(descriptor, start, min(BLOCK_BYTES, end - start) + overlap)
        place = block.find(wanted)
        if place >= 0:
            return start + place
        start += BLOCK_BYTES
    return None


def find_backwards(descriptor: int, wanted: bytes, end: int) -> int | None:
    """Finds the last place before `end` where bytes stand.

    Returns:
      The place; -1 if there is none; None if there is none near enough to look for it.
    """
    overlap = len(wanted) - 1
    lowest = max(0, end - MOST_BACKWARDS)
    while end > lowest:
        start = max(lowest, end - BLOCK_BYTES)
        place = read_at(descriptor, start, end - start + overlap).rfind(wanted)
        if place >= 0:
            return start + place
        end = start
    return None if lowest else -1
