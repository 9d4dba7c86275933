"""Stretches -> encoded groups of records, in input order, by a pool of threads.

    reader thread     stretches of groups of consecutive lines, at most two in flight
    compute threads   batch -> the model's outputs, any order, long lines first
    encode threads    group -> whatever the writer takes; begun in order
    the caller        takes the groups in order

It knows nothing of BERT and nothing of files. What it bounds: stretches in flight, and
groups that were encoded but not yet taken; so a slow writer slows the rest, and
memory never grows with the corpus. Small groups that are ready are encoded some at a
time: to hand on work to another thread costs as much as some short lines.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Line = TypeVar("Line")
Output = TypeVar("Output")
Encoded = TypeVar("Encoded")

# One stretch is computed while the one before it is encoded and written.
_MAX_STRETCHES = 2
# How long the caller waits before it looks again: signals are handled between waits.
_POLL_SECONDS = 0.2


# A run of groups that are encoded at once ends with the one that reaches this weight.
FULL_RUN = 1.0


@dataclass(frozen=True)
class EncodedGroup(Generic[Line, Encoded]):
    """A group of consecutive lines that is done."""

    lines: Sequence[Line]
    encoded: Encoded  # what became of them
    ends_stretch: bool


class _Stretch(Generic[Line, Output, Encoded]):
    """The state of one stretch; guarded by the pipeline's lock."""

    def __init__(
        self,
        groups: Sequence[Sequence[Line]],
        lines: list[Line],
        batches: list[list[int]],
        weights: list[float],
    ) -> None:
        self.lines = lines
        self._weights = weights  # of each group, see `Pipeline.__init__`
        self.batches = deque(batches)
        self.outputs: list[Output | None] = [None] * len(lines)
        self.groups: list[range] = []
        self.group_of: list[int] = []  # of each line
        for number, group in enumerate(groups):
            start = len(self.group_of)
            self.groups.append(range(start, start + len(group)))
            self.group_of += [number] * len(group)
        # Outputs that a group waits for: a line may be in no batch.
        self.num_missing = [0] * len(self.groups)
        for line_indexes in batches:
            for line_index in line_indexes:
                self.num_missing[self.group_of[line_index]] += 1
        self.next_to_encode = 0
        # What became of a run of groups, by the number of its first one.
        self.encoded: dict[int, list[Encoded | _Failure]] = {}

    def take_run(self) -> range:
        """The groups that are ready from the next one on, until they weigh enough."""
        first = end = self.next_to_encode
        weight = 0.0
        while (
            weight < FULL_RUN and end < len(self.groups) and self.num_missing[end] == 0
        ):
            weight += self._weights[end]
            end += 1
        self.next_to_encode = end
        return range(first, end)


@dataclass(frozen=True)
class _Failure:
    """What became of a group that could not be encoded."""

    error: BaseException


