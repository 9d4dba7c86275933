"""Job -> output files: every one whole, resumable, or with its error in a Summary."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from bert_extract import guard
from bert_extract.engine import Engine
from bert_extract.errors import (
    CheckpointError,
    InputError,
    InputReadError,
    NotFiniteError,
    OptionsError,
    OutputError,
    counted,
)
from bert_extract.files import is_remote, sha256_of
from bert_extract.formats import JSONL, check_installed, format_of
from bert_extract.loaded_model import OpenedModel
from bert_extract.model import arithmetic
from bert_extract.options import MODEL_POOLING, Job, parse_shard
from bert_extract.output.fingerprints import (
    CONTENTS,
    STAMPS,
    is_of_same_names,
    is_same,
)
from bert_extract.output.limits import Room, check_inputs
from bert_extract.output.record import RecordSchema
from bert_extract.output.writers import (
    OutputSpec,
    Writer,
    encoder_for,
    find_complete,
    find_fingerprint,
    fingerprint_of,
    free_bytes,
    keeps_run_file,
    open_writer,
    peak_memory_bytes,
)
from bert_extract.progress import OutputForecast, Progress, Summary, total
from bert_extract.text.examples import STDIN, Example
from bert_extract.text.splits import (
    Split,
    SplitReader,
    check_shards,
    input_size,
    may_be_slow,
    plan_splits,
)
from bert_extract.text.stamps import InputWatch
from bert_extract.version import __version__

# `--verbosity=1` shows so many examples, as the original did.
_NUM_SHOWN = 5


def run_job(
    model: OpenedModel,
    job: Job,
    summaries: list[Summary],
    flagfiles: Sequence[str] = (),
) -> None:
    """Does a job: one output, or with `output_dir` one for each input file.

    With `output_dir` a file that fails does not stop the others: its summary has the
    error.

    Args:
      model: its weights are loaded as soon as there is a line to compute.
      job: what to read and where to write.
      summaries: gets a `Summary` for each output, before it is begun.
      flagfiles: that the command has read; nothing is written to them.

    Raises:
      BertExtractError: the job cannot be done, or its only output failed.
    """
    job.check()
    input_files = guard.find_inputs(job)
    _check_files(job, input_files)
    output_files = job.output_files(input_files)
    model_files = ModelFiles(model)
    guard.check_outputs(
        model.options,
        job,
        input_files,
        output_files,
        model_files.of_checkpoint(),
        flagfiles,
    )
    _warn_of_other_bytes(model, job)
    if not job.output_dir:
        with Progress() as progress:
            _do_output(
                model,
                job,
                model_files,
                input_files,
                job.output_file,
                summaries,
                progress,
            )
        return
    _make_folder(job.output_dir)
    sizes = [_size(path) for path in input_files]
    known = [size for size in sizes if size is not None]
    num_bytes = sum(known) if len(known) == len(sizes) else None
    files = zip(input_files, output_files, sizes, strict=True)
    with Progress(len(sizes), num_bytes) as progress:
        for input_name, output_name, size in files:
            try:
                _do_output(
                    model,
                    job,
                    model_files,
                    [input_name],
                    output_name,
                    summaries,
                    progress,
                )
            except (InputError, OutputError, NotFiniteError) as error:
                logging.error("%s", error)
            progress.end(size)
    if len(summaries) > 1:
        total(job.output_dir, summaries).log()


def _size(path: str) -> int | None:
    try:
        return input_size([Split(path, 0, None, 0, 0)])
    except InputError:
        return 0  # it has gone, and will be told when its turn comes


def _make_folder(output_dir: str) -> None:
    if is_remote(output_dir):
        return  # object stores have none
    try:
        os.makedirs(output_dir, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"--output_dir: {output_dir}: cannot make this folder: {error.strerror}"
        ) from error


def _check_files(job: Job, input_files: Sequence[str]) -> None:
    """Refuses what only a file that lies still can give: parts, and a second look."""
    for path in input_files:
        if is_remote(path) or os.path.isfile(path) or os.path.isdir(path):
            continue
        if job.resume:
            raise OptionsError(
                f"--resume: {path} is not a regular file: what was read from it before "
                "cannot be skipped; run without it, or give a file"
            )
        if job.shard:
            raise OptionsError(
                f"--shard: {path} is not a regular file and cannot be cut into parts; "
                "give a file"
            )


def _warn_of_other_bytes(model: OpenedModel, job: Job) -> None:
    """Says what a part of a run can still promise where bytes depend on batches."""
    flag = "--resume" if job.resume else "--shard" if job.shard else ""
    if flag and not model.keeps_bits:
        logging.warning(
            "%s: no line is lost or doubled, and the values are those of a run in one "
            "go within 2e-5, but not its very bytes: see above",
            flag,
        )


# ------------------------------------------------------------------- one output


def _do_output(
    model: OpenedModel,
    job: Job,
    model_files: "ModelFiles",
    input_files: Sequence[str],
    output_file: str,
    summaries: list[Summary],
    progress: Progress,
) -> None:
    kind = output_spec(model, job, output_file)
    summary = Summary(
        output_file=output_file,
        device=model.device,
        arithmetic=model.arithmetic.kernels,
        precision=model.options.precision,
        num_threads=model.num_threads,
    )
    summaries.append(summary)
    with recording(summary):
        # The first look at the inputs: whatever is read later is compared with it.
        watch = InputWatch(input_files)
        shard = parse_shard(job.shard)
        if shard is not None:
            check_shards(input_files, shard, watch.size_of)
        splits = plan_splits(input_files, shard, watch.size_of)
        if shard is not None:
            watch.check_all()  # their sizes and lines say where the shard begins
        fingerprint = {
            **fingerprint_of_job(model, job, model_files, watch, kind),
            **fingerprint_of_arithmetic(model),
        }
        summary.fingerprint, resume = _with_contents(
            job, output_file, watch, fingerprint
        )
        summary.same_bytes = model.keeps_bits
        if resume and _is_complete(summary, progress.num_outputs > 1):
            return
        check_inputs(splits, kind.format, output_file)
        engine = Engine(model)
        model_files.check_checkpoint()
        start = time.monotonic()
        try:
            guard.check_again(job, output_file)
            writer = open_writer(output_file, kind, summary.fingerprint, resume)
            _write(engine, job, splits, watch, writer, kind, summary, progress)
        finally:
            summary.seconds = time.monotonic() - start
    summary.log(is_one_of_many=progress.num_outputs > 1)


def output_spec(model: OpenedModel, job: Job, output_file: str) -> OutputSpec:
    """Says what is written to an output.

    Raises:
      OutputError: what writes its format is not installed.
    """
    kind = OutputSpec(
        format_of(output_file, job.output_format),
        RecordSchema(
            model.layer_plan.layer_names,
            model.layer_plan.vector_size,
            has_texts=model.options.unit == "word",
            has_offsets=model.options.offsets,
        ),
        job.vector_dtype,
    )
    check_installed(kind.format, OutputError, output_file)
    return kind


@contextlib.contextmanager
def recording(summary: Summary) -> Iterator[None]:
    """Puts into a summary how it ended."""
    try:
        yield
    except BaseException as error:
        summary.error = str(error) or type(error).__name__
        raise
    finally:
        summary.peak_memory_bytes = peak_memory_bytes()


def _is_complete(summary: Summary, is_one_of_many: bool) -> bool:
    found = find_complete(summary.output_file, summary.fingerprint)
    if found is None:
        return False
    summary.resumed_lines, summary.output_bytes = found
    logging.log(
        logging.DEBUG if is_one_of_many else logging.INFO,
        "%s: is complete, %s; nothing to do",
        summary.output_file,
        counted(summary.resumed_lines, "line"),
    )
    return True


def _write(
    engine: Engine,
    job: Job,
    splits: Sequence[Split],
    watch: InputWatch,
    writer: Writer,
    kind: OutputSpec,
    summary: Summary,
    progress: Progress,
) -> None:
    """Computes what the writer does not have yet."""
    summary.resumed_lines = writer.num_records_kept
    summary.output_bytes = writer.num_bytes
    if writer.is_complete:
        return
    encode, summary.json_kernel = encoder_for(kind)
    try:
        reader = SplitReader(
            splits,
            job.errors,
            writer.num_records_kept,
            watch,
            engine.model.options.pairs,
        )
        num_input_bytes = input_size(splits, watch.size_of)
        progress.begin(num_input_bytes, writer.num_records_kept, reader.num_bytes_of)
        forecast = OutputForecast(summary.output_file, num_input_bytes)
        room = Room(
            kind.format,
            summary.output_file,
            writer.num_records_kept,
            writer.text_size_kept,
        )
        examples = _shown(engine, reader)
        # Groups are seen in the bytes of other formats, and time may not be.
        may_pause = kind.format is JSONL and may_be_slow(splits)
        groups = engine.run(
            examples,
            encode,
            summary,
            kind.format.keeps_line,
            may_pause,
            progress.work,
        )
        for group in groups:
            lines = group.lines
            text_size = room.take(lines)
            num_records = sum(line.is_last for line in lines)
            is_whole = lines[-1].is_last
            writer.write(group.encoded, num_records, is_whole, text_size)
            if group.ends_stretch:
                watch.check()  # what is durable can be trusted
                writer.commit()
            if not forecast.is_over:
                num_lines = summary.resumed_lines + summary.num_lines
                forecast.update(
                    num_lines,
                    reader.num_bytes_of(num_lines),
                    writer.num_bytes,
                    free_bytes(summary.output_file),
                    writer.num_copies,
                )
        if writer.num_bytes == 0:
            # No file of no bytes is a whole gzip file; a member of no records is.
            writer.write(encode([]), 0, is_whole=True)
        if not kind.format.is_json:
            progress.convert()
        writer.finish()
    except BaseException as error:
        num_kept = writer.suspend(keeps_last=watch.is_sound())
        summary.needs_same_input = isinstance(error, InputError) and not isinstance(
            error, InputReadError
        )
        # What was read from a pipe is gone, so there is nothing to go on with.
        can_resume = job.input_file != STDIN and all(
            is_remote(split.path) or os.path.isfile(split.path) for split in splits
        )
        summary.resumable_lines = num_kept if can_resume else 0
        raise
    finally:
        summary.output_bytes = writer.num_bytes


def _shown(engine: Engine, examples: Iterable[Example]) -> Iterator[Example]:
    """Logs the first examples, for whoever asked for it."""
    for number, example in enumerate(examples):
        if number < _NUM_SHOWN and logging.level_debug():
            engine.log_example(example)
        yield example


# ------------------------------------------------------------------ fingerprint


class ModelFiles:
    """The files of the model, which are the same for every output of a job."""

    def __init__(self, model: OpenedModel) -> None:
        """Takes a model; nothing is read before it is asked for."""
        self._model = model

    @functools.cached_property
    def checksums(self) -> dict[str, str]:
        """What tells whether they are still the same; read when first asked for.

        Raises:
          CheckpointError: one of them cannot be read.
        """
        options = self._model.options
        return {
            "checkpoint_sha256": self._model.checkpoint.checksum(),
            "vocab_sha256": _sha256(options.vocab_file),
            "bert_config_sha256": _sha256(options.bert_config_file),
        }

    def of_checkpoint(self) -> tuple[str, ...]:
        """The checkpoint's files; none if it cannot be opened, as is said later."""
        try:
            return self._model.checkpoint.files
        except CheckpointError:
            return ()

    def check_checkpoint(self) -> None:
        """Checks that the weights that were loaded are those of the checksums.

        Raises:
          CheckpointError: they are not: the files were written in between.
        """
        checkpoint = self._model.checkpoint
        if checkpoint.checksum() != self.checksums["checkpoint_sha256"]:
            raise CheckpointError(
                f"{checkpoint.init_checkpoint}: was changed while it was in use: start "
                "again when nothing writes to it"
            )


