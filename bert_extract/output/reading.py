"""A file of records -> Records, whatever its format."""

import io
import os
from collections.abc import Iterable, Iterator
from typing import IO

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
from bert_extract.output.json_parser import JsonParser, linex_index_of
from bert_extract.output.parts import parts_with
from bert_extract.output.record import Record
from bert_extract.output.selection import Layers, Selection, make_selection

Path = str | os.PathLike[str]

# Lines are long: with Python's own 8 kB it takes twice as long to put them together.
_BUFFER_BYTES = 1 << 20

# How files of a format begin.
_MAGIC = {
    b"\x1f\x8b": GZIP,
    b"\x28\xb5\x2f\xfd": ZSTANDARD,
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"PAR1": PARQUET,
}


def read_features(
    path: Path | Iterable[Path],
    *,
    layers: Layers | None = None,
    lines: range | None = None,
) -> Iterator[Record]:
    """Reads records, one at a time.

    Args:
      path: a file that `bert-extract` wrote in any of its formats, or JSON lines as
        upstream's extract_features.py writes them; or a folder of parts that is
        complete, as a job on a cluster leaves it; or several of these, such as the
        outputs of shards, which are read one after the other. The format is told by
        the content, and by the name where that says nothing.
      layers: the layers to read, in this order, each as the file calls it: `-1`,
        `"embeddings"`, `[-1, -2]`; by default all of them. The others are not
        looked at; of Parquet and HDF5, they are not even read from the disk.
      lines: the linex_index of the lines to read, such as `range(100, 200)`; by
        default all of them. In every file records stand in the order of their lines,
        so each is read up to the last one; of Parquet and HDF5, only where they are.

    Yields:
      One record a line, in the file's order. Layers are float32, which holds what
      JSON's six decimals and float16 say exactly. A file is closed after its last
      record, or when the iterator is closed or dropped.

    Raises:
      InputError: a file cannot be read, was cut off, holds no records or not the
        layers, or the package that reads its format is not installed.
      ArgumentTypeError: what is asked for are no layers, or no range.
    """
    return _read_files(path, make_selection(layers, lines))


def load_features(
    path: Path | Iterable[Path],
    *,
    layers: Layers | None = None,
    lines: range | None = None,
) -> list[Record]:
    """Reads all records of a small file, or of several, or some of a large one.

    Args:
      path: see `read_features`.
      layers: see there.
      lines: see there.

    Raises:
      InputError: a file cannot be read, was cut off, holds no records or not the
        layers, or the package that reads its format is not installed.
      ArgumentTypeError: what is asked for are no layers, or no range.
    """
    return list(read_features(path, layers=layers, lines=lines))


def files_at(path: Path | Iterable[Path], lines: range | None = None) -> Iterator[str]:
    """Yields the files that `read_features` reads.

    Args:
      path: as it takes it.
      lines: of folders of parts, only those with these.

    Raises:
      InputError: a folder is no complete one of parts.
    """
    for each in [path] if isinstance(path, (str, os.PathLike)) else path:
        name = os.fspath(each)
        if os.path.isdir(name):
            yield from parts_with(name, lines)
        else:
            yield name


def _read_files(path: Path | Iterable[Path], selection: Selection) -> Iterator[Record]:
    for file in files_at(path, selection.lines):
        yield from _read_file(file, selection)


def format_of_file(path: str) -> Format:
    """Finds the format of a file, which can be read here.

    Raises:
      InputError: the file cannot be read, or what reads its format is not installed.
    """
    with _open(path) as file:
        found = _format_of(path, file)
    check_installed(found, InputError, path)
    return found


def _open(path: str) -> "io.BufferedReader[io.FileIO]":
    try:
        return io.BufferedReader(io.FileIO(path), _BUFFER_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _read_file(path: str, selection: Selection) -> Iterator[Record]:
    with _open(path) as file:
        found = _format_of(path, file)
        check_installed(found, InputError, path)
        if found.is_json:
            yield from _read_json(path, file, found, selection)
    del file  # the others open it themselves, and have no use for the buffer
    if found is HDF5:
        yield from hdf5.read(path, selection)
    elif found is PARQUET:
        yield from parquet.read(path, selection)


def _format_of(path: str, file: "io.BufferedReader[io.FileIO]") -> Format:
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


def _read_json(
    path: str, file: IO[bytes], found: Format, selection: Selection
) -> Iterator[Record]:
    line_number = 0
    stream = file if found is JSONL else open_members(file, found)
    parser = JsonParser(selection)
    try:
        for line in stream:
            line_number += 1
            if selection.lines is not None:
                linex_index = linex_index_of(line)
                if linex_index is not None and not selection.has_line(linex_index):
                    if selection.is_past(linex_index):
                        break
                    continue
            record = parser.parse(line)
            if selection.has_line(record.linex_index):
                yield record
    except InputError as error:
        raise InputError(f"{path}: line {line_number}: {error}") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read after line {line_number}: {error}"
        ) from error
