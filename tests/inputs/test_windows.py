"""Windows over a long text: none is missing, none twice, each where it sees most."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from bert_extract.inputs.windows import Window, slide
from bert_extract.tokenization.alignment import Wordpieces


def pieces(num_wordpieces: int, part_size: int = 7) -> Iterator[Wordpieces]:
    """Wordpiece 3 has id 3 and stands in the text from 30 to 35."""
    for start in range(0, num_wordpieces, part_size):
        ids = np.arange(start, min(start + part_size, num_wordpieces), dtype=np.int32)
        starts = 10 * ids.astype(np.int64)
        yield Wordpieces(ids, starts, starts + 5)


def bounds(window: Window) -> tuple[int, int]:
    """From which on to which wordpiece of the text it goes."""
    ids = window.wordpieces.ids.tolist()
    assert ids == [*range(ids[0], ids[0] + len(ids))]
    return ids[0], ids[-1] + 1


def taken(window: Window) -> list[int]:
    places: list[int] = window.wordpieces.part(*window.taken).ids.tolist()
    return places


def reference(num_wordpieces: int, room: int, stride: int) -> list[list[int]]:
    """What each window gives, by run_squad's rules taken one by one."""
    starts = [0]
    while starts[-1] + room < num_wordpieces:
        starts.append(starts[-1] + stride)
    spans = [(start, min(start + room, num_wordpieces)) for start in starts]
    given: list[list[int]] = [[] for _ in spans]
    for place in range(num_wordpieces):
        best, best_score = 0, -1.0
        for number, (start, end) in enumerate(spans):
            if start <= place < end:
                context = min(place - start, end - 1 - place)
                score = context + 0.01 * (end - start)
                if score > best_score:
                    best, best_score = number, score
        given[best].append(place)
    return given


def test_an_example_by_hand() -> None:
    windows = list(slide(pieces(10), room=6, stride=3))
    assert [bounds(window) for window in windows] == [(0, 6), (3, 9), (6, 10)]
    assert [taken(w) for w in windows] == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9]]
    assert [w.next_start for w in windows] == [50, 80, None]
    assert [(w.is_first, w.is_last) for w in windows] == [
        (True, False),
        (False, False),
        (False, True),
    ]


@pytest.mark.parametrize("num_wordpieces", [0, 1, 5, 6])
def test_a_text_that_fits_is_one_window(num_wordpieces: int) -> None:
    (window,) = slide(pieces(num_wordpieces), room=6, stride=3)
    assert window.is_first
    assert window.is_last
    assert window.next_start is None
    assert window.taken == (0, num_wordpieces) == (0, len(window.wordpieces))


@pytest.mark.parametrize("room", [1, 2, 3, 6, 7, 30])
def test_every_wordpiece_comes_from_the_window_where_it_has_most_context(
    room: int,
) -> None:
    for stride, num_wordpieces in itertools.product(range(1, room + 1), range(1, 75)):
        windows = list(slide(pieces(num_wordpieces), room, stride))
        found = [taken(window) for window in windows]
        assert found == reference(num_wordpieces, room, stride), (
            stride,
            num_wordpieces,
        )
        assert all(found)


def test_the_score_of_a_short_last_window_counts() -> None:
    """A hundredth of 300 wordpieces that it lacks outweighs two of context."""
    for num_wordpieces in (601, 603, 640, 700, 899):
        found = [taken(w) for w in slide(pieces(num_wordpieces, 64), 500, 300)]
        assert found == reference(num_wordpieces, 500, 300)


def test_a_stream_is_read_no_farther_than_two_windows_need() -> None:
    num_read = 0

    def stream() -> Iterator[Wordpieces]:
        nonlocal num_read
        for part in pieces(10**9, part_size=10):
            num_read += 10
            yield part

    windows = slide(stream(), room=100, stride=50)
    for number in range(20):
        next(windows)
        assert num_read <= 50 * number + 50 + 100 + 10
