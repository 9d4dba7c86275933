"""RecordParts -> bytes -> the output, whatever it is.

Which encoder, partial file and conversion belong to a format is decided here and
nowhere else. A regular file goes through `resumable`, anything else through `streams`.
"""

import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from absl import logging

from bert_extract.errors import OptionsError, OutputError
from bert_extract.files import is_remote
from bert_extract.formats import (
    GZIP,
    HDF5,
    JSONL,
    PARQUET,
    ZSTANDARD,
    Format,
)
from bert_extract.output import compression, frames, hdf5, parquet
from bert_extract.output.append_file import BUFFER_SIZE, Buffer
from bert_extract.output.frames import FrameEncoder
from bert_extract.output.json_lines import JsonFormatter
from bert_extract.output.record import RecordPart, RecordSchema
from bert_extract.output.resumable import (
    Fingerprint,
    PartialForm,
    PartialWriter,
    complete_run,
    left_fingerprint,
    num_bytes_written,
)
from bert_extract.output.streams import StreamWriter, descriptor_of, name_of

_COMPRESSED = (GZIP, ZSTANDARD)


class Encoder(Protocol):
    """Turns a group of consecutive records and parts of them into bytes."""

    def __call__(self, parts: Sequence[RecordPart]) -> list[Buffer]:
        """Encodes a group; called from several threads at once.

        Raises:
          NotFiniteError: a value is NaN or infinite, or the format has no room for it.
        """
        ...


@dataclass(frozen=True)
class OutputSpec:
    """What a run writes."""

    format: Format
    records: RecordSchema
    vector_dtype: str = "float32"  # of a format that holds numbers as they are


def encoder_for(kind: OutputSpec) -> tuple[Encoder, str]:
    """Makes the encoder of an output.

    Returns:
      The encoder, and how it writes JSON: "compiled", "python", or "".
    """
    if not kind.format.is_json:
        return FrameEncoder(kind.vector_dtype), ""
    formatter = JsonFormatter(kind.records.layer_names)

    def to_jsonl(parts: Sequence[RecordPart]) -> list[Buffer]:
        return formatter.format_all(parts)

    if kind.format is JSONL:
        return to_jsonl, formatter.kernel
    compress = compression.compressor_for(kind.format)

    def to_member(parts: Sequence[RecordPart]) -> list[Buffer]:
        return [compress(to_jsonl(parts))]

    return to_member, formatter.kernel


def fingerprint_of(kind: OutputSpec) -> dict[str, Any]:
    """What the bytes depend on from here on: the format, and who makes it."""
    own: dict[str, Any] = {"output_format": kind.format.name}
    if kind.format in _COMPRESSED:
        own["library"] = compression.library_version(kind.format)
    elif kind.format is HDF5:
        own["library"] = hdf5.library_version()
    elif kind.format is PARQUET:
        own["library"] = parquet.library_version()
    if not kind.format.is_json:
        own["vector_dtype"] = kind.vector_dtype
    return own


def _form_of(kind: OutputSpec) -> PartialForm:
    """What stands in the partial file of an output."""
    if kind.format is JSONL:
        return PartialForm(_scan_lines)
    if kind.format in _COMPRESSED:
        return PartialForm(compression.scanner_for(kind.format))

    def convert(frames_file: str, output_file: str) -> None:
        logging.debug("%s: every line is computed; writing it", output_file)
        if kind.format is HDF5:
            hdf5.write(frames_file, output_file, kind.records)
        else:
            parquet.write(frames_file, output_file, kind.records, kind.vector_dtype)

    keeps_line = kind.format.keeps_line
    return PartialForm(
        frames.scan, convert, frames.kept_text_size if keeps_line else None
    )


def _scan_lines(descriptor: int, start: int) -> tuple[int, int]:
    """Finds where the last whole line ends, and how many there are from `start` on."""
    end = position = start
    num_lines = 0
    while block := os.pread(descriptor, BUFFER_SIZE, position):
        hole = block.find(b"\0")  # JSON has no NUL
        text = block if hole < 0 else block[:hole]
        end = position + text.rfind(b"\n") + 1 if b"\n" in text else end
        num_lines += text.count(b"\n")
        if hole >= 0:
            break
        position += len(block)
    return end, num_lines


