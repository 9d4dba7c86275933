"""The threads: order, bounds, errors in the right place, and nobody left behind."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from bert_extract.pipeline import FULL_RUN, EncodedGroup, Pipeline, _Stretch

# Far longer than anything here takes: a deadlock must fail, not hang.
PATIENCE = 20.0
NUM_STRETCHES = 5


class Broken(Exception):
    pass


def plan_longest_first(stretch: Sequence[int]) -> list[list[int]]:
    """Batches of three lines, the last lines of the stretch first."""
    places = list(range(len(stretch)))[::-1]
    return [places[i : i + 3] for i in range(0, len(places), 3)]


def double(thread: int, lines: Sequence[int]) -> list[int]:
    return [2 * line for line in lines]


def pair_up(lines: Sequence[int], outputs: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(lines, outputs, strict=True))


def make_pipeline(
    *,
    plan: Callable[..., Any] = plan_longest_first,
    compute: Callable[..., Any] = double,
    encode: Callable[..., Any] = pair_up,
    num_compute_threads: int = 2,
    num_encode_threads: int = 0,
    weigh: Callable[[Sequence[int]], float] = lambda group: FULL_RUN,
) -> Pipeline[int, int, Any]:
    return Pipeline(
        plan=plan,
        compute=compute,
        encode=encode,
        num_compute_threads=num_compute_threads,
        num_encode_threads=num_encode_threads,
        weigh=weigh,
    )


def stretches_of(
    size: int, num_stretches: int = NUM_STRETCHES
) -> Iterator[list[Sequence[int]]]:
    """Stretches of so many lines, in groups of four."""
    for start in range(0, size * num_stretches, size):
        end = start + size
        yield [range(i, min(i + 4, end)) for i in range(start, end, 4)]


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_until(lambda: set(threading.enumerate()) <= before)


@pytest.mark.parametrize("num_compute_threads", [1, 2, 7])
@pytest.mark.parametrize("num_encode_threads", [0, 1, 3])
@pytest.mark.parametrize("stretch_size", [1, 4, 10, 64])
@pytest.mark.parametrize("weight", [FULL_RUN, 0.4 * FULL_RUN, 0.0])
def test_groups_come_in_order_with_their_own_outputs(
    num_compute_threads: int,
    num_encode_threads: int,
    stretch_size: int,
    weight: float,
) -> None:
    pipeline = make_pipeline(
        num_compute_threads=num_compute_threads,
        num_encode_threads=num_encode_threads,
        weigh=lambda group: weight,
    )
    groups = list(pipeline.run(stretches_of(stretch_size)))
    lines = [line for group in groups for line in group.lines]
    assert lines == [*range(stretch_size * NUM_STRETCHES)]
    assert [entry for group in groups for entry in group.encoded] == [
        (line, 2 * line) for line in lines
    ]
    assert sum(group.ends_stretch for group in groups) == NUM_STRETCHES
    for group in groups:
        assert group.ends_stretch == ((group.lines[-1] + 1) % stretch_size == 0)
        assert len(group.lines) == 4 or group.ends_stretch


def test_no_stretch_gives_no_group() -> None:
    assert list(make_pipeline().run([])) == []


def test_an_output_that_is_false_is_an_output() -> None:
    pipeline = make_pipeline(compute=lambda thread, lines: [0 for _ in lines])
    groups = list(pipeline.run([[[1, 2, 3]]]))
    assert groups == [EncodedGroup([1, 2, 3], [(1, 0), (2, 0), (3, 0)], True)]


@pytest.mark.parametrize("num_encode_threads", [0, 2])
def test_groups_are_of_any_size_and_a_line_may_be_in_no_batch(
    num_encode_threads: int,
) -> None:
    def plan(stretch: Sequence[int]) -> list[list[int]]:
        return [[place] for place, line in enumerate(stretch) if line % 3]

    stretches = [[[0, 1], [2], [3]], [[6], [9]], [[4, 5, 6, 7]]]
    pipeline = make_pipeline(plan=plan, num_encode_threads=num_encode_threads)
    groups = list(pipeline.run(stretches))
    assert [group.lines for group in groups] == [g for w in stretches for g in w]
    assert [group.encoded for group in groups] == [
        *([(0, None), (1, 2)], [(2, 4)], [(3, None)], [(6, None)], [(9, None)]),
        [(4, 8), (5, 10), (6, None), (7, 14)],
    ]


@pytest.mark.parametrize("num_encode_threads", [0, 3])
def test_a_group_may_wait_for_those_before_it(num_encode_threads: int) -> None:
    """It is never begun before them, so somebody is always at work."""
    done = [threading.Event() for _ in range(40)]

    def encode(lines: Sequence[int], outputs: Sequence[int]) -> int:
        number = lines[0] // 4
        assert number == 0 or done[number - 1].wait(PATIENCE)
        time.sleep(0.001)
        done[number].set()
        return number

    pipeline = make_pipeline(
        encode=encode, num_compute_threads=4, num_encode_threads=num_encode_threads
    )
    encoded = [group.encoded for group in pipeline.run(stretches_of(32))]
    assert encoded == [*range(40)]


def test_batches_are_computed_on_threads_with_their_numbers() -> None:
    seen: set[tuple[int, str]] = set()
    both = threading.Barrier(2, timeout=PATIENCE)

    def compute(thread: int, lines: Sequence[int]) -> list[int]:
        if lines[0] in (5, 2):  # the first two batches
            both.wait()
        seen.add((thread, threading.current_thread().name))
        return list(lines)

    list(make_pipeline(compute=compute).run(stretches_of(6, 1)))
    assert {number for number, _ in seen} == {0, 1}
    assert threading.current_thread().name not in {name for _, name in seen}


@pytest.mark.parametrize("num_encode_threads", [0, 2])
def test_a_slow_consumer_holds_back_everything(num_encode_threads: int) -> None:
    num_read = num_computed = num_encoded = 0
    lock = threading.Lock()

    def stretches() -> Iterator[list[Sequence[int]]]:
        nonlocal num_read
        for stretch in stretches_of(400, num_stretches=50):
            num_read += 1
            yield stretch

    def compute(thread: int, lines: Sequence[int]) -> list[int]:
        nonlocal num_computed
        with lock:
            num_computed += len(lines)
        return list(lines)

    def encode(lines: Sequence[int], outputs: Sequence[int]) -> int:
        nonlocal num_encoded
        with lock:
            num_encoded += 1
        return len(lines)

    pipeline = make_pipeline(
        compute=compute, encode=encode, num_encode_threads=num_encode_threads
    )
    groups = pipeline.run(stretches())
    next(groups)
    # Two stretches in flight, and one that the reader holds in its hand.
    wait_until(lambda: num_read == 3 and num_computed == 800 and num_encoded == 5)
    time.sleep(0.05)
    assert (num_read, num_computed, num_encoded) == (3, 800, 1 + 2 * 2)
    assert sum(group.encoded for group in groups) == 50 * 400 - 4


def test_encoding_goes_on_while_the_next_stretch_is_computed() -> None:
    second_computed = threading.Event()

    def compute(thread: int, lines: Sequence[int]) -> list[int]:
        if lines[0] >= 4:
            second_computed.set()
        return list(lines)

    def encode(lines: Sequence[int], outputs: Sequence[int]) -> bool:
        return second_computed.wait(PATIENCE)

    pipeline = make_pipeline(compute=compute, encode=encode, num_encode_threads=1)
    assert [group.encoded for group in pipeline.run(stretches_of(4, 2))] == [True] * 2


def test_an_error_of_the_reader_comes_after_what_was_read() -> None:
    def stretches() -> Iterator[list[Sequence[int]]]:
        yield from stretches_of(8, 3)
        raise Broken("line 25")

    seen: list[int] = []
    groups = make_pipeline().run(stretches())
    with pytest.raises(Broken, match="line 25"):
        seen.extend(line for group in groups for line in group.lines)
    assert seen == [*range(24)]
    assert list(groups) == []  # it is raised once


def test_an_error_of_the_planner_comes_after_what_was_planned() -> None:
    def plan(stretch: Sequence[int]) -> list[list[int]]:
        if stretch[0] == 8:
            raise Broken("plan")
        return plan_longest_first(stretch)

    seen: list[int] = []
    groups = make_pipeline(plan=plan).run(stretches_of(8))
    with pytest.raises(Broken, match="plan"):
        seen.extend(line for group in groups for line in group.lines)
    assert seen == [*range(8)]


def test_light_groups_that_are_ready_are_encoded_in_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[range] = []
    take_run = _Stretch.take_run

    def take(stretch: _Stretch[int, int, list[int]]) -> range:
        runs.append(take_run(stretch))
        return runs[-1]

    monkeypatch.setattr(_Stretch, "take_run", take)
    pipeline = make_pipeline(
        # One batch: all of the stretch is ready at once.
        plan=lambda stretch: [[*range(len(stretch))]],
        num_encode_threads=2,
        weigh=lambda group: len(group) / 20,
    )
    groups = list(pipeline.run(stretches_of(40, num_stretches=1)))
    assert [group.lines[0] for group in groups] == [*range(0, 40, 4)]
    assert runs == [range(5), range(5, 10)]  # five groups of four lines each


def test_threads_end_if_one_of_them_cannot_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(make_pipeline(num_compute_threads=3).run(stretches_of(40)))
    for thread in started:
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_a_group_that_fails_stops_no_other_of_its_run() -> None:
    """A later one may wait for what it hands on, so each has its turn."""
    begun: list[int] = []

    def encode(lines: Sequence[int], outputs: Sequence[int]) -> list[int]:
        begun.append(lines[0])
        if lines[0] == 8:
            raise Broken("line 8")
        return list(outputs)

    pipeline = make_pipeline(
        plan=lambda stretch: [[*range(len(stretch))]],
        encode=encode,
        weigh=lambda group: 0.0,
    )
    seen: list[int] = []
    with pytest.raises(Broken, match="line 8"):
        seen.extend(
            line
            for group in pipeline.run(stretches_of(20, num_stretches=1))
            for line in group.lines
        )
    assert seen == [*range(8)]
    assert begun == [0, 4, 8, 12, 16]


@pytest.mark.parametrize("num_encode_threads", [0, 2])
def test_the_first_line_that_cannot_be_encoded_is_the_one_named(
    num_encode_threads: int,
) -> None:
    """Whichever thread is faster: what came before it is given, and nothing after."""
    second_failed = threading.Event()

    def encode(lines: Sequence[int], outputs: Sequence[int]) -> list[int]:
        if lines[0] == 12:
            assert second_failed.wait(PATIENCE)
            raise Broken("line 12")
        if lines[0] == 16:
            second_failed.set()
            raise Broken("line 16")
        return list(outputs)

    pipeline = make_pipeline(encode=encode, num_encode_threads=num_encode_threads)
    seen: list[int] = []
    groups = pipeline.run(stretches_of(40, num_stretches=1000))
    with pytest.raises(Broken, match="line 12"):
        seen.extend(line for group in groups for line in group.lines)
    assert seen == [*range(12)]
    assert list(groups) == []


@pytest.mark.parametrize("num_encode_threads", [0, 2])
def test_an_error_of_compute_ends_the_run(num_encode_threads: int) -> None:
    def compute(thread: int, lines: Sequence[int]) -> list[int]:
        if 21 in lines:
            raise Broken("compute")
        return list(lines)

    pipeline = make_pipeline(compute=compute, num_encode_threads=num_encode_threads)
    seen: list[int] = []
    groups = pipeline.run(stretches_of(8, num_stretches=1000))
    with pytest.raises(Broken, match="compute"):
        seen.extend(line for group in groups for line in group.lines)
    # Whole groups from the beginning, none after the error.
    assert seen == [*range(len(seen))]
    assert len(seen) <= 20
    assert list(groups) == []


def test_the_first_of_several_errors_is_raised() -> None:
    def compute(thread: int, lines: Sequence[int]) -> list[int]:
        raise Broken(f"thread {thread}")

    with pytest.raises(Broken, match=r"thread [0-6]"):
        list(
            make_pipeline(compute=compute, num_compute_threads=7).run(stretches_of(64))
        )


@pytest.mark.parametrize("num_taken", [0, 1, 5])
@pytest.mark.parametrize("num_encode_threads", [0, 2])
def test_a_run_that_is_closed_early_ends(
    num_taken: int, num_encode_threads: int
) -> None:
    num_read = 0

    def stretches() -> Iterator[list[Sequence[int]]]:
        nonlocal num_read
        for stretch in stretches_of(8, num_stretches=10**9):
            num_read += 1
            yield stretch

    groups = make_pipeline(num_encode_threads=num_encode_threads).run(stretches())
    for _ in range(num_taken):
        next(groups)
    groups.close()  # type: ignore[attr-defined]
    # The fixture sees the threads go.
    assert num_read <= num_taken + 4


def test_a_run_that_is_dropped_ends() -> None:
    groups = make_pipeline().run(stretches_of(8, num_stretches=10**9))
    next(groups)
    del groups


def test_an_exception_of_the_consumer_ends_the_run() -> None:
    def consume() -> None:
        for _ in make_pipeline().run(stretches_of(8, num_stretches=10**9)):
            raise Broken("disk full")

    with pytest.raises(Broken):
        consume()


def test_outputs_are_let_go_when_they_are_encoded() -> None:
    num_alive = 0
    most_alive = 0
    lock = threading.Lock()

    class Vectors:
        def __init__(self) -> None:
            nonlocal num_alive, most_alive
            with lock:
                num_alive += 1
                most_alive = max(most_alive, num_alive)

        def __del__(self) -> None:
            nonlocal num_alive
            with lock:
                num_alive -= 1

    pipeline = make_pipeline(
        compute=lambda thread, lines: [Vectors() for _ in lines],
        encode=lambda lines, outputs: len(lines),
    )
    total = sum(group.encoded for group in pipeline.run(stretches_of(40, 200)))
    assert total == 8000
    # Two stretches of 40, and what the two threads and one group hold.
    assert most_alive <= 2 * 40 + 2 * 3 + 4
