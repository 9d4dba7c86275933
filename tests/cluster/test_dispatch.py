"""Every split is done once or reported, whatever becomes of the workers."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from bert_extract.cluster import dispatch
from bert_extract.cluster.dispatch import Dispatcher, FailedSplit, Listener
from bert_extract.cluster.messages import (
    Answer,
    Done,
    Failed,
    Lost,
    Opened,
    Refused,
    Setup,
    Task,
)
from bert_extract.cluster.plan import PlannedSplit
from bert_extract.errors import OutputError
from bert_extract.options import Job, Options
from bert_extract.output.parts import Part
from bert_extract.text.splits import Split

# The time, in seconds, which goes on while the dispatcher waits: a busy machine may
# stop a process for longer than a worker may say nothing here.
CLOCK = [0.0]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: CLOCK[0])


# (number of the worker's process, task) -> what it answers; None: nothing, for ever.
Play = Callable[[int, Task], Answer | None]


def task_of(number: int) -> Task:
    split = Split("in.txt", number * 10, number * 10 + 10, number * 5, number * 5)
    return Task(number, f"part-{number}", PlannedSplit(split, 0, 5, 10, 0))


def done(task: Task) -> Done:
    return Done(Part(task.name, 0, 5, 100, 0, {}, "n"), {"num_lines": 5})


@dataclass
class FakeCluster:
    """Workers that answer at once, as a play says."""

    play: Play
    openings: Sequence[Answer | None] = ()  # of the first ones; the others are well
    num_started: int = 0
    killed: list[int] = field(default_factory=list)
    given: list[tuple[int, int]] = field(default_factory=list)  # worker, task
    answers: dict[int, Answer | None] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def start_worker(self) -> int:
        self.num_started += 1
        return self.num_started - 1

    def open(self, worker: int, setup: Setup) -> int:
        opened: Answer | None = Opened(f"n{worker}", {}, "CPU", 1, "", (), "")
        if worker < len(self.openings):
            opened = self.openings[worker]
        return self._reference(opened)

    def compute(self, worker: int, task: Task) -> int:
        self.given.append((worker, task.number))
        return self._reference(self.play(worker, task))

    def num_done(self, worker: int) -> int:
        return self._reference(7)

    def _reference(self, answer: Answer | None) -> int:
        number = next(self.numbers)
        self.answers[number] = answer
        return number

    def wait(self, references: list[Any], seconds: float) -> list[Any]:
        # One at a time, the oldest first: the dispatcher decides after each.
        there = [each for each in references if self.answers[each] is not None]
        if not there:
            CLOCK[0] += 0.01
        return sorted(there)[:1]

    def answer(self, reference: int) -> Answer:
        answer = self.answers[reference]
        assert answer is not None
        return answer

    def kill(self, worker: int) -> None:
        self.killed.append(worker)


@dataclass
class Told:
    """What the listener was told."""

    done: list[int] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)


def run(
    cluster: FakeCluster,
    num_tasks: int = 6,
    num_workers: int = 2,
    refuse: str = "",
    timeout: int = 1,
) -> tuple[Told, list[FailedSplit]]:
    told = Told()

    def on_opened(opened: Opened) -> str:
        told.opened.append(opened.node)
        return f"{opened.node} is unlike" if opened.node == refuse else ""

    listener = Listener(
        on_opened, lambda task, _: told.done.append(task.number), lambda _: None
    )
    job = Job(input_file="in.txt", output_file="o", worker_timeout=timeout)
    setup = Setup(Options(), job, {}, "o.parts", "run", "", 0)
    dispatcher = Dispatcher(cluster, setup, num_workers, listener)
    failed = dispatcher.run(task_of(number) for number in range(num_tasks))
    return told, failed


def test_every_split_is_done_once_and_every_worker_ended() -> None:
    cluster = FakeCluster(lambda _, task: done(task))
    told, failed = run(cluster)
    assert sorted(told.done) == list(range(6))
    assert failed == []
    assert told.opened == ["n0", "n1"]
    assert {worker for worker, _ in cluster.given} == {0, 1}
    assert sorted(cluster.killed) == [0, 1]


def test_a_lost_workers_split_goes_to_another_and_a_worker_into_its_place() -> None:
    def play(worker: int, task: Task) -> Answer:
        return Lost("killed") if (worker, task.number) == (0, 0) else done(task)

    cluster = FakeCluster(play)
    told, failed = run(cluster)
    assert sorted(told.done) == list(range(6))
    assert failed == []
    assert cluster.num_started == 3
    assert [worker for worker, number in cluster.given if number == 0] == [0, 1]


def test_a_split_that_fails_three_times_is_reported_and_stops_no_other() -> None:
    def play(worker: int, task: Task) -> Answer:
        if task.number == 2:
            return Failed("in.txt: line 12 is not UTF-8", is_of_input=True)
        return done(task)

    cluster = FakeCluster(play)
    told, failed = run(cluster)
    assert sorted(told.done) == [0, 1, 3, 4, 5]
    (only,) = failed
    assert only.task.number == 2
    assert str(only).startswith("in.txt: lines 11 to 15 failed 3 times: in.txt: line")
    assert sum(number == 2 for _, number in cluster.given) == 3
    # What is wrong with the text is no fault of a worker's.
    assert cluster.num_started == 2


def test_many_bad_splits_in_a_row_leave_the_workers_at_work() -> None:
    def play(worker: int, task: Task) -> Answer:
        return done(task) if task.number >= 10 else Failed("NaN", is_of_input=True)

    told, failed = run(FakeCluster(play), num_tasks=12)
    assert sorted(told.done) == [10, 11]
    assert len(failed) == 10


def test_a_worker_that_fails_whatever_it_gets_is_left_out() -> None:
    def play(worker: int, task: Task) -> Answer:
        return Failed("No space left on device") if worker == 0 else done(task)

    cluster = FakeCluster(play)
    told, failed = run(cluster, num_tasks=20)
    assert sorted(told.done) == list(range(20))
    assert failed == []
    assert sum(worker == 0 for worker, _ in cluster.given) == 3


@pytest.mark.parametrize("answer", [Lost("killed"), Failed("out of memory")])
@pytest.mark.parametrize("poison", [0, 5])
def test_a_split_that_fails_the_only_worker_stops_no_other(
    answer: Answer, poison: int
) -> None:
    cluster = FakeCluster(
        lambda _, task: answer if task.number == poison else done(task)
    )
    told, failed = run(cluster, num_workers=1)
    assert sorted(told.done) == [each for each in range(6) if each != poison]
    assert [each.task.number for each in failed] == [poison]
    assert sum(number == poison for _, number in cluster.given) == 3


def test_a_node_with_another_input_costs_no_split_an_attempt() -> None:
    def play(worker: int, task: Task) -> Answer:
        return Failed("in.txt: other", is_of_node=True) if worker == 0 else done(task)

    cluster = FakeCluster(play)
    told, failed = run(cluster)
    assert sorted(told.done) == list(range(6))
    assert failed == []
    assert sum(worker == 0 for worker, _ in cluster.given) == 1


def test_a_worker_that_cannot_begin_is_left_out() -> None:
    cluster = FakeCluster(
        lambda _, task: done(task), [Refused("n0", "n0: /m/vocab.txt is another")]
    )
    told, _ = run(cluster)
    assert sorted(told.done) == list(range(6))
    assert {worker for worker, _ in cluster.given} == {1}


def test_a_worker_that_the_driver_does_not_want_gets_nothing() -> None:
    cluster = FakeCluster(lambda _, task: done(task))
    told, _ = run(cluster, refuse="n0")
    assert sorted(told.done) == list(range(6))
    assert {worker for worker, _ in cluster.given} == {1}


def test_with_no_worker_left_the_run_ends_with_the_reasons() -> None:
    refused = [Refused("n0", "vocab is another"), Refused("n1", "no such file")]
    with pytest.raises(OutputError) as caught:
        run(FakeCluster(lambda _, task: done(task), refused))
    assert "vocab is another\n  no such file\n" in str(caught.value)
    assert "--resume" in str(caught.value)


def test_workers_that_die_whatever_they_do_end_the_run() -> None:
    cluster = FakeCluster(lambda _, task: Lost("SIGSEGV"))
    with pytest.raises(OutputError, match="no worker is left"):
        run(cluster, num_tasks=50)
    assert cluster.num_started == 6


def test_a_worker_that_hangs_is_killed_and_its_split_done_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "_ASK_SECONDS", 0.05)

    def play(worker: int, task: Task) -> Answer | None:
        return None if worker == 0 else done(task)

    cluster = FakeCluster(play)
    told, failed = run(cluster)
    assert sorted(told.done) == list(range(6))
    assert failed == []
    assert 0 in cluster.killed


def test_a_worker_that_hangs_while_it_loads_is_replaced_while_others_work() -> None:
    def play(worker: int, task: Task) -> Answer:
        CLOCK[0] += 6.0  # longer than until the next question
        return done(task)

    cluster = FakeCluster(play, [None])
    told, failed = run(cluster, num_tasks=12, timeout=10)
    assert sorted(told.done) == list(range(12))
    assert failed == []
    assert told.opened == ["n1", "n2"]
    assert {worker for worker, _ in cluster.given} == {1, 2}


def test_a_worker_that_waits_for_room_is_not_one_that_hangs() -> None:
    class Full(FakeCluster):
        def num_done(self, worker: int) -> int:
            return self._reference(None if worker == 0 else 7)

    def play(worker: int, task: Task) -> Answer:
        CLOCK[0] += 6.0
        return done(task)

    cluster = Full(play, [None])
    told, _ = run(cluster, num_tasks=12, timeout=10)
    assert sorted(told.done) == list(range(12))
    assert cluster.num_started == 2


def test_a_worker_that_is_slow_is_left_in_peace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "_ASK_SECONDS", 0.02)
    begun = time.monotonic()

    class Slow(FakeCluster):
        def num_done(self, worker: int) -> int:
            return self._reference(next(self.numbers))  # it grows

        def wait(self, references: list[Any], seconds: float) -> list[Any]:
            if time.monotonic() > begun + 1.5:
                for reference, answer in self.answers.items():
                    if answer is None:
                        self.answers[reference] = done(task_of(0))
            return super().wait(references, seconds)

    cluster = Slow(lambda _, task: None)
    told, _ = run(cluster, num_tasks=1, num_workers=1)
    assert told.done == [0]
    assert len(cluster.given) == 1


def test_a_cluster_without_room_ends_the_run_and_not_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "_LEAST_PATIENCE", 1)
    begun = time.monotonic()
    with pytest.raises(OutputError, match="had no worker for 1 seconds"):
        run(FakeCluster(lambda _, task: done(task), [None, None]))
    assert time.monotonic() - begun > 1.0
