"""Parts that are done -> the counts of a job, and what people are told meanwhile."""

import time

from absl import logging

from bert_extract.cluster.messages import Done, Task
from bert_extract.output.writers import free_bytes
from bert_extract.progress import OutputForecast, Summary
from bert_extract.screen import open_bar

# Between two lines of a log that nobody watches.
_LOG_SECONDS = 60.0


class Tally:
    """What is done so far, for the summary and for people."""

    def __init__(self, summary: Summary, num_bytes: int, num_copies: int) -> None:
        """Begins with nothing.

        Args:
          summary: gets the counts.
          num_bytes: of the input, that are to be done.
          num_copies: how often the disk holds the output before it is there.
        """
        self._summary = summary
        self._input_bytes = max(1, num_bytes)
        self._num_bytes = 0  # of the input, of this run
        self._output_bytes = 0
        self._start = self._last_log = time.monotonic()
        self._forecast = OutputForecast(summary.output_file, num_bytes)
        self._num_copies = num_copies
        self._bar = open_bar()

    def add(self, task: Task, done: Done) -> None:
        """Counts a part."""
        summary = self._summary
        for name, count in done.counts.items():
            setattr(summary, name, getattr(summary, name) + count)
        self._num_bytes += task.planned.num_bytes
        self._output_bytes += done.part.num_bytes
        self._forecast.update(
            summary.num_lines,
            self._num_bytes,
            self._output_bytes,
            free_bytes(summary.output_file),
            self._num_copies,
        )

    def show(self, num_workers: int) -> None:
        """Shows it."""
        now = time.monotonic()
        is_due = now - self._last_log >= _LOG_SECONDS
        if self._bar is None and not is_due:
            return
        elapsed = now - self._start
        share = self._num_bytes / self._input_bytes
        words = [
            f"{self._summary.num_lines:,} lines",
            f"{num_workers} workers",
            f"{self._summary.num_tokens / max(elapsed, 1.0):,.0f} tokens/s",
        ]
        if share:
            words.append(f"{elapsed * (1.0 / share - 1.0) / 60:,.0f} minutes left")
        if self._bar is not None:
            self._bar.show(share, words)
        else:
            self._last_log = now
            logging.info("%s, %d %% done", ", ".join(words), int(100 * share))

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
