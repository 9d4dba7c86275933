"""A file of records -> Records, whatever its format."""

import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import IO

import jsonlines

from bert_extract.errors import InputError
from bert_extract.formats import (
    GZIP,
    HDF5,
    JSONL,
    PARQUET,
    ZSTANDARD,
    Format,
    check_installed,
    format_of,
)
from bert_extract.output import hdf5, parquet
from bert_extract.output.compression import open_members
from bert_extract.output.json_lines import Record, to_record

Path = str | os.PathLike[str]

# How files of a format begin.
_MAGIC = {
    b"\x1f\x8b": GZIP,
    b"\x28\xb5\x2f\xfd": ZSTANDARD,
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"PAR1": PARQUET,
}


def read_features(path: Path | Iterable[Path]) -> Iterator[Record]:
    """Reads records, one at a time.

    Args:
      path: a file that `bert-extract` wrote in any of its formats, or JSON lines as
        upstream's extract_features.py writes them; or several files, such as the
        outputs of shards, which are read one after the other. The format is told by
        the content, and by the name where that says nothing.

    Yields:
      One record a line, in the file's order. Layers are float32, which holds what
      JSON's six decimals and float16 say exactly. A file is closed after its last
      record, or when the iterator is closed or dropped.

    Raises:
      InputError: a file cannot be read, was cut off or holds no records, or the
        package that reads its format is not installed.
    """
    if isinstance(path, (str, os.PathLike)):
        yield from _read_file(os.fspath(path))
        return
    for each in path:
        yield from _read_file(os.fspath(each))


def load_features(path: Path | Iterable[Path]) -> list[Record]:
    """Reads all records of a small file, or of several; see `read_features`.

    Raises:
      InputError: a file cannot be read, was cut off or holds no records, or the
        package that reads its format is not installed.
    """
    return list(read_features(path))


def _read_file(path: str) -> Iterator[Record]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        found = _format_of(path, file)
        check_installed(found, InputError, path)
        if found is HDF5:
            yield from hdf5.read(path)
        elif found is PARQUET:
            yield from parquet.read(path)
        else:
            yield from _read_json(path, file, found)


def _format_of(path: str, file: io.BufferedReader) -> Format:
    try:
        beginning = file.peek(8)
    except OSError as error:  # a folder
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return format_of_content(beginning) or format_of(path)


def format_of_content(beginning: bytes) -> Format | None:
    """The format of a file that begins so; None if that says nothing."""
    for magic, found in _MAGIC.items():
        if beginning.startswith(magic):
            return found
    return None


def _read_json(path: str, file: IO[bytes], found: Format) -> Iterator[Record]:
    line_number = 0
    stream = file if found is JSONL else open_members(file, found)
    try:
        # json's own loads: which parser jsonlines finds must not matter.
        for entry in jsonlines.Reader(stream, loads=json.loads):
            line_number += 1
            yield to_record(entry)
    except jsonlines.InvalidLineError as error:
        raise InputError(
            f"{path}: expected a record in JSON: {error}. Was it written to its end?"
        ) from error
    except InputError as error:
        raise InputError(f"{path}: line {line_number}: {error}") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read after line {line_number}: {error}"
        ) from error
