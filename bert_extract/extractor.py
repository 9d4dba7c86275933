"""FeatureExtractor: a checkpoint in memory, for Python; the command does the same."""

import contextlib
import os
import reprlib
import threading
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from types import TracebackType
from typing import Any

from bert_extract.cluster import driver
from bert_extract.engine import Engine
from bert_extract.errors import ArgumentTypeError, BertExtractError, OptionsError
from bert_extract.jobs import run_job
from bert_extract.loaded_model import OpenedModel
from bert_extract.options import Job, Options
from bert_extract.output.record import (
    Record,
    RecordPart,
    check_finite,
    join_records,
)
from bert_extract.progress import RecordBar, Summary, summarizing
from bert_extract.text.examples import Example, Line, to_example


class FeatureExtractor:
    """A BERT checkpoint that turns text into per-token vectors.

    >>> extractor = FeatureExtractor.from_model_dir("uncased_L-12_H-768_A-12")
    >>> for record in extractor.extract(["the bank", ("Who was he ?", "A puppeteer")]):
    ...     print(record.tokens, record.vectors.shape)

    Any number of threads may use it at once, each with iterators of its own. As a
    context manager it is closed at the end.

    Attributes:
      options: what the vectors are.
    """

    def __init__(self, options: Options | None = None, **fields: Any) -> None:
        """Loads vocab, config and weights.

        Args:
          options: what the vectors are.
          **fields: fields of `Options`, instead of `options`.

        Raises:
          BertExtractError: an option, the vocab, the config or the checkpoint cannot
            work; the message names it.
        """
        if options is not None and fields:
            raise ArgumentTypeError(f"both options and {', '.join(fields)} are given")
        if options is not None and not isinstance(options, Options):
            raise ArgumentTypeError(
                "FeatureExtractor takes Options, or their fields by name, as in "
                f"FeatureExtractor(model_dir=...); found {options!r} "
                f"({type(options).__name__})"
            )
        self.options = options if options is not None else Options(**fields)
        self._engine = Engine(OpenedModel(self.options))  # until it is closed
        self._lock = threading.Lock()
        # What `extract` began, until somebody drops it.
        self._runs: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()

    @classmethod
    def from_model_dir(
        cls, model_dir: str | os.PathLike[str], **fields: Any
    ) -> "FeatureExtractor":
        """Loads a BERT from its folder, as it was published.

        Args:
          model_dir: as `--model_dir` takes it.
          **fields: other fields of `Options`.

        Raises:
          BertExtractError: as of the constructor.
        """
        return cls(model_dir=model_dir, **fields)

    def __enter__(self) -> "FeatureExtractor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the weights, and ends the threads of what `extract` began.

        To take another record from that is an error afterwards: none is missing
        without a word.
        """
        with self._lock:
            vars(self).pop("_engine", None)
            runs = list(self._runs)
        for run in runs:
            # One that another thread waits in at this moment ends with its next record.
            with contextlib.suppress(ValueError):
                run.close()

    def extract(
        self, lines: Iterable[Line], *, progress: bool | None = None
    ) -> Iterator[Record]:
        """Yields one record a line, in order, lazily.

        Args:
          lines: texts, "text_a ||| text_b" for a pair, as the lines of an input file
            are read; or tuples (text_a, text_b), which are pairs whatever bars they
            hold. Offsets of such a pair are those of the line that it would be, with
            " ||| " between the two.
            They are taken ahead, in another thread, up to some fifty thousand tokens,
            so that batches are full; but if there are no more for a second, those
            that were taken are computed.
          progress: whether a bar shows how many there are; by default in a notebook.

        Raises:
          ArgumentTypeError: lines is one text, or one of them is neither a str nor a
            tuple of two.
          NotFiniteError: the model computed NaN or infinity.
          BertExtractError: this process was forked from the one that the extractor
            was made in, or the extractor is closed.
        """
        if isinstance(lines, (str, bytes)) or not isinstance(lines, Iterable):
            raise ArgumentTypeError(
                "extract takes several texts, as in extract([text]); found "
                f"{reprlib.repr(lines)} ({type(lines).__name__})"
            )
        return self._extract(lines, self._opened(), progress)

    def _opened(self) -> Engine:
        try:
            return self._engine
        except AttributeError:
            raise BertExtractError(
                "this FeatureExtractor is closed, and so is what was begun with it; "
                "take all records before the end of its `with`, or make another one"
            ) from None

    def _extract(
        self, lines: Iterable[Line], engine: Engine, progress: bool | None
    ) -> Iterator[Record]:
        wanted = _Wanted(lines, self.options.pairs)
        # What has no length may be made while it is taken.
        may_pause = not isinstance(lines, Sized)
        groups = engine.run(wanted.examples(), _checked, Summary(), may_pause=may_pause)
        with self._lock:
            self._opened()
            self._runs.add(groups)
        num_lines = len(lines) if isinstance(lines, Sized) else None
        bar = RecordBar(num_lines, progress)
        records: list[Record] = []  # of one line's parts
        try:
            for group in groups:
                for part in group.encoded:
                    records.append(part.record)
                    if part.is_last:
                        bar.count()
                        yield join_records(records)
                        records.clear()
                        self._opened()
        finally:
            wanted.stop()
            groups.close()
            bar.close()

    def extract_file(self, input_file: str, output_file: str, **fields: Any) -> Summary:
        """Writes one output for the input; it appears when it is complete.

        Args:
          input_file: as `--input_file` takes it.
          output_file: as `--output_file` takes it.
          **fields: other fields of `Job`.

        Returns:
          What was done.

        Raises:
          BertExtractError: the input cannot be read, the output not be written, or a
            vector is not finite.
        """
        job = Job(input_file=input_file, output_file=output_file, **fields)
        (summary,) = self.run_job(job)
        return summary

    def run_job(self, job: Job) -> list[Summary]:
        """Does a job: one output, or with `output_dir` one for each input file.

        With `output_dir` a file that fails does not stop the others.

        Returns:
          A summary for each output; with `output_dir` those that failed have their
          `error`.

        Raises:
          BertExtractError: the job cannot be done, or its only output failed.
        """
        model = self._opened().model
        with summarizing(self.options, job) as summaries:
            if job.runner == "ray":
                driver.run_job(self.options, job, summaries)
            else:
                run_job(model, job, summaries)
        return summaries


def run_on_cluster(options: Options, job: Job) -> Summary:
    """Does a job on a Ray cluster, with no model in this process.

    So it need not be a machine on which the precision works, or with room for the
    weights.

    Args:
      options: what the vectors are.
      job: with `runner` "ray".

    Returns:
      What was done.

    Raises:
      BertExtractError: the job cannot be done, or some of its splits failed.
    """
    if job.runner != "ray":
        raise OptionsError(
            f"run_on_cluster: expected a Job with runner='ray', found {job.runner!r}; "
            "FeatureExtractor(...).run_job does it here"
        )
    with summarizing(options, job) as summaries:
        driver.run_job(options, job, summaries)
    (summary,) = summaries
    return summary


class _Wanted:
    """Lines as examples, for as long as anybody takes records of them."""

    def __init__(self, lines: Iterable[Line], pairs: bool) -> None:
        self._lines = lines
        self._pairs = pairs
        self._is_stopped = False

    def examples(self) -> Iterator[Example]:
        """Yields them; another thread takes them."""
        for index, line in enumerate(self._lines):
            if self._is_stopped:
                return
            yield to_example(line, index, self._pairs)

    def stop(self) -> None:
        """Ends it before the next line: the source may be slow, or endless."""
        self._is_stopped = True


def _checked(parts: Sequence[RecordPart]) -> Sequence[RecordPart]:
    for part in parts:
        check_finite(part)
    return parts
