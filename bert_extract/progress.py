"""What is told while a job runs, and the Summary at its end."""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from absl import logging
from tqdm import tqdm

from bert_extract import guard
from bert_extract.errors import OutputError
from bert_extract.inputs.features import Features, Words
from bert_extract.options import Job, Options
from bert_extract.output.writers import descriptor_of
from bert_extract.version import __version__

# Between two lines of a log that nobody watches, in seconds.
_LOG_SECONDS = 60.0
# What takes less shows no bar of records.
_BAR_SECONDS = 0.5
# The output's size is estimated when so much of the input is done, or so many bytes
# are written: from fewer lines it would be a guess.
_ESTIMATE_AT_SHARE = 0.01
_ESTIMATE_AT_LINES = 128
_ESTIMATE_AT_BYTES = 64 << 20
_TERABYTE = 10**12


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
        """The share of what was computed that was padding."""
        return 1.0 - self.num_tokens / self.num_slots if self.num_slots else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything, for `--summary_file`."""
        values = dataclasses.asdict(self)
        values["tokens_per_second"] = round(self.tokens_per_second, 1)
        values["padding"] = round(self.padding, 4)
        return values

    def log(self) -> None:
        """Says it to a person."""
        kept = f" after {self.resumed_lines:,} kept ones" if self.resumed_lines else ""
        logging.info(
            "%s: %s lines%s (%s pairs, %s truncated%s), %s tokens, %.1f s, "
            "%s tokens/s, padding %.1f %%, %s bytes, peak memory %s MB%s",
            self.output_file,
            f"{self.num_lines:,}",
            kept,
            f"{self.num_pairs:,}",
            f"{self.num_truncated:,}",
            f", {self.num_windowed:,} in windows" if self.num_windowed else "",
            f"{self.num_tokens:,}",
            self.seconds,
            f"{self.tokens_per_second:,.0f}",
            100 * self.padding,
            f"{self.output_bytes:,}",
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


def is_notebook() -> bool:
    """Whether this process works for a notebook."""
    # Not imported: where there is a notebook, it is there.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _bar_class() -> Any:
    """The bar that the screen can show: a widget in a notebook that has widgets."""
    if is_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar
    return tqdm


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
            self._bar = _bar_class()(
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


class Progress:
    """A bar on a terminal or in a notebook, a line now and then in a log."""

    def __init__(self, summary: Summary, input_bytes: int | None) -> None:
        """Starts the clock.

        Args:
          summary: counted up by others.
          input_bytes: the input's size on the disk; None if it is not known.
        """
        self._summary = summary
        self._input_bytes = input_bytes
        self._start = self._last_log = time.monotonic()
        self.has_estimated = not input_bytes  # or cannot
        is_watched = is_notebook() or (sys.stderr.isatty() and logging.level_info())
        known = "{percentage:3.0f}%|{bar}| "
        self._bar: Any = None
        if is_watched:
            self._bar = _bar_class()(
                total=input_bytes,
                bar_format=(known if input_bytes else "")
                + "{desc} [{elapsed}"
                + ("<{remaining}]" if input_bytes else "]"),
                leave=False,
                file=sys.stderr,
            )

    def update(self, num_bytes_read: int) -> None:
        """Shows how far the job is.

        Args:
          num_bytes_read: bytes of the input that are done with.
        """
        elapsed = time.monotonic() - self._start
        speed = self._summary.num_tokens / elapsed if elapsed else 0.0
        text = f"{self._summary.num_lines:,} lines, {speed:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(num_bytes_read - self._bar.n)
        elif time.monotonic() - self._last_log >= _LOG_SECONDS:
            self._last_log = time.monotonic()
            logging.info("%s%s", text, self._time_left(num_bytes_read, elapsed))

    def _time_left(self, num_bytes_read: int, elapsed: float) -> str:
        if not self._input_bytes or not num_bytes_read:
            return ""
        left = elapsed * (self._input_bytes / num_bytes_read - 1.0)
        return f", {max(left, 0) / 60:.0f} minutes left"

    def estimate_output(
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
        if self.has_estimated or not self._input_bytes or not num_bytes_read:
            return
        share = num_bytes_read / self._input_bytes
        is_enough = num_lines >= _ESTIMATE_AT_LINES and share >= _ESTIMATE_AT_SHARE
        if not is_enough and num_bytes < _ESTIMATE_AT_BYTES:
            return
        self.has_estimated = True
        total = int(num_bytes / min(share, 1.0))
        needed = total * num_copies - num_bytes
        if free is not None and needed > free:
            logging.warning(
                "%s: the output will be about %s bytes, and its disk has room for %s "
                "more%s",
                self._summary.output_file,
                f"{total:,}",
                f"{free:,}",
                f"; making it takes {needed:,}" if num_copies > 1 else "",
            )
        if total > _TERABYTE:
            logging.warning(
                "%s: the output will be about %s bytes; fewer --layers, --unit=word or "
                "sentence, or --output_format=parquet make it smaller",
                self._summary.output_file,
                f"{total:,}",
            )

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
