"""A long text's wordpieces -> windows that slide over them, as run_squad's do.

    room 6, stride 3      w0 w1 w2 w3 w4 w5
                                   w3 w4 w5 w6 w7 w8
                                            w6 w7 w8 w9
    taken from            w0 w1 w2 w3 w4|w5 w6 w7|w8 w9

Each wordpiece is taken from the window in which it has the most context. Only what two
windows need is held, so a text may be of any length.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_extract.tokenization.alignment import Wordpieces


@dataclass(frozen=True, slots=True)
class Window:
    """What the model sees of a text at once, and what is taken of it."""

    wordpieces: Wordpieces
    taken: tuple[int, int]  # from which on to which of them
    next_start: int | None  # where the wordpiece behind the last one taken begins
    is_first: bool
    is_last: bool


def slide(parts: Iterable[Wordpieces], room: int, stride: int) -> Iterator[Window]:
    """Cuts a text into windows.

    Args:
      parts: the text's wordpieces, in order.
      room: the most wordpieces of a window.
      stride: from the start of one window to that of the next, at most `room`.

    Yields:
      One window if the text fits, or has no wordpiece; else as many as it takes, of
      which only the last may have fewer than `room` wordpieces.
    """
    ahead = _Ahead(parts)
    start = taken = 0
    is_last = False
    while not is_last:
        num_known = ahead.read(start + stride + room + 1)
        end = min(start + room, num_known)
        is_last = end == num_known
        next_start = start + stride
        until = end
        if not is_last:
            next_end = min(next_start + room, num_known)
            until = _more_context_from((start, end), (next_start, next_end))
        yield Window(
            wordpieces=ahead.part(start, end),
            taken=(taken - start, until - start),
            next_start=None if is_last else ahead.start_of(until),
            is_first=start == 0,
            is_last=is_last,
        )
        start, taken = next_start, until


def _more_context_from(window: tuple[int, int], later: tuple[int, int]) -> int:
    """The first wordpiece that has more context in the later of two windows.

    The score is that of the original's `_check_is_max_context`: what stands on the
    side where less stands, and a hundredth of the window's length.
    """
    positions = np.arange(later[0], window[1])
    is_better = _scores(positions, *later) > _scores(positions, *window)
    return window[1] - int(np.count_nonzero(is_better))


def _scores(positions: NDArray[np.int64], start: int, end: int) -> NDArray[np.float64]:
    context = np.minimum(positions - start, end - 1 - positions)
    return context + 0.01 * (end - start)


class _Ahead:
    """A stream of wordpieces, of which those from some position on are held."""

    def __init__(self, parts: Iterable[Wordpieces]) -> None:
        self._parts = iter(parts)
        self._held = Wordpieces(np.empty(0, np.int32))
        self._start = 0  # the position of the first one held

    def read(self, num_wordpieces: int) -> int:
        """Reads on; returns how many are known, less than asked for only at the end."""
        new = [self._held] if len(self._held) else []
        num_known = self._start + len(self._held)
        while num_known < num_wordpieces:
            part = next(self._parts, None)
            if part is None:
                break
            new.append(part)
            num_known += len(part)
        if len(new) > 1 or not len(self._held):
            self._held = joined(new)
        return num_known

    def part(self, start: int, end: int) -> Wordpieces:
        """Those from `start` on; what stands before is not needed any more."""
        self._held = self._held.part(start - self._start)
        self._start = start
        return self._held.part(0, end - start)

    def start_of(self, position: int) -> int | None:
        """Where one of them begins in the text; None if nobody asks."""
        starts = self._held.starts
        return None if starts is None else int(starts[position - self._start])


def joined(parts: Sequence[Wordpieces]) -> Wordpieces:
    """Puts consecutive parts together."""
    if len(parts) == 1:
        return parts[0]
    starts = [part.starts for part in parts if part.starts is not None]
    ends = [part.ends for part in parts if part.ends is not None]
    return Wordpieces(
        np.concatenate([np.empty(0, np.int32), *(part.ids for part in parts)]),
        np.concatenate(starts) if starts else None,
        np.concatenate(ends) if ends else None,
    )
