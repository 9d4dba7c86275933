"""What is told while a job runs, and the Summary at its end."""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from absl import logging

from bert_extract import guard
from bert_extract.errors import OutputError, counted
from bert_extract.inputs.features import Features, Words
from bert_extract.options import Job, Options
from bert_extract.output.streams import descriptor_of, name_of
from bert_extract.screen import is_notebook, notebook_bar_class, open_bar
from bert_extract.version import __version__
from bert_extract.work import Forecast, Speed, Work

# Between two lines of a log that nobody watches, in seconds.
_LOG_SECONDS = 60.0
# Between two states of a bar, and two looks at what is done.
_TICK_SECONDS = 0.5
# From when on a time that is left is told in minutes, and in hours.
_LEAST_MINUTES = 2
_LEAST_HOURS = 10
# What takes less shows no bar of records.
_BAR_SECONDS = 0.5
# The output's size is estimated when so much of the input is done, or so many bytes
# are written: from fewer lines it would be a guess.
_ESTIMATE_AT_SHARE = 0.01
_ESTIMATE_AT_LINES = 128
_ESTIMATE_AT_BYTES = 64 << 20
_TERABYTE = 10**12


# Numbers of a summary that are sums where several are made one.
_ADDED_UP = (
    "num_lines",
    "num_pairs",
    "num_tokens",
    "num_slots",
    "num_repeated",
    "num_truncated",
    "num_truncated_pairs",
    "num_windowed",
    "num_words_without_vector",
    "num_words_cut",
    "num_unsplit",
    "resumed_lines",
    "output_bytes",
    "seconds",
)


@dataclass
class Summary:
    """What one job did; counted up while it runs."""

    output_file: str = ""
    num_lines: int = 0  # of which this run wrote the records
    num_pairs: int = 0
    # As the model sees them: [CLS] and [SEP] included, padding not. What two windows
    # over a long text have in common counts twice, and with --unit=word a model input
    # counts once for each part of its words that needs it: they come 1,024 at a time.
    num_tokens: int = 0
    num_slots: int = 0  # tokens that were computed, padding included
    # Tokens of lines that were not computed, as one beside them said the same.
    num_repeated: int = 0
    num_truncated: int = 0  # lines of which wordpieces were left out
    num_truncated_pairs: int = 0  # of these, pairs: no window slides over them
    num_windowed: int = 0  # lines that took more than one window
    num_words_without_vector: int = 0  # zeros: the model saw nothing of them
    num_words_cut: int = 0  # the model saw only their beginning
    num_unsplit: int = 0  # lines that hold "|||" and are one text
    resumed_lines: int = 0  # kept from an earlier run
    resumable_lines: int = 0  # left in OUTPUT.partial by this one, which failed
    # It failed over what stands in its input, so that a mended one is another.
    needs_same_input: bool = False
    output_bytes: int = 0  # kept ones included
    seconds: float = 0.0  # from the first line read to the output in its place
    peak_memory_bytes: int = 0
    device: str = ""
    arithmetic: str = ""  # the kernels that computed
    # Whether a line has the same bytes in any batch there; None until it is known.
    same_bytes: bool | None = None
    precision: str = ""
    num_threads: int = 0
    json_kernel: str = ""  # "compiled" or "python"; "" where no JSON is written
    error: str | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def count(self, features: Features) -> None:
        """Adds a line, or a part of one, that is done."""
        self.num_tokens += len(features.input_ids)
        self.num_pairs += features.is_pair
        self.num_truncated += features.is_truncated
        self.num_truncated_pairs += features.is_truncated and features.is_pair
        part = features.part
        self.num_lines += part.is_last
        self.num_windowed += part.is_windowed and part.is_last
        if isinstance(part.entries, Words):
            self.num_words_without_vector += part.entries.num_without_vector
            self.num_words_cut += part.entries.num_cut

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, padding not counted."""
        return self.num_tokens / self.seconds if self.seconds else 0.0

    @property
    def padding(self) -> float:
        """The share of padding in what was computed, or was there already."""
        num_slots = self.num_slots + self.num_repeated
        return 1.0 - self.num_tokens / num_slots if num_slots else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything, for `--summary_file`."""
        values = dataclasses.asdict(self)
        values["tokens_per_second"] = round(self.tokens_per_second, 1)
        values["padding"] = round(self.padding, 4)
        return values

    def log(self, is_one_of_many: bool = False) -> None:
        """Says it to a person; of one of many outputs only to whoever wants details."""
        if is_one_of_many and not logging.level_debug():
            return
        kept = ""
        if self.resumed_lines:
            ones = "one" if self.resumed_lines == 1 else "ones"
            kept = f" after {self.resumed_lines:,} kept {ones}"
        logging.info(
            "%s: %s%s (%s, %s truncated%s), %s, %.1f s, "
            "%s tokens/s, padding %.1f %%, %s, peak memory %s MB%s",
            name_of(self.output_file),
            counted(self.num_lines, "line"),
            kept,
            counted(self.num_pairs, "pair"),
            f"{self.num_truncated:,}",
            f", {self.num_windowed:,} in windows" if self.num_windowed else "",
            counted(self.num_tokens, "token"),
            self.seconds,
            f"{self.tokens_per_second:,.0f}",
            100 * self.padding,
            counted(self.output_bytes, "byte"),
            f"{self.peak_memory_bytes >> 20:,}",
            f", {self.json_kernel} JSON kernel" if self.json_kernel else "",
        )
        self._warn()

    def _warn(self) -> None:
        """Says what people would not like to find out later."""
        if self.num_truncated:
            logging.warning(
                "lines longer than --max_seq_length, which were truncated: %s%s",
                f"{self.num_truncated:,}",
                f" ({self.num_truncated_pairs:,} of them pairs)"
                if self.num_truncated_pairs
                else "",
            )
        if self.num_words_without_vector or self.num_words_cut:
            logging.warning(
                "words of which the model saw nothing, and which have zeros: %s; only "
                "the beginning: %s",
                f"{self.num_words_without_vector:,}",
                f"{self.num_words_cut:,}",
            )
        if self.num_unsplit:
            logging.warning(
                "lines with '|||' that were read as one text: %s; a pair is separated "
                "by exactly ' ||| ', one space on each side; if they are text, say "
                "--pairs=false",
                f"{self.num_unsplit:,}",
            )


