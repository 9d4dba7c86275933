"""Items that come now and then: their order, their pauses, and nobody left behind."""

import itertools
import queue
import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from bert_extract.inputs import arrivals
from bert_extract.inputs.arrivals import Arrivals

# Far longer than anything here takes: a deadlock must fail, not hang.
TIMEOUT = 20.0
SHORT, LONG = 0.05, 1000.0


class Broken(Exception):
    pass


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + TIMEOUT
    while not set(threading.enumerate()) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Slow:
    """A source that gives what it is told to, and ends with None."""

    def __init__(self) -> None:
        self.given: queue.Queue[int | None] = queue.Queue()

    def __iter__(self) -> Iterator[int]:
        while (item := self.given.get(timeout=TIMEOUT)) is not None:
            yield item


def arriving(items: Iterable[int], patience: float) -> Arrivals[int]:
    return Arrivals(items, patience, int.bit_length)


def test_a_source_that_is_there_has_no_pauses() -> None:
    numbers = range(10 * arrivals._MAX_AHEAD)
    assert list(arriving(numbers, LONG)) == [*numbers]
    assert list(arriving([], LONG)) == []


def test_there_is_one_pause_behind_what_came() -> None:
    slow = Slow()
    slow.given.put(1)
    slow.given.put(2)
    found = iter(arriving(slow, SHORT))
    assert [next(found), next(found), next(found)] == [1, 2, None]
    # And none before something has come again.
    threading.Timer(4 * SHORT, slow.given.put, (3,)).start()
    assert [next(found), next(found)] == [3, None]
    slow.given.put(None)
    assert list(found) == []


def test_a_trickle_has_pauses_too() -> None:
    """What waits does not wait longer because something comes now and then."""

    def trickle() -> Iterator[int]:
        for number in range(30):
            time.sleep(SHORT / 3)
            yield number

    found = list(arriving(trickle(), SHORT))
    assert [number for number in found if number is not None] == [*range(30)]
    assert found.count(None) >= 5
    assert (None, None) not in itertools.pairwise(found)


def test_an_error_comes_after_what_came_before() -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise Broken

    found = iter(arriving(broken(), LONG))
    assert [next(found), next(found), next(found)] == [0, 1, 2]
    with pytest.raises(Broken):
        next(found)


@pytest.mark.parametrize(
    ("size", "num_ahead"),
    [(1, arrivals._MAX_AHEAD), (arrivals._MAX_SIZE_AHEAD // 2, 2), (1 << 60, 1)],
)
def test_little_is_read_ahead(size: int, num_ahead: int) -> None:
    num_read = 0

    def endless() -> Iterator[int]:
        nonlocal num_read
        while True:
            num_read += 1
            yield num_read

    source = Arrivals(endless(), LONG, lambda item: size)
    found = iter(source)
    for number in range(1, 1000):
        assert next(found) == number
        assert num_read <= number + num_ahead
    source.close()
    assert list(found) == []


def test_closing_ends_a_wait() -> None:
    slow = Slow()
    slow.given.put(1)
    source = arriving(slow, LONG)
    found = iter(source)
    assert next(found) == 1
    threading.Timer(SHORT, source.close).start()
    assert list(found) == []
    slow.given.put(None)  # its thread was waiting for that
