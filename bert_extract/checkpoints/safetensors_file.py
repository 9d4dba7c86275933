"""model.safetensors -> its tensors: a header that is believed only where it fits.

The file is 8 bytes with the length of the header, little-endian; the header, a JSON
object of {"NAME": {"dtype", "shape", "data_offsets": [begin, end]}}; and the tensors,
one behind the other, to the end of the file. Nothing in it is code.

The library of the same name (0.8.0) reads such files, too: with `backend="pread"`, and
bfloat16 once ml_dtypes is imported. (By default it maps the file: a process whose file
is shortened meanwhile ends without a word.) But it does not open the paths that only
`tf.io.gfile` knows, and its memory is not aligned as TensorFlow's own is.
"""

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bert_extract.checkpoints.base import StoredVariable
from bert_extract.checkpoints.tensors import aligned_bytes, to_tensor
from bert_extract.errors import CheckpointError
from bert_extract.files import LFS_COMPLAINT, is_lfs_pointer, open_raw_file

# A BERT of a thousand layers has a header of 2 MB. The length is not believed: parsing
# takes many times its memory.
MAX_HEADER_BYTES = 4 << 20
_HEAD_BYTES = 64  # enough to know what else a file is
_LENGTH_BYTES = 8
_BLOCK_BYTES = 1 << 20
# More have no use; and multiplied, they could keep a computer busy.
_MAX_AXES = 8

# dtype in the header -> the name that NumPy has for it, and bytes of a value.
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


@dataclass(frozen=True, slots=True)
class _TensorRange:
    """Where a tensor lies."""

    stored: StoredVariable
    begin: int  # bytes from the start of the file
    num_bytes: int


