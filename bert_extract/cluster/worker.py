"""Task -> a part in its place: the model of one worker, and the splits that it does."""

import contextlib
import dataclasses
import logging as python_logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import Any

from absl import logging

from bert_extract import doubt
from bert_extract.cluster.messages import Done, Failed, Opened, Setup, Task
from bert_extract.cluster.plan import check_bytes
from bert_extract.engine import Engine
from bert_extract.errors import (
    BertExtractError,
    InputError,
    InputReadError,
    NotFiniteError,
    OutputError,
)
from bert_extract.jobs import (
    ModelFiles,
    fingerprint_of_arithmetic,
    fingerprint_of_job,
    output_spec,
)
from bert_extract.loaded_model import OpenedModel
from bert_extract.output.append_file import (
    Buffer,
    crash_point,
    explaining,
    write_durably,
)
from bert_extract.output.checksum import crc32
from bert_extract.output.fingerprints import as_read_back, differences
from bert_extract.output.limits import Room
from bert_extract.output.parts import Part, commit, temporary_file
from bert_extract.output.writers import (
    encoder_for,
    num_bytes_on_disk,
    open_writer,
)
from bert_extract.progress import Summary
from bert_extract.text.splits import SplitReader
from bert_extract.text.stamps import InputWatch
from bert_extract.work import Work

PROBE = "probe"
# How long a file of another node's may take to appear, in seconds.
_PATIENCE = 10.0


class SplitWorker:
    """A model at work on splits."""

    def __init__(self, setup: Setup, node: str) -> None:
        """Checks what the node sees, and loads the model.

        Raises:
          BertExtractError: the node sees other files than the driver, or none.
        """
        self._work = Work()
        self._num_bytes_checked = 0
        self._output_file = ""  # of the split that is done
        self._paths_read: set[str] = set()
        # Machines of one name may have processes of one number.
        self._name = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
        self._setup = setup
        self._node = node
        self._probe = check_probe(setup)
        with _warnings() as warnings:
            model = OpenedModel(setup.options)
            files = ModelFiles(model)
            self._kind = output_spec(model, setup.job, setup.job.output_file)
            found = fingerprint_of_job(
                model, setup.job, files, InputWatch([]), self._kind
            )
            _check_same(as_read_back(found), setup, node)
            self._engine = Engine(model)
            files.check_checkpoint()
            self._arithmetic = fingerprint_of_arithmetic(model)
        self._warnings = tuple(warnings)
        self._encode, self._json_kernel = encoder_for(self._kind)

    def report(self) -> Opened:
        """Says what works here."""
        model = self._engine.model
        return Opened(
            self._node,
            self._arithmetic,
            model.device,
            model.num_threads,
            self._json_kernel,
            self._warnings,
            self._probe,
        )

    @property
    def num_done(self) -> int:
        """What changes while all is well: what is read, computed, and on the disk.

        HDF5 and Parquet are made when all is computed, which may take long.
        """
        work = self._work
        num_read = self._num_bytes_checked + work.num_lines_read
        num_done = num_read + work.num_tokens + int(work.num_done)
        return num_done + num_bytes_on_disk(self._output_file)

    def _count_checked(self, num_bytes: int) -> None:
        self._num_bytes_checked += num_bytes

    def compute(self, task: Task) -> Done | Failed:
        """Makes the part of a split, and puts it in its place."""
        summary = Summary()
        try:
            check_bytes(task.planned, self._count_checked)
        except InputReadError as error:
            # Who has read the file before will most likely read it again.
            is_known = task.planned.split.path in self._paths_read
            return Failed(str(error), is_of_node=not is_known)
        except InputError as error:
            return Failed(str(error), is_of_node=True)
        self._paths_read.add(task.planned.split.path)
        try:
            part = self._make_part(task, summary)
        except (InputReadError, OutputError) as error:
            return Failed(str(error))
        except (InputError, NotFiniteError) as error:
            return Failed(str(error), is_of_input=True)
        except BertExtractError as error:
            return Failed(str(error))
        except MemoryError:
            return Failed("there is not enough memory")
        finally:
            with contextlib.suppress(OSError):
                self._clear(task)
        return Done(part, counts_of(summary))

    def _make_part(self, task: Task, summary: Summary) -> Part:
        setup, split = self._setup, task.planned.split
        temporary = self._temporary(task)
        watch = InputWatch([split.path])
        writer = open_writer(temporary, self._kind, {}, resume=False)
        self._output_file = temporary
        crc = 0
        try:
            reader = SplitReader(
                [split], setup.job.errors, 0, watch, setup.options.pairs
            )
            room = Room(self._kind.format, task.name, 0, 0)
            groups = self._engine.run(
                reader,
                self._encode,
                summary,
                self._kind.format.keeps_line,
                work=self._work,
            )
            for group in groups:
                lines = group.lines
                text_size = room.take(lines)
                num_records = sum(line.is_last for line in lines)
                is_whole = lines[-1].is_last
                writer.write(group.encoded, num_records, is_whole, text_size)
                crc = _crc_of(group.encoded, crc)
                crash_point("group")
            watch.check()
            if writer.num_bytes == 0:
                nothing = self._encode([])
                writer.write(nothing, 0, is_whole=True)
                crc = _crc_of(nothing, crc)
            writer.finish()
        except BaseException:
            writer.suspend(keeps_last=False)
            raise
        if summary.num_lines != task.planned.num_lines:
            raise InputReadError(
                f"{split.path}: expected {task.planned.num_lines:,} lines from byte "
                f"{split.start:,} on, found {summary.num_lines:,}"
            )
        part = Part(
            task.name,
            split.first_index,
            summary.num_lines,
            writer.num_bytes,
            crc if self._kind.format.is_json else None,
            self._arithmetic,
            self._node,
        )
        commit(setup.folder, temporary, part)
        return part

    def _temporary(self, task: Task) -> str:
        setup = self._setup
        # A worker's own: another one may do the same split at the same time.
        return temporary_file(setup.folder, setup.run, f"{self._name}-{task.name}")

    def _clear(self, task: Task) -> None:
        """Takes away what is left beside a part, or of one that failed."""
        temporary = self._temporary(task)
        folder, start = os.path.split(temporary)
        for name in os.listdir(folder):
            if name.startswith(start):
                os.unlink(os.path.join(folder, name))


