"""Frames <-> HDF5 in ELMo's layout, which probing tools read.

    "0", "1", ...         float32 or float16 [num_layers, num_tokens, size], by
                          linex_index; attributes "tokens", and "texts" and "offsets"
                          where the records have them
    "sentence_to_index"   [1]: an object of each line's text and its dataset's name
    attribute "layers"    of the file: the layers as they were asked for

Attributes and sentence_to_index are JSON: HDF5's own strings end at a NUL, and a list
of them has at most 64 kB.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import InputError
from bert_extract.output import append_file
from bert_extract.output.contents import Contents
from bert_extract.output.frames import Frame, FrameReader
from bert_extract.output.record import Record, RecordPart, RecordSchema
from bert_extract.output.selection import EVERYTHING, Selection

_SENTENCES = "sentence_to_index"
# HDF5 1.8's: files of 2008 and later libraries read it, and a group may have millions
# of datasets.
_LIBRARY_VERSIONS = ("v108", "v108")
# Datasets whose shapes are looked at before the rest is estimated, and first ones among
# which a line with entries is looked for.
_MOST_SHAPES = 1000
_MOST_TRIED = 100


def library_version() -> str:
    """The library that the file's bytes depend on."""
    import h5py

    return f"h5py {h5py.version.version}, HDF5 {h5py.version.hdf5_version}"


# ------------------------------------------------------------------------- writing


def write(frames_file: str, output_file: str, schema: RecordSchema) -> None:
    """Makes an HDF5 file of a file of frames.

    Args:
      frames_file: the whole records.
      output_file: the file to make.
      schema: what the records have in common.

    Raises:
      OutputError: a frame is broken.
      OSError: the file cannot be written.
    """
    import h5py

    with (
        FrameReader(frames_file) as reader,
        open(output_file, "w+b", buffering=0) as raw,
    ):
        disk = _Disk(raw.fileno())
        with h5py.File(disk, "w", libver=_LIBRARY_VERSIONS) as file:
            file.attrs["layers"] = json.dumps(schema.layer_names)
            sentences = _Sentences()
            entries = _Entries()
            for frame in reader.frames():
                entries.add(frame)
                sentences.add(frame.part)
                if frame.part.is_last:
                    append_file.crash_point("convert")
                    _write_record(file, reader, frame, entries)
                    entries = _Entries()
                    disk.check()
            file.create_dataset(
                _SENTENCES, (1,), h5py.string_dtype(), data=[sentences.text()]
            )
        disk.check()