def fingerprint_of_job(
    model: OpenedModel,
    job: Job,
    model_files: ModelFiles,
    watch: InputWatch,
    kind: OutputSpec,
) -> dict[str, Any]:
    """Everything that the bytes of the output depend on, wherever it is computed."""
    options = model.options
    fingerprint: dict[str, Any] = {
        **model_files.checksums,
        "do_lower_case": options.do_lower_case,
        "pairs": options.pairs,
        "layers": list(model.layer_plan.requested_layers),
        "layer_pooling": options.layer_pooling,
        "unit": options.unit,
        "word_pooling": options.word_pooling,
        "sentence_pooling": options.sentence_pooling,
        "offsets": options.offsets,
        "long_text": options.long_text,
        "doc_stride": options.doc_stride,
        "max_seq_length": options.max_seq_length,
        "precision": options.precision,
        "errors": job.errors,
        "shard": job.shard,
        STAMPS: watch.fingerprint(),
        "bert_extract": __version__,
        "tensorflow": tf.__version__,
    }
    if options.sentence_pooling == MODEL_POOLING:
        fingerprint["model_pooling"] = dataclasses.asdict(model.sentence_pooling)
    return {**fingerprint, **fingerprint_of(kind)}


def fingerprint_of_arithmetic(model: OpenedModel) -> dict[str, Any]:
    """What the bytes depend on besides: how this process computes."""
    return {
        "device": model.device_kind,
        "arithmetic": model.arithmetic.kernels,
        "arithmetic_settings": arithmetic.settings(),
        "same_bytes": model.keeps_bits,
    }