def _crc_of(buffers: Iterable[Buffer], crc: int) -> int:
    for buffer in buffers:
        crc = crc32(buffer, crc)
    return crc


def counts_of(summary: Summary) -> dict[str, int]:
    """What a summary has counted."""
    return {
        field.name: getattr(summary, field.name)
        for field in dataclasses.fields(Summary)
        if field.name.startswith("num_") and field.name != "num_threads"
    }


def _check_same(found: dict[str, Any], setup: Setup, node: str) -> None:
    """Refuses a node that would make other vectors.

    Raises:
      BertExtractError: names the node, the files and what differs.
    """
    names = {
        "checkpoint_sha256": setup.options.init_checkpoint or setup.options.model_dir,
        "vocab_sha256": setup.options.vocab_file,
        "bert_config_sha256": setup.options.bert_config_file,
    }
    expected = dict(setup.expected)
    # Each split's bytes are compared when it is done.
    for part in (found, expected):
        part.pop("input", None)
    different = differences(expected, found)
    if different:
        paths = [
            path
            for key, path in names.items()
            if path and found.get(key) != expected.get(key)
        ]
        raise BertExtractError(
            f"node {node} is not as the driver is, where 'was' is the driver's"
            + (f" ({', '.join(paths)})" if paths else "")
            + ":\n"
            + "\n".join(f"  {difference}" for difference in different)
            + "\nGive every node the same files and versions"
        )


def check_probe(setup: Setup) -> str:
    """Checks that the folder of the parts is the driver's, and can be written to.

    Returns:
      A file with the same text, which the driver has to find.

    Raises:
      BertExtractError: it is another one, or files cannot be renamed there.
    """
    path = temporary_file(setup.folder, setup.run, PROBE)
    found = read_patiently(path)
    if found != setup.probe:
        raise BertExtractError(
            f"{path}: the driver wrote this file, and this node "
            + ("does not see it" if found is None else "sees another one")
            + ": --output_file must be on a file system that all nodes share"
        )
    answer = f"{path}-{os.uname().nodename}-{os.getpid()}"
    with explaining(answer):
        write_durably(f"{answer}.tmp", setup.probe)
        os.replace(f"{answer}.tmp", answer)
    return answer


def read_patiently(path: str) -> str | None:
    """Reads a small file that another node wrote; None if it does not come."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            with open(path, encoding="utf-8") as reader:
                return reader.read()
        except OSError:
            if time.monotonic() > end:
                return None
            time.sleep(0.2)


@contextlib.contextmanager
def _warnings() -> Iterator[list[tuple[str, bool]]]:
    """Collects what is warned of, for the driver to say it."""
    told: list[tuple[str, bool]] = []

    class Collector(python_logging.Handler):
        def emit(self, record: python_logging.LogRecord) -> None:
            told.append((record.getMessage(), doubt.is_marked(record)))

    collector = Collector(python_logging.WARNING)
    logger = logging.get_absl_logger()
    logger.addHandler(collector)
    try:
        yield told
    finally:
        logger.removeHandler(collector)