def total(name: str, summaries: Sequence[Summary]) -> Summary:
    """Adds up what was done for several outputs, one of them at least.

    Args:
      name: what stands in place of an output's name.
      summaries: of the outputs.
    """
    done = sum(not summary.error for summary in summaries)
    whole = dataclasses.replace(
        summaries[0], output_file=f"{name}: {done:,} of {len(summaries):,} outputs"
    )
    for summary in summaries[1:]:
        for name in _ADDED_UP:
            setattr(whole, name, getattr(whole, name) + getattr(summary, name))
        whole.json_kernel = whole.json_kernel or summary.json_kernel
    whole.peak_memory_bytes = max(summary.peak_memory_bytes for summary in summaries)
    return whole


@contextlib.contextmanager
def summarizing(
    options: Options, job: Job, flagfiles: Sequence[str] = ()
) -> Iterator[list[Summary]]:
    """Writes `--summary_file` at the end, whatever the end is.

    Args:
      options: what the vectors are.
      job: what is done.
      flagfiles: that the command has read; nothing is written to them.

    Yields:
      A list that gets the summaries of the outputs.

    Raises:
      OutputError: the file cannot be written.
      OptionsError: it would replace what is no summary.
    """
    if job.summary_file:
        _check_summary_file(job.summary_file)
        guard.check_summary(options, job, flagfiles)
    summaries: list[Summary] = []
    try:
        yield summaries
    except BaseException as error:
        if job.summary_file:
            try:
                _write_summary_file(options, job, summaries, error)
            except OutputError as failure:
                logging.error("%s", failure)  # what came first is more important
        raise
    if job.summary_file:
        _write_summary_file(options, job, summaries, None)


def _check_summary_file(summary_file: str) -> None:
    """Finds out now, not after nine hours, that it could not be written."""
    folder = os.path.dirname(os.path.realpath(summary_file))
    if not os.path.isdir(folder) or os.path.isdir(summary_file):
        raise OutputError(
            f"--summary_file: {summary_file}: expected a file in a folder that is there"
        )


def _write_summary_file(
    options: Options,
    job: Job,
    summaries: Sequence[Summary],
    error: BaseException | None,
) -> None:
    story = {
        "bert_extract": __version__,
        "tensorflow": _installed_version("tensorflow"),
        "python": platform.python_version(),
        "host": platform.node(),
        "options": dataclasses.asdict(options),
        "job": dataclasses.asdict(job),
        "error": None if error is None else str(error) or type(error).__name__,
        "outputs": [summary.as_dict() for summary in summaries],
    }
    path = os.path.realpath(job.summary_file)
    # What is not a regular file is never renamed over, nor is what a standard stream
    # was redirected to.
    is_stream = guard.is_stream(job.summary_file)
    is_special = is_stream or (os.path.exists(path) and not os.path.isfile(path))
    temporary = path if is_special else path + ".tmp"
    target = descriptor_of(job.summary_file) if is_stream else None
    try:
        with open(
            temporary if target is None else target,
            "w",
            encoding="utf-8",
            closefd=target is None,
        ) as writer:
            json.dump(story, writer, indent=1)
            writer.write("\n")
        if not is_special:
            os.replace(temporary, path)
    except OSError as failure:
        if not is_special:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise OutputError(
            f"{job.summary_file}: cannot write the summary: {failure.strerror}"
        ) from failure


