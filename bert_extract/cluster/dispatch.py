"""Tasks -> parts: which worker does which split, and what is done when one is lost.

Ray starts the workers where there is room and says when one has died; here it is only
decided what becomes of its split. A split that fails goes to another worker, three
times at most. A worker that is lost is started again; one that fails whatever it is
given, or cannot begin, is not.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from absl import logging

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
from bert_extract.errors import OutputError

_MOST_ATTEMPTS = 3
# Splits failed in a row after which nothing more is expected of a worker's place.
_MOST_FAILURES = 3
# How often is looked at what nobody tells of, in seconds.
_POLL_SECONDS = 1.0
_ASK_SECONDS = 5.0
_WAIT_WARNING_SECONDS = 60.0
# How long the first worker may take, to start and to load the model, at least.
_LEAST_PATIENCE = 600


class Cluster(Protocol):
    """Where workers run. A reference stands for an answer that will come."""

    def start_worker(self) -> Any:
        """Asks for a worker; it may take long until there is room for it."""
        ...

    def open(self, worker: Any, setup: Setup) -> Any:
        """Lets it load the model: a reference to `Opened` or `Refused`."""
        ...

    def compute(self, worker: Any, task: Task) -> Any:
        """Lets it do a split: a reference to `Done` or `Failed`."""
        ...

    def num_done(self, worker: Any) -> Any:
        """Asks how far it is: a reference to a number."""
        ...

    def wait(self, references: list[Any], seconds: float) -> list[Any]:
        """Waits until there is an answer; returns the references that have one."""
        ...

    def answer(self, reference: Any) -> Answer:
        """Gets an answer that is there; `Lost` if the worker is gone."""
        ...

    def kill(self, worker: Any) -> None:
        """Ends it, whatever it does."""
        ...


@dataclass
class _Place:
    """A worker, and those that come after it when it is lost."""

    number: int
    worker: Any = None
    opened: Opened | None = None  # None: it is not ready
    reference: Any = None  # to what it was asked for
    task: Task | None = None  # that it does
    asked: Any = None  # a reference to how far it is
    num_done: int = -1
    # When it was last seen to go on; before it has begun nobody waits for a sign.
    last_sign: float = math.inf
    # The splits that it failed since its last part, and -1, -2, ... for each time that
    # it was lost without one.
    failures: set[int] = field(default_factory=set)
    is_closed: bool = False


@dataclass
class _Trouble:
    """A split that failed."""

    reasons: list[str] = field(default_factory=list)
    places: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class FailedSplit:
    """A split that nobody could do."""

    task: Task
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        split, num_lines = self.task.planned.split, self.task.planned.num_lines
        return (
            f"{split.path}: lines {split.first_line + 1:,} to "
            f"{split.first_line + num_lines:,} failed {len(self.reasons)} times: "
            + "; ".join(dict.fromkeys(self.reasons))
        )


@dataclass(frozen=True)
class Listener:
    """Who is told while it goes on."""

    # A worker is ready: "" if it may help, or why not.
    on_opened: Callable[[Opened], str]
    on_done: Callable[[Task, Done], None]
    # Every second or so, with the number of workers that are ready.
    on_time: Callable[[int], None]


class Dispatcher:
    """Hands out splits until all are done or have failed."""

    def __init__(
        self, cluster: Cluster, setup: Setup, num_workers: int, listener: Listener
    ) -> None:
        """Takes a cluster; nothing is started yet.

        Args:
          cluster: where the workers run.
          setup: what each is told first.
          num_workers: how many there are at most.
          listener: is told of what happens.
        """
        self._cluster = cluster
        self._setup = setup
        self._listener = listener
        self._timeout = setup.job.worker_timeout
        self._places = [_Place(number) for number in range(num_workers)]
        self._tasks: Iterator[Task] = iter(())
        self._next: Task | None = None
        self._again: deque[Task] = deque()
        self._trouble: dict[int, _Trouble] = {}
        self._refusals: list[str] = []
        self._failed: list[FailedSplit] = []
        self._last_asked = 0.0
        self._last_life = 0.0
        self._last_warning = 0.0

    def run(self, tasks: Iterator[Task]) -> list[FailedSplit]:
        """Does the tasks.

        Returns:
          Those that failed three times.

        Raises:
          OutputError: no worker is left, or none came.
        """
        self._tasks = tasks
        self._next = next(tasks, None)
        self._last_life = self._last_warning = time.monotonic()
        try:
            while self._has_work():
                self._start_workers()
                self._hand_out()
                self._take_answers()
                self._ask()
                self._check_life()
                self._listener.on_time(self._num_ready())
        finally:
            for place in self._places:
                self._stop(place)
        return self._failed

    # -- giving

    def _has_work(self) -> bool:
        waiting = self._next is not None or bool(self._again)
        return waiting or any(place.task for place in self._places)

    def _start_workers(self) -> None:
        """Starts those that have something to do."""
        num_idle = sum(
            place.worker is not None and place.task is None for place in self._places
        )
        for place in self._places:
            if place.is_closed or place.worker is not None:
                continue
            if num_idle >= len(self._again) and self._next is None:
                return
            place.worker = self._cluster.start_worker()
            place.reference = self._cluster.open(place.worker, self._setup)
            num_idle += 1

    def _hand_out(self) -> None:
        for place in self._places:
            if place.opened is None or place.task is not None:
                continue
            task = self._take_task(place)
            if task is not None:
                place.task = task
                place.reference = self._cluster.compute(place.worker, task)
                place.last_sign = time.monotonic()
                place.num_done, place.asked = -1, None

    def _take_task(self, place: _Place) -> Task | None:
        """What failed elsewhere, then what nobody tried, then what failed here, too."""
        for task in self._again:
            if place.number not in self._trouble[task.number].places:
                self._again.remove(task)
                return task
        if self._next is not None:
            task, self._next = self._next, next(self._tasks, None)
            return task
        ready = {each.number for each in self._places if each.opened is not None}
        for task in self._again:
            if ready <= self._trouble[task.number].places:
                self._again.remove(task)
                return task
        return None

    def _num_ready(self) -> int:
        return sum(place.opened is not None for place in self._places)

    # -- taking

    def _take_answers(self) -> None:
        waiting = {
            reference: place
            for place in self._places
            for reference in (place.reference, place.asked)
            if reference is not None
        }
        if not waiting:
            return
        for reference in self._cluster.wait(list(waiting), _POLL_SECONDS):
            place = waiting[reference]
            if reference == place.asked:
                place.asked = None
                self._take_sign(place, self._cluster.answer(reference))
            elif reference == place.reference:
                place.reference = None
                self._take(place, self._cluster.answer(reference))

    def _take_sign(self, place: _Place, answer: Answer) -> None:
        # That it is lost is told by what it computes, too.
        if isinstance(answer, int) and answer != place.num_done:
            place.num_done = answer
            place.last_sign = self._last_life = time.monotonic()

    def _take(self, place: _Place, answer: Answer) -> None:
        if isinstance(answer, Opened):
            self._last_life = time.monotonic()
            reason = self._listener.on_opened(answer)
            if reason:
                self._close(place, reason)
            else:
                place.opened = answer
        elif isinstance(answer, Refused) or (
            isinstance(answer, Failed) and place.opened is None
        ):
            logging.error("a worker is left out: %s", answer.reason)
            self._close(place, answer.reason)
        elif isinstance(answer, Done):
            assert place.task is not None
            self._last_life = time.monotonic()
            task, place.task = place.task, None
            place.failures.clear()
            self._trouble.pop(task.number, None)
            self._listener.on_done(task, answer)
        elif isinstance(answer, Failed):
            self._take_failure(place, answer)
        elif isinstance(answer, Lost):
            self._lose(place, answer.reason)

    def _take_failure(self, place: _Place, failed: Failed) -> None:
        if failed.is_of_node:
            # Another node may see the right file; this one would fail with every split.
            assert place.task is not None
            task, place.task = place.task, None
            self._trouble.setdefault(task.number, _Trouble())
            self._again.append(task)
            reason = f"node {_node_of(place)}: {failed.reason}"
            logging.error("a worker is left out: %s", reason)
            self._close(place, reason)
            return
        number = place.task.number if place.task is not None else -1
        self._fail_task(place, failed.reason)
        if not failed.is_of_input:
            place.failures.add(number)
            if len(place.failures) >= _MOST_FAILURES:
                reason = f"node {_node_of(place)}: {failed.reason}"
                logging.error("a worker that only fails is left out: %s", reason)
                self._close(place, reason)

    def _lose(self, place: _Place, reason: str) -> None:
        """Its split goes to another, and another worker into its place."""
        logging.warning("node %s: a worker was lost: %s", _node_of(place), reason)
        if place.task is not None:
            place.failures.add(place.task.number)
            self._fail_task(place, reason)
        else:
            place.failures.add(-1 - len(place.failures))
        self._stop(place)
        if len(place.failures) >= _MOST_FAILURES:
            self._close(place, reason)

    def _fail_task(self, place: _Place, reason: str) -> None:
        assert place.task is not None
        task, place.task = place.task, None
        trouble = self._trouble.setdefault(task.number, _Trouble())
        trouble.reasons.append(f"{reason} (node {_node_of(place)})")
        trouble.places.add(place.number)
        if len(trouble.reasons) >= _MOST_ATTEMPTS:
            failed = FailedSplit(task, tuple(trouble.reasons))
            logging.error("%s", failed)
            self._failed.append(failed)
        else:
            logging.warning(
                "%s: another worker does it: %s", task.name, trouble.reasons[-1]
            )
            self._again.append(task)

    # -- who says nothing

    def _ask(self) -> None:
        now = time.monotonic()
        if now - self._last_asked < _ASK_SECONDS:
            return
        self._last_asked = now
        for place in self._places:
            is_idle = place.opened is not None and place.task is None
            if place.worker is None or is_idle:
                continue
            if now - place.last_sign > self._timeout:
                what = "no line was done" if place.opened else "no model was loaded"
                self._lose(place, f"{what} for {self._timeout} seconds")
            elif place.asked is None:
                place.asked = self._cluster.num_done(place.worker)

    def _check_life(self) -> None:
        """Ends a run that nobody works for.

        Raises:
          OutputError: all workers were left out, or none came for long.
        """
        now = time.monotonic()
        if not self._has_work():
            return
        if all(place.is_closed for place in self._places):
            reasons = "\n".join(f"  {each}" for each in dict.fromkeys(self._refusals))
            raise OutputError(
                f"{self._setup.folder}: no worker is left, and splits are:\n{reasons}\n"
                "The parts that are done stay there: mend this, and give the same "
                "command with --resume"
            )
        if self._num_ready():
            self._last_life = now
            return
        patience = max(self._timeout, _LEAST_PATIENCE)
        if now - self._last_life > patience:
            raise OutputError(
                f"{self._setup.folder}: the cluster had no worker for "
                f"{patience} seconds: it has no room for one of the size that is "
                "asked for (--cpus_per_worker, --gpus_per_worker), or its nodes are "
                "gone. The parts that are done stay there: --resume goes on with them"
            )
        if now - self._last_warning > _WAIT_WARNING_SECONDS:
            self._last_warning = now
            logging.warning("no worker is ready: waiting for the cluster to start one")

    def _close(self, place: _Place, reason: str) -> None:
        self._refusals.append(reason)
        self._stop(place)
        place.is_closed = True

    def _stop(self, place: _Place) -> None:
        if place.worker is not None:
            self._cluster.kill(place.worker)
        place.worker = place.opened = place.reference = place.asked = None
        place.num_done, place.last_sign = -1, math.inf


def _node_of(place: _Place) -> str:
    return place.opened.node if place.opened is not None else "unknown"