class Writer(Protocol):
    """Where encoded records go. Exactly one of finish and suspend ends it."""

    num_records_kept: int  # records of an earlier run that need not come again
    text_size_kept: int  # of their lines: see `limits`
    num_bytes: int  # bytes of the output so far, kept ones included
    is_complete: bool  # nothing has to be done: the output is there already
    num_copies: int  # how often the records are on the disk before the output is there

    def write(
        self,
        buffers: Sequence[Buffer],
        num_records: int,
        is_whole: bool,
        text_size: int = 0,
    ) -> None:
        """Appends a group.

        Args:
          buffers: what the encoder made of it.
          num_records: how many records end in it.
          is_whole: whether its last part ends a record.
          text_size: of the lines that begin in it, if the output keeps their text.
        """
        ...

    def commit(self) -> None:
        """Makes what was written durable."""
        ...

    def finish(self) -> None:
        """Makes the output appear."""
        ...

    def suspend(self, keeps_last: bool = True) -> int:
        """Ends an unfinished run; what can be gone on with stays.

        Args:
          keeps_last: whether what came after the last commit may stay too.

        Returns:
          How many records that is; 0 where nothing can be gone on with.
        """
        ...


def open_writer(
    output_file: str, kind: OutputSpec, fingerprint: Fingerprint, resume: bool
) -> Writer:
    """Opens an output.

    Args:
      output_file: a path, or "-" for standard output.
      kind: what is written to it.
      fingerprint: everything that the bytes of the output depend on.
      resume: whether to go on after what an earlier run left.

    Raises:
      OptionsError: this kind of output cannot be gone on with, and resume is asked
        for; or it is a stream, and the format needs a file.
      OutputError: the output cannot be created, another run writes it, or what an
        earlier run left does not match.
    """
    if is_remote(output_file):
        _refuse_format(kind.format, output_file, "is a remote object")
        _refuse_resume(resume, output_file, "a remote object cannot be resumed")
        return StreamWriter(output_file)
    if descriptor_of(output_file) is not None:
        _refuse_format(kind.format, output_file, "is a stream")
        _refuse_resume(resume, output_file, "it is a stream")
        return StreamWriter(output_file)
    path = os.path.realpath(output_file)
    if os.path.isdir(path):
        raise OutputError(f"{output_file}: expected a file to write; found a folder")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise OutputError(
            f"{output_file}: the folder {folder} is not there; make it first"
        )
    if os.path.exists(path) and not os.path.isfile(path):
        _refuse_format(kind.format, output_file, "is not a regular file")
        _refuse_resume(resume, output_file, "it is not a regular file")
        return StreamWriter(output_file)
    return open_partial(path, kind, fingerprint, resume)


def open_partial(
    path: str, kind: OutputSpec, fingerprint: Fingerprint, resume: bool
) -> PartialWriter:
    """Opens an output that is a regular file, or none yet.

    Args:
      path: without links.
      kind: what is written to it.
      fingerprint: everything that the bytes of the output depend on.
      resume: whether to go on after what an earlier run left.

    Raises:
      OutputError: it cannot be created, another run writes it, or what an earlier run
        left does not match.
    """
    return PartialWriter(path, _form_of(kind), fingerprint, resume)


def _refuse_resume(resume: bool, output_file: str, reason: str) -> None:
    if resume:
        raise OptionsError(
            f"--resume: {output_file}: {reason}; run without it, or write to a file"
        )


def _refuse_format(output_format: Format, output_file: str, reason: str) -> None:
    if not output_format.is_json:
        raise OptionsError(
            f"{name_of(output_file)}: {reason}, and the format {output_format.name} "
            "needs a file on a disk; write to one and copy it"
        )


def keeps_run_file(output_file: str) -> bool:
    """Whether a run file stands beside what is written there: not of a stream."""
    if is_remote(output_file) or descriptor_of(output_file) is not None:
        return False
    return os.path.isfile(output_file) or not os.path.exists(output_file)


def find_complete(output_file: str, fingerprint: Fingerprint) -> tuple[int, int] | None:
    """Finds an output that is there already, without opening anything for writing.

    Returns:
      Its records and bytes; None if something has to be done, or to be said, which
      `open_writer` does.
    """
    if is_remote(output_file) or descriptor_of(output_file) is not None:
        return None
    return complete_run(os.path.realpath(output_file), fingerprint)


def find_fingerprint(output_file: str) -> dict[str, Any] | None:
    """The fingerprint of the run that left what is there, whole or not; None if none.

    Nor is there one where the output is not as that run left it.
    """
    if is_remote(output_file) or descriptor_of(output_file) is not None:
        return None
    return left_fingerprint(os.path.realpath(output_file))


def free_bytes(output_file: str) -> int | None:
    """The room that is left for an output; None where nobody knows."""
    if is_remote(output_file) or descriptor_of(output_file) is not None:
        return None
    path = os.path.realpath(output_file)
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        return None
    status = os.statvfs(os.path.dirname(path))
    return status.f_bavail * status.f_frsize


def num_bytes_on_disk(output_file: str) -> int:
    """What an output that is being written or made has on the disk by now."""
    return num_bytes_written(os.path.realpath(output_file))


def peak_memory_bytes() -> int:
    """The most memory that this process has had in use."""
    import resource  # not on Windows, where nothing here runs anyway

    kilobytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes_or_bytes * (1 if sys.platform == "darwin" else 1024)