def _installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None  # TensorFlow is also built under other names


class RecordBar:
    """A bar of records, for Python."""

    def __init__(self, num_records: int | None, is_wanted: bool | None) -> None:
        """Makes one; what is done at once shows none.

        Args:
          num_records: how many there will be; None if nobody knows.
          is_wanted: whether there is a bar at all; None: in a notebook.
        """
        self._bar: Any = None
        if is_notebook() if is_wanted is None else is_wanted:
            self._bar = notebook_bar_class()(
                total=num_records, unit=" records", delay=_BAR_SECONDS, file=sys.stderr
            )

    def count(self) -> None:
        """One more is there."""
        if self._bar is not None:
            self._bar.update()

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()


@dataclass
class _CurrentOutput:
    """The output that is being made."""

    num_lines_kept: int
    num_lines_before: int  # lines that were read for those before it
    num_bytes_of: Callable[[int], int]
    is_converted: bool = False  # all of it is computed


class Progress:
    """A bar on a terminal or in a notebook, a line now and then in a log.

    One for a whole job, however many outputs it has. As a context manager it looks by
    itself what is done.

    Attributes:
      work: what is done; counted up by others.
      num_outputs: how many outputs the job has.
    """

    def __init__(self, num_outputs: int = 1, input_bytes: int | None = None) -> None:
        """Starts the clock.

        Args:
          num_outputs: how many there will be.
          input_bytes: the size of all inputs on the disk; None if it is not known. Of
            a single output it is told later.
        """
        self.work = Work()
        self.num_outputs = num_outputs
        self._num_ended = 0
        self._input_bytes = input_bytes
        # Of outputs that have ended: bytes that were computed, and that were not.
        self._num_bytes_read = self._num_bytes_kept = 0
        self._num_lines_kept = 0
        self._output: _CurrentOutput | None = None
        self._lock = threading.Lock()  # of all before

        self._start = self._last_log = time.monotonic()
        self._forecast: Forecast | None = None  # from the first work on
        self._speed = Speed(self._start)
        self._share: float | None = None
        self._bar = open_bar()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Progress":
        if self._bar is not None or logging.level_info():
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _watch(self) -> None:
        while not self._is_over.wait(_TICK_SECONDS):
            self.tick()

    def begin(
        self,
        input_bytes: int | None,
        num_lines_kept: int,
        num_bytes_of: Callable[[int], int],
    ) -> None:
        """An output is begun.

        Args:
          input_bytes: the size of what it is made from; None if it is not known.
          num_lines_kept: lines of it that are there already.
          num_bytes_of: how much of the input its first lines take, of those that
            were read.
        """
        with self._lock:
            self._num_lines_kept += num_lines_kept
            if self.num_outputs == 1:
                self._input_bytes = input_bytes
            self._output = _CurrentOutput(
                num_lines_kept, self.work.num_lines_read, num_bytes_of
            )

    def convert(self) -> None:
        """All of an output is computed, and it is made of that now."""
        with self._lock:
            if self._output is not None:
                self._output.is_converted = True

    def end(self, input_bytes: int | None) -> None:
        """An output has ended, in whatever way; it need not have begun."""
        with self._lock:
            num_read, _ = self._bytes_of_output()
            self._num_bytes_read += num_read
            self._num_bytes_kept += max((input_bytes or 0) - num_read, 0)
            self._output = None
            self._num_ended += 1

    def tick(self) -> None:
        """Looks what is done, and shows it."""
        now = time.monotonic()
        self._look(now)
        bar = self._bar  # which another thread may take away just now
        if bar is not None:
            bar.show(self._share, self._words_of_bar(now))
        elif now - self._last_log >= _LOG_SECONDS:
            self._last_log = now
            logging.info("%s", ", ".join(self._words_of_log(now)))

    def close(self) -> None:
        """Takes the bar away."""
        try:
            self._is_over.set()
            if self._thread is not None:
                self._thread.join()
                self._thread = None
        finally:  # a signal may come just now
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    # -- what is known

    def _look(self, now: float) -> None:
        """Takes note of what is done."""
        self._speed.update(now, self.work.num_tokens)
        num_done = self.work.num_done
        with self._lock:
            num_read, num_kept = self._bytes_of_output()
            num_read += self._num_bytes_read
            num_kept += self._num_bytes_kept
        if not self._input_bytes:
            return
        num_all = self._num_tokens(num_read, self._input_bytes - num_kept)
        share = num_kept / self._input_bytes
        if num_all is not None:
            share += (1.0 - share) * min(num_done / num_all, 1.0)
            if self._forecast is None:
                self._forecast = Forecast(now)
            self._forecast.update(now, num_done, num_all)
        elif not num_kept:
            return
        # It never goes back, even if the rest turns out to be more.
        self._share = min(max(share, self._share or 0.0), 1.0)

    def _bytes_of_output(self) -> tuple[int, int]:
        """Of the current output: bytes of the input that were read, and kept ones."""
        output = self._output
        if output is None:
            return 0, 0
        num_lines = self.work.num_lines_read - output.num_lines_before
        if not num_lines:
            return 0, 0
        num_kept = output.num_bytes_of(output.num_lines_kept)
        return output.num_bytes_of(
            output.num_lines_kept + num_lines
        ) - num_kept, num_kept

    def _num_tokens(self, num_bytes_read: int, num_bytes: int) -> float | None:
        """How many tokens all of the input has, most likely; None if nobody knows."""
        num_tokens = self.work.num_tokens_read
        if not self.work.num_tokens or not num_bytes_read:
            return None
        if self.work.is_all_read and self._num_ended == self.num_outputs - 1:
            return num_tokens
        # Of a small compressed file all bytes are read at once, and then its lines.
        if num_bytes_read >= num_bytes:
            return None
        return num_tokens * num_bytes / num_bytes_read

    # -- what is said

    def _words(self) -> list[str]:
        output, words = self._output, []
        if self.num_outputs > 1:
            number = min(self._num_ended + 1, self.num_outputs)
            words.append(f"file {number:,} of {self.num_outputs:,}")
        if output is None and not self._num_ended:
            words.append("starting")
        elif output is not None and output.is_converted:
            words.append("writing the file")
        else:
            words.append(counted(self._num_lines_kept + self.work.num_lines, "line"))
        return words

    def _words_of_bar(self, now: float) -> list[str]:
        words = [*self._words(), _clock(now - self._start)]
        left = self._seconds_left(now)
        if left is not None:
            words.append(f"{_clock(left)} left")
        if self.work.num_tokens and not self._is_converting():
            words.append(f"{self._speed.per_second:,.0f} tokens/s")
        return words

    def _words_of_log(self, now: float) -> list[str]:
        words = self._words()
        if not self._is_converting():
            words.append(f"{self._speed.per_second:,.0f} tokens/s")
        if self._share is not None:
            words.append(f"{math.floor(100 * self._share)} % done")
        left = self._seconds_left(now)
        if left is not None:
            words.append(f"about {_duration(left)} left")
        return words

    def _seconds_left(self, now: float) -> float | None:
        is_last = self._num_ended == self.num_outputs - 1
        if self._forecast is None or (is_last and self._is_converting()):
            return None
        return self._forecast.seconds_left(now)

    def _is_converting(self) -> bool:
        output = self._output
        return output is not None and output.is_converted


