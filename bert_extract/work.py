"""What the threads of a job have done -> how far it is, and how long it will take."""

import math
import threading
from collections.abc import Sequence

from bert_extract.inputs.features import Features

# The share of a token's time that goes into writing its vectors, until it is measured.
_USUAL_ENCODING = 0.1
# What was done so many seconds ago counts a third of what is done now.
_MEMORY = 60.0
# What comes first, when TensorFlow meets each length for the first time, is slower and
# says little of the rest.
_WARM_UP_SECONDS = 3.0
# A time left is only said after so many seconds, and so much of the job.
_LEAST_SECONDS = 5.0
_LEAST_SHARE = 0.005
_LEAST_SECONDS_OF_LONG = 30.0  # after which a smaller share will do


class Work:
    """What is done of a job, told by its threads after each batch.

    Attributes:
      num_lines_read: lines that were read and tokenized.
      num_tokens_read: their tokens, as the model sees them.
      num_lines: lines that were computed.
      num_tokens: tokens that were computed.
      is_all_read: whether the input that is being read has ended.
    """

    def __init__(self) -> None:
        self.num_lines_read = self.num_tokens_read = 0
        self.num_lines = self.num_tokens = 0
        self.is_all_read = False
        self._num_encoded = 0  # tokens
        self._seconds_computing = self._seconds_encoding = 0.0  # of all threads
        self._lock = threading.Lock()

    def read(self, part: Features) -> None:
        """Counts a line, or a part of one; from one thread at a time."""
        self.num_lines_read += part.is_last
        self.num_tokens_read += len(part.input_ids)

    def computed(self, parts: Sequence[Features], seconds: float) -> None:
        """Counts a batch, which took a thread so long."""
        with self._lock:
            for part in parts:
                self.num_lines += part.is_last
                self.num_tokens += len(part.input_ids)
            self._seconds_computing += seconds

    def encoded(self, parts: Sequence[Features], seconds: float) -> None:
        """Counts a group, which took a thread so long."""
        with self._lock:
            for part in parts:
                size = len(part.input_ids)
                self._num_encoded += size
                if not size:  # it was in no batch
                    self.num_lines += part.is_last
            self._seconds_encoding += seconds

    @property
    def num_done(self) -> float:
        """Tokens; one that is computed and not encoded counts as a part of one."""
        with self._lock:
            share = self._share_of_encoding()
            return (1.0 - share) * self.num_tokens + share * self._num_encoded

    def _share_of_encoding(self) -> float:
        if not self._num_encoded or not self.num_tokens:
            return _USUAL_ENCODING
        encoding = self._seconds_encoding / self._num_encoded
        both = encoding + self._seconds_computing / self.num_tokens
        return encoding / both if both else _USUAL_ENCODING


class Speed:
    """How fast something goes, of late: a mean that forgets."""

    def __init__(self, now: float, amount: float = 0.0) -> None:
        """Starts with so much of it, which says nothing of the speed."""
        self._then, self._amount = now, amount
        self._num = self._seconds = 0.0

    def update(self, now: float, amount: float) -> None:
        """Takes note of how much there is now, in all."""
        seconds = now - self._then
        kept = math.exp(-seconds / _MEMORY)
        self._num = self._num * kept + amount - self._amount
        self._seconds = self._seconds * kept + seconds
        self._then, self._amount = now, amount

    @property
    def per_second(self) -> float:
        """The mean."""
        return max(self._num, 0.0) / self._seconds if self._seconds else 0.0


class Forecast:
    """When a job will end, smoothed, and not before anybody can know."""

    def __init__(self, now: float) -> None:
        """Starts the clock with the first work."""
        self._start = self._then = now
        self._speed: Speed | None = None  # when it is warm
        self._end: float | None = None

    def update(self, now: float, num_done: float, num_all: float) -> None:
        """Takes note of how much is done, of how much."""
        seconds, long_ago = now - self._then, now - self._start
        self._then = now
        if self._speed is None:
            if long_ago >= _WARM_UP_SECONDS:
                self._speed = Speed(now, num_done)
            return
        self._speed.update(now, num_done)
        speed = self._speed.per_second
        share = num_done / num_all if num_all else 0.0
        is_known = (long_ago >= _LEAST_SECONDS and share >= _LEAST_SHARE) or (
            long_ago >= _LEAST_SECONDS_OF_LONG
        )
        if not is_known or not speed:
            return
        left = max(num_all - num_done, 0.0) / speed
        if self._end is None:
            self._end = now + left
        else:
            inertia = min(max(left / 5.0, 1.0), _MEMORY / 2.0)
            self._end += (now + left - self._end) * -math.expm1(-seconds / inertia)

    def seconds_left(self, now: float) -> float | None:
        """How long it will take from now on; None if that would be a guess."""
        return None if self._end is None else max(self._end - now, 0.0)