class Pipeline(Generic[Line, Output, Encoded]):
    """Runs batches and encodes their lines' outputs on threads of its own."""

    def __init__(
        self,
        *,
        plan: Callable[[Sequence[Line]], list[list[int]]],
        compute: Callable[[int, Sequence[Line]], Sequence[Output]],
        encode: Callable[[Sequence[Line], Sequence[Output | None]], Encoded],
        num_compute_threads: int,
        num_encode_threads: int,
        weigh: Callable[[Sequence[Line]], float] = lambda lines: FULL_RUN,
    ) -> None:
        """Makes a pipeline; its threads start with `run`.

        Args:
          plan: divides a stretch's lines into batches, each the indexes of its lines.
            What is in no batch is not computed.
          compute: (number of the thread, lines of a batch) -> one output for each.
          encode: a group of consecutive lines and their outputs (None for a line in
            no batch) -> what is yielded. A group may wait in it for those before it:
            they were begun earlier, by this thread or another.
          num_compute_threads: how many batches are computed at once.
          num_encode_threads: threads that only encode. If there are none, the
            compute threads encode whenever a group is ready.
          weigh: the share of what may be encoded at once that a group is.
        """
        self._plan = plan
        self._compute = compute
        self._encode = encode
        self._weigh = weigh
        self._num_compute_threads = num_compute_threads
        self._num_encode_threads = num_encode_threads
        self._max_encoded = 2 * max(num_compute_threads, num_encode_threads)

        self._changed = threading.Condition()
        # All below is guarded by it.
        self._stretches: deque[_Stretch[Line, Output, Encoded]] = deque()
        self._num_encoded = 0  # runs that are encoded, or being so, and not taken
        self._all_read = False
        self._read_error: BaseException | None = None
        self._error: BaseException | None = None
        self._stopped = False

    def run(
        self, stretches: Iterable[Sequence[Sequence[Line]]]
    ) -> Iterator[EncodedGroup[Line, Encoded]]:
        """Yields the groups in order.

        A stretch is a sequence of groups, each with one line or more.

        An error of the stretches' source or of encode is raised after everything
        before it; an error of compute as soon as it is seen.
        """
        threads = [threading.Thread(target=self._read, args=(stretches,), daemon=True)]
        can_encode = self._num_encode_threads == 0
        for number in range(self._num_compute_threads):
            args = (number, True, can_encode)
            threads.append(threading.Thread(target=self._work, args=args, daemon=True))
        for _ in range(self._num_encode_threads):
            args = (0, False, True)
            threads.append(threading.Thread(target=self._work, args=args, daemon=True))
        process_id = os.getpid()
        try:
            for thread in threads:
                thread.start()
            yield from self._take()
            for thread in threads:
                thread.join()
        finally:
            # Threads inside a batch end with it; nobody waits for them when the run
            # is being stopped. In a forked process there are none, and one of them
            # may have held the lock.
            if os.getpid() == process_id:
                with self._changed:
                    self._stopped = True
                    self._changed.notify_all()

    def _take(self) -> Iterator[EncodedGroup[Line, Encoded]]:
        """Waits for the groups in order and yields them."""
        while (stretch := self._first_stretch()) is not None:
            number, num_groups = 0, len(stretch.groups)
            while number < num_groups:
                results = self._take_run(stretch, number)
                while results:
                    encoded = results.pop()
                    if isinstance(encoded, _Failure):
                        raise encoded.error
                    group = stretch.groups[number]
                    number += 1
                    lines = stretch.lines[group.start : group.stop]
                    yield EncodedGroup(lines, encoded, number == num_groups)
                    del encoded
            with self._changed:
                self._stretches.popleft()
                self._changed.notify_all()
        if self._read_error is not None:
            raise self._read_error

    def _take_run(
        self, stretch: _Stretch[Line, Output, Encoded], first: int
    ) -> list[Encoded | _Failure]:
        """Waits for the run that begins with a group; gives it from its end on."""
        with self._changed:
            while first not in stretch.encoded and self._error is None:
                self._changed.wait(_POLL_SECONDS)
            if first not in stretch.encoded:
                assert self._error is not None
                raise self._error
            results = stretch.encoded.pop(first)
            self._num_encoded -= 1
            self._changed.notify_all()
        return results[::-1]

    def _first_stretch(self) -> _Stretch[Line, Output, Encoded] | None:
        with self._changed:
            while not self._stretches and not self._all_read and self._error is None:
                self._changed.wait(_POLL_SECONDS)
            if self._error is not None:
                raise self._error
            return self._stretches[0] if self._stretches else None

    def _read(self, stretches: Iterable[Sequence[Sequence[Line]]]) -> None:
        """The reader thread."""
        try:
            for groups in stretches:
                lines = [line for group in groups for line in group]
                stretch = _Stretch[Line, Output, Encoded](
                    groups, lines, self._plan(lines), list(map(self._weigh, groups))
                )
                with self._changed:
                    while len(self._stretches) >= _MAX_STRETCHES and not self._stopped:
                        self._changed.wait()
                    if self._stopped:
                        return
                    self._stretches.append(stretch)
                    self._changed.notify_all()
        except BaseException as error:  # raised again in the caller's thread
            self._read_error = error
        with self._changed:
            self._all_read = True
            self._changed.notify_all()

    def _work(self, thread_number: int, can_compute: bool, can_encode: bool) -> None:
        """A compute or encode thread."""
        try:
            while (
                task := self._next_task(thread_number, can_compute, can_encode)
            ) is not None:
                task()
        except BaseException as error:  # raised again in the caller's thread
            with self._changed:
                if self._error is None:
                    self._error = error
                self._changed.notify_all()

    def _next_task(
        self, thread_number: int, can_compute: bool, can_encode: bool
    ) -> Callable[[], None] | None:
        """Waits for work; a group that is ready comes before another batch."""
        with self._changed:
            while not self._stopped and self._error is None:
                for stretch in self._stretches:
                    if can_encode and self._may_encode(stretch):
                        run = stretch.take_run()
                        self._num_encoded += 1
                        return lambda: self._encode_run(stretch, run)
                    if can_compute and stretch.batches:
                        line_indexes = stretch.batches.popleft()
                        return lambda: self._run_batch(
                            stretch, line_indexes, thread_number
                        )
                if self._all_read and not any(
                    stretch.batches or stretch.next_to_encode < len(stretch.groups)
                    for stretch in self._stretches
                ):
                    break
                self._changed.wait()
        return None

    def _may_encode(self, stretch: _Stretch[Line, Output, Encoded]) -> bool:
        # Only the first stretch may: its groups are the next to be taken, so a bound
        # on how many are waiting cannot keep back the one that is waited for.
        return (
            stretch is self._stretches[0]
            and stretch.next_to_encode < len(stretch.groups)
            and stretch.num_missing[stretch.next_to_encode] == 0
            and self._num_encoded < self._max_encoded
        )

    def _run_batch(
        self,
        stretch: _Stretch[Line, Output, Encoded],
        line_indexes: list[int],
        thread_number: int,
    ) -> None:
        outputs = self._compute(thread_number, [stretch.lines[i] for i in line_indexes])
        with self._changed:
            for line_index, output in zip(line_indexes, outputs, strict=True):
                stretch.outputs[line_index] = output
                stretch.num_missing[stretch.group_of[line_index]] -= 1
            self._changed.notify_all()

    def _encode_run(self, stretch: _Stretch[Line, Output, Encoded], run: range) -> None:
        results: list[Encoded | _Failure] = []
        for number in run:
            group = stretch.groups[number]
            lines = stretch.lines[group.start : group.stop]
            outputs = stretch.outputs[group.start : group.stop]
            try:
                results.append(self._encode(lines, outputs))
            except BaseException as error:  # raised again when the group's turn comes
                results.append(_Failure(error))
            for line_index in group:
                stretch.outputs[line_index] = None  # the vectors may go now
        with self._changed:
            stretch.encoded[run.start] = results
            self._changed.notify_all()