class SafetensorsFile:
    """A safetensors file whose header is read and found to fit the file.

    Attributes:
      path: as given.
      variables: what the header says of each tensor, by name.
    """

    def __init__(self, path: str) -> None:
        """Reads and checks the header.

        Raises:
          CheckpointError: the file cannot be read, or is no whole safetensors file.
        """
        self.path = path
        with self._open() as reader:
            reader.seek(0, os.SEEK_END)
            self._num_bytes = reader.tell()
            header, data_begin = self._read_header(reader)
        self._ranges = self._check_header(header, data_begin)
        self.variables = {name: found.stored for name, found in self._ranges.items()}

    def read(self, name: str) -> tf.Tensor:
        """A tensor on the CPU, of the stored shape and dtype.

        Raises:
          CheckpointError: the file cannot be read, or is not what it was.
        """
        found = self._ranges[name]
        values = aligned_bytes(found.num_bytes)
        with self._open() as reader:
            self._fill(reader, found.begin, values)
        return to_tensor(values, found.stored.shape, tf.as_dtype(found.stored.dtype))

    def checksum(self) -> str:
        """SHA-256 of the whole file.

        Raises:
          CheckpointError: the file cannot be read.
        """
        digest = hashlib.sha256()
        with self._open() as reader:
            for begin in range(0, self._num_bytes, _BLOCK_BYTES):
                block = np.empty(min(_BLOCK_BYTES, self._num_bytes - begin), np.uint8)
                self._fill(reader, begin, block)
                digest.update(block.data)
        return digest.hexdigest()

    # -- the header

    def _read_header(self, reader: io.RawIOBase) -> tuple[dict[str, Any], int]:
        """The JSON object, and where the tensors begin."""
        if self._num_bytes < _LENGTH_BYTES:
            raise self._damaged(
                f"expected 8 bytes with the length of the header; it has "
                f"{self._num_bytes}"
            )
        length_bytes = np.empty(_LENGTH_BYTES, np.uint8)
        self._fill(reader, 0, length_bytes)
        reader.seek(0)
        if is_lfs_pointer(reader.read(_HEAD_BYTES)):
            raise CheckpointError(f"{self.path}: {LFS_COMPLAINT}")
        length = int.from_bytes(length_bytes.tobytes(), "little")
        data_begin = _LENGTH_BYTES + length
        if length > MAX_HEADER_BYTES or data_begin > self._num_bytes:
            raise self._damaged(
                f"its first 8 bytes say that the header has {length} bytes; the file "
                f"has {self._num_bytes}, and {MAX_HEADER_BYTES} are the most that is "
                "read"
            )
        content = np.empty(length, np.uint8)
        self._fill(reader, _LENGTH_BYTES, content)
        try:
            header = json.loads(content.tobytes().decode(), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its header is not JSON: {error}") from error
        if not isinstance(header, dict):
            raise self._damaged("its header is not a JSON object")
        return header, data_begin

    def _check_header(
        self, header: dict[str, Any], data_begin: int
    ) -> dict[str, _TensorRange]:
        """What the header says, if the tensors fill the file and do not overlap."""
        header.pop("__metadata__", None)
        ranges = {
            name: self._range(name, entry, data_begin) for name, entry in header.items()
        }
        end = data_begin
        for name, found in sorted(ranges.items(), key=_span):
            if found.begin != end:
                raise self._damaged(
                    f"{name!r} begins at byte {found.begin}, and the tensor before it "
                    f"ends at byte {end}"
                )
            end += found.num_bytes
        if end != self._num_bytes:
            raise self._damaged(
                f"its tensors end at byte {end}, and the file has {self._num_bytes} "
                "bytes"
            )
        return ranges

    def _range(self, name: str, entry: Any, data_begin: int) -> _TensorRange:
        if not isinstance(entry, dict):
            raise self._damaged(f"{name!r} has no dtype, shape and data_offsets")
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        dtype = entry.get("dtype")
        if not isinstance(dtype, str):
            raise self._damaged(f"{name!r} has no dtype")
        if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
            raise self._damaged(
                f"the shape and the data_offsets of {name!r} are not lists of sizes"
            )
        begin, end = offsets
        num_bytes = end - begin
        # A dtype of tomorrow is not read, but its tensor may lie there.
        numpy_name, item_size = _DTYPES.get(dtype, (dtype, None))
        if num_bytes < 0 or (
            item_size is not None and math.prod(shape) * item_size != num_bytes
        ):
            raise self._damaged(
                f"{name!r} has the shape {shape} of {dtype}, and its data_offsets "
                f"{offsets} are of {num_bytes} bytes"
            )
        return _TensorRange(
            StoredVariable(tuple(shape), numpy_name), data_begin + begin, num_bytes
        )

    def _damaged(self, what: str) -> CheckpointError:
        what = what if len(what) <= 400 else f"{what[:400]}..."
        return CheckpointError(
            f"{self.path}: expected a whole safetensors file: {what}: copy or download "
            "it again"
        )

    # -- the file

    @contextlib.contextmanager
    def _open(self) -> Iterator[io.RawIOBase]:
        """The file; what goes wrong with it below is a `CheckpointError`."""
        try:
            with open_raw_file(self.path) as reader:
                yield reader
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot read it: {error.strerror}"
            ) from error

    def _fill(
        self, reader: io.RawIOBase, begin: int, values: NDArray[np.uint8]
    ) -> None:
        """Reads as many bytes as there is room for, from there on."""
        reader.seek(begin)
        num_read = 0
        while num_read < len(values):
            num_bytes = reader.readinto(values[num_read:].data) or 0
            if not num_bytes:
                raise self._damaged(
                    f"it ended {len(values) - num_read} bytes too early"
                )
            num_read += num_bytes


def _span(item: tuple[str, _TensorRange]) -> tuple[int, int]:
    """Where a tensor begins, empty ones first."""
    return item[1].begin, item[1].num_bytes


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no name stands twice."""
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name appears in it twice")
    return entries


def _is_sizes(sizes: object) -> TypeGuard[list[int]]:
    """Whether it is a short list of whole numbers that fit into 63 bits."""
    return (
        isinstance(sizes, list)
        and len(sizes) <= _MAX_AXES
        and all(type(size) is int and 0 <= size < 1 << 63 for size in sizes)
    )
