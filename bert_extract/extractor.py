"""Text files -> output files: the whole job, as the command and as a Python API."""

import hashlib
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from bert_extract import devices
from bert_extract.checkpoint import resolve_checkpoint
from bert_extract.engine import Engine
from bert_extract.errors import BertExtractError, InputError, OptionsError
from bert_extract.examples import (
    STDIN,
    Example,
    expand_input_files,
    is_remote,
    parse_line,
)
from bert_extract.options import Job, Options, parse_shard
from bert_extract.progress import Progress, Summary, write_summary_file
from bert_extract.records import JsonFormatter, Record, check_finite
from bert_extract.splits import Split, SplitReader, input_size, plan_splits
from bert_extract.version import __version__
from bert_extract.writers import (
    Writer,
    encoder_for,
    free_bytes,
    open_writer,
    peak_memory_bytes,
)

# `--verbosity=1` shows so many examples, as the original did.
_NUM_SHOWN = 5


class FeatureExtractor:
    """A BERT checkpoint that turns text into per-token vectors.

    >>> extractor = FeatureExtractor(
    ...     vocab_file="vocab.txt",
    ...     bert_config_file="bert_config.json",
    ...     init_checkpoint="bert_model.ckpt",
    ...     layers="-1",
    ... )
    >>> for record in extractor.extract(["Who was Jim Henson ? ||| A puppeteer"]):
    ...     print(record.tokens, record.layers[0].shape)

    Attributes:
      options: what the vectors are.
    """

    def __init__(self, options: Options | None = None, **knobs: Any) -> None:
        """Loads vocab, config and weights.

        Args:
          options: what the vectors are.
          **knobs: fields of `Options`, instead of `options`.

        Raises:
          BertExtractError: an option, the vocab, the config or the checkpoint cannot
            work; the message names it.
        """
        self.options = options if options is not None else Options(**knobs)
        self._engine = Engine(self.options)
        self._formatter = JsonFormatter(self._engine.indexes)

    def extract(self, lines: Iterable[str]) -> Iterator[Record]:
        """Yields one record a line, in order, lazily.

        Args:
          lines: texts, "text_a ||| text_b" for a pair, as the lines of an input file
            are read. They are taken some hundreds ahead.

        Raises:
          NotFiniteError: the model computed NaN or infinity.
        """
        examples = (parse_line(line, index) for index, line in enumerate(lines))
        for _, records, _ in self._engine.run(examples, _checked, Summary()):
            yield from records

    def extract_file(self, input_file: str, output_file: str, **knobs: Any) -> Summary:
        """Writes one output for the input; it appears when it is complete.

        Args:
          input_file: as `--input_file` takes it.
          output_file: as `--output_file` takes it.
          **knobs: other fields of `Job`.

        Returns:
          What was done.

        Raises:
          BertExtractError: the input cannot be read, the output not be written, or a
            vector is not finite.
        """
        job = Job(input_file=input_file, output_file=output_file, **knobs)
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
        summaries: list[Summary] = []
        error: BaseException | None = None
        try:
            self._run_job(job, summaries)
        except BaseException as caught:
            error = caught
            raise
        finally:
            if job.summary_file:
                write_summary_file(self.options, job, summaries, error)
        return summaries

    def _run_job(self, job: Job, summaries: list[Summary]) -> None:
        job.check()
        input_files = expand_input_files(job.input_file)
        if not job.output_dir:
            summaries.append(self._new_summary(job.output_file))
            self._write_one(job, input_files, summaries[-1])
            return
        output_files = outputs_in(job.output_dir, input_files)
        for input_name, output_name in zip(input_files, output_files, strict=True):
            summaries.append(self._new_summary(output_name))
            try:
                self._write_one(job, [input_name], summaries[-1])
            except BertExtractError as error:
                logging.error("%s", error)

    # -- one output

    def _write_one(
        self, job: Job, input_files: Sequence[str], summary: Summary
    ) -> None:
        output_file = summary.output_file
        start = time.monotonic()
        try:
            splits = plan_splits(input_files, parse_shard(job.shard))
            summary.fingerprint = self._fingerprint(job, input_files, output_file)
            writer = open_writer(output_file, summary.fingerprint, job.resume)
            summary.resumed_lines = writer.num_records_kept
            if writer.is_complete:
                logging.info("%s: is complete already", output_file)
            else:
                self._write_splits(job, splits, writer, summary)
            summary.output_bytes = writer.num_bytes
        except BaseException as error:
            summary.error = str(error) or type(error).__name__
            raise
        finally:
            summary.seconds = time.monotonic() - start
            summary.peak_memory_bytes = peak_memory_bytes()
        summary.log()

    def _write_splits(
        self, job: Job, splits: Sequence[Split], writer: Writer, summary: Summary
    ) -> None:
        reader = SplitReader(splits, job.errors, writer.num_records_kept)
        encode = encoder_for(summary.output_file, self._formatter)
        progress = Progress(summary, input_size(splits))
        num_kept_bytes = writer.num_bytes
        try:
            examples = self._shown(reader)
            for lines, buffers, is_end in self._engine.run(examples, encode, summary):
                writer.write(buffers, len(lines))
                if is_end:
                    writer.commit()
                # The reader is up to two windows ahead: near enough for a bar.
                progress.update(reader.num_bytes_read)
                progress.estimate_output(
                    reader.num_bytes_read,
                    writer.num_bytes - num_kept_bytes,
                    free_bytes(summary.output_file),
                )
        except BaseException:
            writer.suspend()
            raise
        finally:
            progress.close()
        writer.finish()

    def _shown(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Logs the first examples, for whoever asked for it."""
        for number, example in enumerate(examples):
            if number < _NUM_SHOWN and logging.level_debug():
                self._engine.log_example(example)
            yield example

    def _new_summary(self, output_file: str) -> Summary:
        return Summary(
            output_file=output_file,
            device=self._engine.device,
            precision=self.options.precision,
            num_threads=self._engine.num_threads,
            json_kernel=self._formatter.kernel,
        )

    def _fingerprint(
        self, job: Job, input_files: Sequence[str], output_file: str
    ) -> dict[str, Any]:
        """Everything that the bytes of the output depend on."""
        options = self.options
        index_file = resolve_checkpoint(options.init_checkpoint) + ".index"
        fingerprint: dict[str, Any] = {
            # The index holds a checksum of every tensor.
            "checkpoint_sha256": _sha256(index_file),
            "vocab_sha256": _sha256(options.vocab_file),
            "bert_config_sha256": _sha256(options.bert_config_file),
            "do_lower_case": options.do_lower_case,
            "layers": list(self._engine.indexes),
            "max_seq_length": options.max_seq_length,
            "precision": options.precision,
            "errors": job.errors,
            "shard": job.shard,
            "input": [_stamp(path) for path in input_files],
            "bert_extract": __version__,
            "tensorflow": tf.__version__,
            "device": self._engine.device_kind,
            "instruction_set": devices.instruction_set(),
        }
        if output_file.endswith(".gz"):
            fingerprint["zlib"] = zlib.ZLIB_RUNTIME_VERSION
        return fingerprint


def outputs_in(output_dir: str, input_files: Sequence[str]) -> list[str]:
    """The output of each input: x.txt and x.txt.gz -> output_dir/x.jsonl.

    Raises:
      OptionsError: two inputs would have one output.
    """
    input_of: dict[str, str] = {}
    for path in input_files:
        stem = os.path.basename(path).removesuffix(".gz").removesuffix(".txt")
        output_file = os.path.join(output_dir, stem + ".jsonl")
        if output_file in input_of:
            raise OptionsError(
                f"--output_dir: {input_of[output_file]} and {path} would both be "
                f"written to {output_file}; rename one of them, or run them apart"
            )
        input_of[output_file] = path
    return list(input_of)


def _checked(records: Sequence[Record]) -> Sequence[Record]:
    for record in records:
        check_finite(record)
    return records


def _stamp(path: str) -> list[Any]:
    """What tells whether an input is still the same."""
    if path == STDIN:
        return [path]
    if is_remote(path):
        status = tf.io.gfile.stat(path)
        return [path, status.length, status.mtime_nsec]
    try:
        local = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error
    return [os.path.abspath(path), local.st_size, local.st_mtime_ns]


def _sha256(path: str) -> str:
    if is_remote(path):
        with tf.io.gfile.GFile(path, "rb") as remote:
            return hashlib.sha256(remote.read()).hexdigest()
    with open(path, "rb") as reader:
        return hashlib.sha256(reader.read()).hexdigest()