class _Disk:
    """The file that HDF5 writes to. It never fails: HDF5 crashes when a disk is full.

    What could not be written is kept until the file is closed, and `check` tells.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        self._size = 0
        self._unwritten: list[tuple[int, bytes]] = []
        self._failure: BaseException | None = None

    def check(self) -> None:
        """Raises what went wrong since the beginning, if anything did."""
        if self._failure is not None:
            raise self._failure

    # What h5py asks of a file.

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (self._size if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        start, self._position = self._position, self._position + len(view)
        self._size = max(self._size, self._position)
        try:
            while view and self._failure is None:
                num_written = os.pwrite(self._descriptor, view, start)
                view, start = view[num_written:], start + num_written
        except BaseException as error:  # a signal's, too: `check` raises it again
            self._failure = error
        if view:
            self._unwritten.append((start, bytes(view)))
        return len(content)

    def read(self, num_bytes: int) -> bytes:
        content = bytearray(num_bytes)
        self.readinto(content)
        return bytes(content)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start, end = self._position, self._position + len(view)
        num_read = os.preadv(self._descriptor, [view], start)
        view[num_read:] = bytes(len(view) - num_read)
        for begin, content in self._unwritten:
            first, last = max(start, begin), min(end, begin + len(content))
            if first < last:
                view[first - start : last - start] = content[
                    first - begin : last - begin
                ]
        self._position = end
        return len(view)

    def truncate(self, size: int) -> int:
        self._size = size
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._failure = self._failure or error
        return size

    def flush(self) -> None:
        pass


class _JsonText:
    """A JSON list or object that grows; its parts need not be kept."""

    def __init__(self, brackets: str) -> None:
        self._brackets = brackets
        self._pieces: list[str] = []

    def add(self, pieces: str) -> None:
        """Adds what stands between the brackets of a JSON text."""
        if pieces:
            self._pieces.append(pieces)

    def text(self) -> str:
        """All of it."""
        return self._brackets[0] + ", ".join(self._pieces) + self._brackets[1]


class _Sentences:
    """What becomes sentence_to_index."""

    def __init__(self) -> None:
        self._object = _JsonText("{}")
        self._counts: dict[bytes, int] = {}  # by digest: lines may be long

    def add(self, part: RecordPart) -> None:
        """Adds a line if this is its first part."""
        if not part.is_first:
            return
        line = part.line or ""
        count = self._counts.get(_digest(line), 0) + 1
        name = line
        while count > 1 and _digest(name := f"{line} (Occurrence {count})") in (
            self._counts
        ):
            count += 1  # some line is called that
        self._counts[_digest(line)] = count
        self._counts.setdefault(_digest(name), 1)
        self._object.add(f'{json.dumps(name)}: "{part.record.linex_index}"')

    def text(self) -> str:
        """The JSON object."""
        return self._object.text()


def _digest(line: str) -> bytes:
    return hashlib.blake2b(line.encode("utf-8"), digest_size=16).digest()


class _Entries:
    """What is known of a record whose vectors are still in the frames."""

    def __init__(self) -> None:
        self.start: int | None = None  # of its first frame, in bytes
        self.num_tokens = 0
        self._lists: dict[str, _JsonText] = {}

    def add(self, frame: Frame) -> None:
        """Adds a part."""
        if self.start is None:
            self.start = frame.start
        record = frame.part.record
        self.num_tokens += len(record.tokens)
        for name in ("tokens", "texts", "offsets"):
            values = getattr(record, name)
            if values is not None:
                entries = self._lists.setdefault(name, _JsonText("[]"))
                entries.add(json.dumps(values)[1:-1])

    def attributes(self) -> dict[str, str]:
        """The lists as JSON, by name."""
        return {name: entries.text() for name, entries in self._lists.items()}


def _write_record(
    file: Any, reader: FrameReader, last: Frame, entries: _Entries
) -> None:
    name = str(last.part.record.linex_index)
    if entries.start == last.start:
        dataset = file.create_dataset(name, data=reader.read_vectors(last))
    else:
        num_layers, _, size = last.shape
        shape = (num_layers, entries.num_tokens, size)
        dataset = file.create_dataset(name, shape, last.dtype)
        assert entries.start is not None
        end = 0
        for frame in reader.frames(entries.start, last.end):
            start, end = end, end + len(frame.part.record.tokens)
            dataset[:, start:end] = reader.read_vectors(frame)
    for key, text in entries.attributes().items():
        dataset.attrs[key] = text


# ------------------------------------------------------------------------- reading


def read(path: str, selection: Selection = EVERYTHING) -> Iterator[Record]:
    """Reads records one at a time, in the order of their lines.

    Raises:
      InputError: it is not such a file, or it was cut off, or has not the layers.
    """
    with _opened(path) as file:
        layer_names = tuple(json.loads(file.attrs["layers"]))
        try:
            positions = selection.positions_of(layer_names)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        for linex_index in _linex_indexes(file, selection):
            dataset = file[str(linex_index)]
            yield _to_record(linex_index, layer_names, dataset, positions)


def contents(path: str) -> Contents:
    """Tells what is in a file; of many lines only some are looked at.

    Raises:
      InputError: it is not such a file, or it was cut off.
    """
    with _opened(path) as file:
        layer_names = tuple(json.loads(file.attrs["layers"]))
        lines = _numbers(file)
        if not lines:
            return Contents(None, 0, "metadata", num_tokens=0, tokens_from="metadata")
        tried = (file[str(lines[n])] for n in range(min(_MOST_TRIED, len(lines))))
        first = next((each for each in tried if each.shape[1]), file[str(lines[0])])
        numbers = np.linspace(0, len(lines) - 1, _MOST_SHAPES).astype(int).tolist()
        looked_at = lines if len(lines) <= _MOST_SHAPES else [lines[n] for n in numbers]
        num_tokens = sum(file[str(number)].shape[1] for number in looked_at)
        is_estimated = len(looked_at) < len(lines)
        return Contents(
            first=_to_record(
                int(first.name[1:]), layer_names, first, list(range(len(layer_names)))
            ),
            num_lines=len(lines),
            lines_from="metadata",
            first_line=lines[0],
            last_line=lines[-1],
            num_tokens=round(num_tokens * len(lines) / len(looked_at)),
            tokens_from="estimated" if is_estimated else "metadata",
            vector_dtype=first.dtype.name,
            is_whole=True,  # what names the lines is written last, and was found
        )


def _numbers(file: Any) -> Sequence[int]:
    """The lines of a file, in their order."""
    end = len(file) - 1
    if _SENTENCES not in file:
        raise KeyError(f"there is no {_SENTENCES}, which is written last")
    # To sort a million names takes seconds; most files have all lines from the first.
    if not end or ("0" in file and str(end - 1) in file):
        return range(end)
    return sorted(int(name) for name in file if name != _SENTENCES)


def line_numbers(path: str) -> NDArray[np.int64]:
    """The linex_index of each record, ascending: int64 [num_records].

    Raises:
      InputError: as `read`.
    """
    with _opened(path) as file:
        return np.array([*_linex_indexes(file, EVERYTHING)], np.int64)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Opens a file, and says of one that is another what was expected.

    Raises:
      InputError: it is another, or it was cut off.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: expected HDF5 as bert-extract writes it, datasets '0', '1', ... "
            "with an attribute 'tokens' each, and an attribute 'layers' of the file: "
            f"{error}"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read as HDF5: {error}. Was it written to its end?"
        ) from error


def _linex_indexes(file: Any, selection: Selection) -> Iterable[int]:
    """The lines to read, in their order."""
    lines = selection.lines
    # To look for a few names takes less time than to go through a million.
    if lines is not None and (not lines or lines[-1] - lines[0] < len(file)):
        return [number for number in lines if str(number) in file]
    numbers = sorted(int(name) for name in file if name != _SENTENCES)
    return filter(selection.has_line, numbers)


def _to_record(
    linex_index: int,
    layer_names: tuple[int | str, ...],
    dataset: Any,
    positions: list[int],
) -> Record:
    lists = {key: json.loads(text) for key, text in dataset.attrs.items()}
    tokens = tuple(lists["tokens"])
    if dataset.shape[:2] != (len(layer_names), len(tokens)):
        raise ValueError(f"dataset {linex_index} has the shape {dataset.shape}")
    if len(positions) == len(layer_names):
        vectors = dataset[()].astype(np.float32)
        layers = [vectors[position] for position in positions]
    else:
        layers = [dataset[position].astype(np.float32) for position in positions]
    return Record(
        linex_index,
        tokens,
        tuple(layer_names[position] for position in positions),
        tuple(layers),
        texts=tuple(lists["texts"]) if "texts" in lists else None,
        offsets=tuple(
            None if span is None else (span[0], span[1]) for span in lists["offsets"]
        )
        if "offsets" in lists
        else None,
    )
