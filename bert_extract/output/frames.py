"""RecordPart <-> frame: an append-only file of parts, with their values as they are.

Formats that cannot be gone on with after a crash (HDF5, Parquet) are made from it when
all records are there. A frame is a record or a part of one:

    "BXF1"          4 bytes
    head length     uint32, little-endian like the rest
    vectors length  uint64
    head CRC-32     uint32
    vectors CRC-32  uint32
    head            JSON: everything but the vectors
    vectors         float32 or float16 [num_layers, num_tokens, size]
"""

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import NotFiniteError, OutputError
from bert_extract.output.append_file import Buffer
from bert_extract.output.checksum import crc32
from bert_extract.output.limits import text_size
from bert_extract.output.record import Record, RecordPart, check_finite

MAGIC = b"BXF1"
_HEADER = struct.Struct("<4sIQII")
_MAX_FLOAT16 = 65504


class BrokenFrameError(Exception):
    """Here is no whole frame: the file was cut off, or holds something else."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A record, or a part of one, whose vectors are still in the file."""

    part: RecordPart  # its record without its layers
    shape: tuple[int, int, int]  # num_layers, num_tokens, size
    dtype: str  # "float32" or "float16"
    vectors_crc: int
    start: int  # where the frame begins in the file, in bytes
    vectors_start: int
    end: int


# ------------------------------------------------------------------------- writing


class FrameEncoder:
    """Turns groups of parts into frames; serves any number of threads at once."""

    def __init__(self, vector_dtype: str) -> None:
        """Makes an encoder.

        Args:
          vector_dtype: "float32" or "float16".
        """
        self._dtype = np.dtype(vector_dtype)

    def __call__(self, parts: Sequence[RecordPart]) -> list[Buffer]:
        """Encodes a group.

        Raises:
          NotFiniteError: a value is NaN or infinite, or float16 has no room for it.
        """
        return [self._encode(part) for part in parts]

    def _encode(self, part: RecordPart) -> Buffer:
        check_finite(part)
        record = part.record
        size = record.layers[0].shape[1] if record.layers else 0
        shape = (len(record.layers), len(record.tokens), size)
        head = _to_head(part, shape, self._dtype)
        start = _HEADER.size + len(head)
        num_bytes = int(np.prod(shape)) * self._dtype.itemsize
        # The only copy of the vectors: they are views of whole batches, which may go.
        frame = np.empty(start + num_bytes, np.uint8)
        vectors = frame[start:].view(self._dtype).reshape(shape)
        with np.errstate(over="ignore"):  # it is found below
            for number, layer in enumerate(record.layers):
                vectors[number] = layer
        if self._dtype == np.float16:
            _check_range(part, vectors)
        header = _HEADER.pack(
            MAGIC,
            len(head),
            num_bytes,
            zlib.crc32(head),
            crc32(frame[start:].data),
        )
        frame[:start] = np.frombuffer(header + head, np.uint8)
        return frame.data


def _check_range(part: RecordPart, vectors: NDArray[Any]) -> None:
    """Refuses what became infinite on its way to float16."""
    is_finite = np.isfinite(vectors)
    if is_finite.all():
        return
    record = part.record
    layer, row, column = np.argwhere(~is_finite)[0].tolist()
    raise NotFiniteError(
        f"linex_index {record.linex_index}, token {part.position + row} "
        f"({record.tokens[row]!r}), layer {record.indexes[layer]}: float16 holds at "
        f"most {_MAX_FLOAT16:,}, found {record.layers[layer][row, column]}; give "
        "--vector_dtype=float32"
    )


def _to_head(
    part: RecordPart, shape: tuple[int, int, int], dtype: np.dtype[Any]
) -> bytes:
    record = part.record
    head = {
        "linex_index": record.linex_index,
        "tokens": record.tokens,
        "indexes": record.indexes,
        "texts": record.texts,
        "offsets": record.offsets,
        "line": part.line,
        "position": part.position,
        "is_first": part.is_first,
        "is_last": part.is_last,
        "shape": shape,
        "dtype": dtype.name,
    }
    text = json.dumps(head).encode("ascii")
    # The vectors begin at a multiple of 8 bytes, so that they are numbers in place.
    return text + b" " * (-(_HEADER.size + len(text)) % 8)


# ------------------------------------------------------------------------- reading