def _with_contents(
    job: Job, output_file: str, watch: InputWatch, fingerprint: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """Adds what the inputs contain, and compares it with what the output was made of.

    Inputs of another time, and the same content, count as those of the earlier run. Of
    another content, with `output_dir` their output is made anew; it stays what it is
    until the new one is complete.

    Args:
      job: whether it goes on with what is there.
      output_file: where it may be.
      watch: the inputs.
      fingerprint: all else that the bytes of the output depend on.

    Returns:
      The fingerprint, and whether to go on with what is there.

    Raises:
      InputError: an input cannot be read, or is changing.
    """
    earlier = find_fingerprint(output_file) if job.resume else None
    if earlier is not None and is_same(earlier, fingerprint, ignored=(CONTENTS,)):
        # Reading all texts again each time would take long.
        if CONTENTS in earlier:
            fingerprint = {**fingerprint, CONTENTS: earlier[CONTENTS]}
        return fingerprint, True
    # A shard is not the only one to read the file; and of a stream no later run asks
    # what it was made of, while whoever reads it waits for its first line.
    is_asked_for = not job.shard and keeps_run_file(output_file)
    contents = watch.checksums() if is_asked_for else None
    fingerprint = {**fingerprint, CONTENTS: contents}
    if earlier is None or not is_of_same_names(earlier, fingerprint):
        return fingerprint, job.resume
    is_known = contents is not None and None not in contents
    if is_known and earlier.get(CONTENTS) == contents:
        return {**fingerprint, STAMPS: earlier[STAMPS]}, True
    if not job.output_dir:
        return fingerprint, True  # which is refused, with the difference
    logging.info(
        "%s: is made anew: the text has changed since the run that made it", output_file
    )
    return fingerprint, False


def _sha256(path: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read it: {error.strerror}") from error