def _clock(seconds: float) -> str:
    """As a clock shows it: 0:59, 1:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _duration(seconds: float) -> str:
    """As a person would say it."""
    if round(seconds) < _LEAST_MINUTES * 60:
        return f"{seconds:.0f} seconds"
    if seconds < _LEAST_HOURS * 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"


class OutputForecast:
    """How large an output will be, which is told once if it matters."""

    def __init__(self, output_file: str, input_bytes: int | None) -> None:
        """Knows nothing yet.

        Args:
          output_file: its name.
          input_bytes: the size of its input on the disk; None if it is not known.
        """
        self._output_file = output_file
        self._input_bytes = input_bytes
        self.is_over = not input_bytes  # or cannot begin

    def update(
        self,
        num_lines: int,
        num_bytes_read: int,
        num_bytes: int,
        free: int | None,
        num_copies: int = 1,
    ) -> None:
        """Warns once if the output will not fit, or will be enormous.

        Args:
          num_lines: lines of the output so far.
          num_bytes_read: bytes of the input that these lines take.
          num_bytes: bytes of the output so far.
          free: room on the output's disk; None if nobody knows.
          num_copies: how often they are there before the output is complete.
        """
        if self.is_over or not self._input_bytes or not num_bytes_read:
            return
        share = num_bytes_read / self._input_bytes
        is_enough = num_lines >= _ESTIMATE_AT_LINES and share >= _ESTIMATE_AT_SHARE
        if not is_enough and num_bytes < _ESTIMATE_AT_BYTES:
            return
        self.is_over = True
        total = int(num_bytes / min(share, 1.0))
        needed = total * num_copies - num_bytes
        if free is not None and needed > free:
            logging.warning(
                "%s: the output will be about %s bytes, and its disk has room for %s "
                "more%s",
                self._output_file,
                f"{total:,}",
                f"{free:,}",
                f"; making it takes {needed:,}" if num_copies > 1 else "",
            )
        if total > _TERABYTE:
            logging.warning(
                "%s: the output will be about %s bytes; fewer --layers, --unit=word or "
                "sentence, or --output_format=parquet make it smaller",
                self._output_file,
                f"{total:,}",
            )
