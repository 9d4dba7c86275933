"""Windows -> encoded groups of records, in input order, by a pool of threads.

    reader thread     windows of groups of consecutive lines, at most two in flight
    compute threads   batch -> the model's outputs, any order, long lines first
    encode threads    group -> whatever the writer takes; begun in order
    the caller        takes the groups in order

It knows nothing of BERT and nothing of files. What it bounds: windows in flight, and
groups that were encoded but not yet taken; so a slow writer slows the rest, and
memory never grows with the corpus.
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

# One window is computed while the one before it is encoded and written.
_MAX_WINDOWS = 2
# How long the caller waits before it looks again: signals are handled between waits.
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class EncodedGroup(Generic[Line, Encoded]):
    """A group of consecutive lines that is done."""

    lines: Sequence[Line]
    encoded: Encoded  # what became of them
    ends_window: bool


class _Window(Generic[Line, Output, Encoded]):
    """The state of one window; guarded by the pipeline's lock."""

    def __init__(
        self,
        groups: Sequence[Sequence[Line]],
        lines: list[Line],
        batches: list[list[int]],
    ) -> None:
        self.lines = lines
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
        for places in batches:
            for place in places:
                self.num_missing[self.group_of[place]] += 1
        self.next_to_encode = 0
        self.encoded: dict[int, Encoded] = {}
        self.failed: dict[int, BaseException] = {}


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
    ) -> None:
        """Makes a pipeline; its threads start with `run`.

        Args:
          plan: divides a window's lines into batches, each the places of its lines.
            What is in no batch is not computed.
          compute: (number of the thread, lines of a batch) -> one output for each.
          encode: a group of consecutive lines and their outputs (None for a line in
            no batch) -> what is yielded. A group may wait in it for those before it:
            they were begun earlier, each on a thread of its own.
          num_compute_threads: how many batches are computed at once.
          num_encode_threads: threads that only encode. If there are none, the
            compute threads encode whenever a group is ready.
        """
        self._plan = plan
        self._compute = compute
        self._encode = encode
        self._num_compute_threads = num_compute_threads
        self._num_encode_threads = num_encode_threads
        self._max_encoded = 2 * max(num_compute_threads, num_encode_threads)

        self._changed = threading.Condition()
        # All below is guarded by it.
        self._windows: deque[_Window[Line, Output, Encoded]] = deque()
        self._num_encoded = 0  # groups that are encoded, or being so, and not taken
        self._all_read = False
        self._read_error: BaseException | None = None
        self._error: BaseException | None = None
        self._stopped = False

    def run(
        self, windows: Iterable[Sequence[Sequence[Line]]]
    ) -> Iterator[EncodedGroup[Line, Encoded]]:
        """Yields the groups in order.

        A window is a sequence of groups, each with one line or more.

        An error of the windows' source or of encode is raised after everything
        before it; an error of compute as soon as it is seen.
        """
        threads = [threading.Thread(target=self._read, args=(windows,), daemon=True)]
        can_encode = self._num_encode_threads == 0
        for number in range(self._num_compute_threads):
            args = (number, True, can_encode)
            threads.append(threading.Thread(target=self._work, args=args, daemon=True))
        for _ in range(self._num_encode_threads):
            args = (0, False, True)
            threads.append(threading.Thread(target=self._work, args=args, daemon=True))
        process_id = os.getpid()
        for thread in threads:
            thread.start()
        try:
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
        while (window := self._first_window()) is not None:
            for number, group in enumerate(window.groups):
                with self._changed:
                    while (
                        number not in window.encoded
                        and number not in window.failed
                        and self._error is None
                    ):
                        self._changed.wait(_POLL_SECONDS)
                    if number in window.failed:
                        raise window.failed[number]
                    if self._error is not None:
                        raise self._error
                    encoded = window.encoded.pop(number)
                    self._num_encoded -= 1
                    self._changed.notify_all()
                lines = window.lines[group.start : group.stop]
                ends_window = number == len(window.groups) - 1
                yield EncodedGroup(lines, encoded, ends_window)
            with self._changed:
                self._windows.popleft()
                self._changed.notify_all()
        if self._read_error is not None:
            raise self._read_error

    def _first_window(self) -> _Window[Line, Output, Encoded] | None:
        with self._changed:
            while not self._windows and not self._all_read and self._error is None:
                self._changed.wait(_POLL_SECONDS)
            if self._error is not None:
                raise self._error
            return self._windows[0] if self._windows else None

    def _read(self, windows: Iterable[Sequence[Sequence[Line]]]) -> None:
        """The reader thread."""
        try:
            for groups in windows:
                lines = [line for group in groups for line in group]
                window = _Window[Line, Output, Encoded](
                    groups, lines, self._plan(lines)
                )
                with self._changed:
                    while len(self._windows) >= _MAX_WINDOWS and not self._stopped:
                        self._changed.wait()
                    if self._stopped:
                        return
                    self._windows.append(window)
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
                for window in self._windows:
                    if can_encode and self._may_encode(window):
                        group_number = window.next_to_encode
                        window.next_to_encode += 1
                        self._num_encoded += 1
                        return lambda: self._encode_group(window, group_number)
                    if can_compute and window.batches:
                        places = window.batches.popleft()
                        return lambda: self._run_batch(window, places, thread_number)
                if self._all_read and not any(
                    window.batches or window.next_to_encode < len(window.groups)
                    for window in self._windows
                ):
                    break
                self._changed.wait()
        return None

    def _may_encode(self, window: _Window[Line, Output, Encoded]) -> bool:
        # Only the first window may: its groups are the next to be taken, so a bound
        # on how many are waiting cannot keep back the one that is waited for.
        return (
            window is self._windows[0]
            and window.next_to_encode < len(window.groups)
            and window.num_missing[window.next_to_encode] == 0
            and self._num_encoded < self._max_encoded
        )

    def _run_batch(
        self,
        window: _Window[Line, Output, Encoded],
        places: list[int],
        thread_number: int,
    ) -> None:
        outputs = self._compute(thread_number, [window.lines[p] for p in places])
        with self._changed:
            for place, output in zip(places, outputs, strict=True):
                window.outputs[place] = output
                window.num_missing[window.group_of[place]] -= 1
            self._changed.notify_all()

    def _encode_group(
        self, window: _Window[Line, Output, Encoded], group_number: int
    ) -> None:
        group = window.groups[group_number]
        lines = window.lines[group.start : group.stop]
        try:
            encoded = self._encode(lines, window.outputs[group.start : group.stop])
        except BaseException as error:  # raised again when the group's turn comes
            with self._changed:
                window.failed[group_number] = error
                self._changed.notify_all()
            return
        with self._changed:
            for place in group:
                window.outputs[place] = None  # the vectors may go now
            window.encoded[group_number] = encoded
            self._changed.notify_all()