class FrameReader:
    """A file of frames, open for reading."""

    def __init__(self, path: str) -> None:
        """Opens the file.

        Raises:
          OSError: it cannot be opened.
        """
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def frames(self, start: int = 0, end: int | None = None) -> Iterator[Frame]:
        """Yields the frames from one byte to another, or to the end of the file.

        Raises:
          OutputError: one is broken.
        """
        if end is None:
            end = os.fstat(self._descriptor).st_size
        while start < end:
            with _explaining(self._path, start):
                frame = _read_head(self._descriptor, start)
            yield frame
            start = frame.end

    def read_vectors(self, frame: Frame) -> NDArray[Any]:
        """Reads a frame's vectors: its dtype, [num_layers, num_tokens, size].

        Raises:
          OutputError: they are not what was written.
        """
        with _explaining(self._path, frame.start):
            return _read_vectors(self._descriptor, frame)


@contextlib.contextmanager
def _explaining(path: str, start: int) -> Iterator[None]:
    """Turns a BrokenFrameError into an OutputError."""
    try:
        yield
    except BrokenFrameError as error:
        raise OutputError(
            f"{path}: the record at byte {start:,} is not what was written: {error}. "
            "Give the same command with --resume: what stands before the damage is "
            "kept, the rest is computed again"
        ) from error


def scan(descriptor: int, start: int) -> tuple[int, int]:
    """Finds where the last whole record ends.

    Args:
      descriptor: a file of frames; behind the last one there may be anything.
      start: where a record begins.

    Returns:
      The byte behind the last whole record, and the records from `start` on.
    """
    end = position = start
    num_records = 0
    while True:
        try:
            frame = _read_head(descriptor, position)
            _read_vectors(descriptor, frame)
        except BrokenFrameError:
            return end, num_records
        position = frame.end
        if frame.part.is_last:
            end, num_records = position, num_records + 1


def kept_text_size(descriptor: int, start: int, end: int) -> int:
    """Counts the text of the lines between two bytes where records begin or end.

    Raises:
      BrokenFrameError: something else stands there.
    """
    size = 0
    while start < end:
        frame = _read_head(descriptor, start)
        if frame.part.line is not None:
            size += text_size(frame.part.line)
        start = frame.end
    return size


def _read_head(descriptor: int, start: int) -> Frame:
    header = _read(descriptor, start, _HEADER.size)
    magic, head_length, vectors_length, head_crc, vectors_crc = _HEADER.unpack(
        header.data
    )
    if magic != MAGIC:
        raise BrokenFrameError(f"expected {MAGIC!r}, found {magic!r}")
    text = _read(descriptor, start + _HEADER.size, head_length)
    if zlib.crc32(text.data) != head_crc:
        raise BrokenFrameError("the checksum of its head does not match")
    head = json.loads(text.tobytes())  # what a checksum protects is as it was written
    shape, dtype = tuple(head.pop("shape")), head.pop("dtype")
    vectors_start = start + _HEADER.size + head_length
    return Frame(
        part=_to_part(head),
        shape=shape,
        dtype=dtype,
        vectors_crc=vectors_crc,
        start=start,
        vectors_start=vectors_start,
        end=vectors_start + vectors_length,
    )


def _to_part(head: dict[str, Any]) -> RecordPart:
    texts, offsets = head.pop("texts"), head.pop("offsets")
    record = Record(
        linex_index=head.pop("linex_index"),
        tokens=tuple(head.pop("tokens")),
        indexes=tuple(head.pop("indexes")),
        layers=(),
        texts=None if texts is None else tuple(texts),
        offsets=None
        if offsets is None
        else tuple(None if span is None else tuple(span) for span in offsets),
    )
    return RecordPart(record, **head)


def _read_vectors(descriptor: int, frame: Frame) -> NDArray[Any]:
    num_bytes = frame.end - frame.vectors_start
    content = _read(descriptor, frame.vectors_start, num_bytes)
    if crc32(content.data) != frame.vectors_crc:
        raise BrokenFrameError("the checksum of its vectors does not match")
    return content.view(frame.dtype).reshape(frame.shape)


def _read(descriptor: int, start: int, num_bytes: int) -> NDArray[np.uint8]:
    # Before memory is taken: a length may be anything after a power failure.
    if start + num_bytes > os.fstat(descriptor).st_size:
        raise BrokenFrameError("it is cut off")
    content = np.empty(num_bytes, np.uint8)
    view = content.data
    while view:
        num_read = os.preadv(descriptor, [view], start)
        if not num_read:
            raise BrokenFrameError("it is cut off")
        view = view[num_read:]
        start += num_read
    return content
