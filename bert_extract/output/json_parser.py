"""One line of JSON -> Record: our own form of it at the speed of the memory.

What the compiled kernel reads is what `json_lines` writes, and upstream too: one form
of spacing, entries in one order, values of at most six decimals. Any other line is
given to Python's json, whose float64 become float32. The records are the same, bit for
bit.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
from dataclasses import dataclass
from typing import Any

import jsonlines
import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import InputError
from bert_extract.output.json_lines import (
    address_of,
    ends_of,
    layer_pieces,
    to_record,
)
from bert_extract.output.record import Record
from bert_extract.output.selection import EVERYTHING, Selection

# A value with what comes after it: "0.0," is the shortest.
_MIN_VALUE_BYTES = 4


class _CShape(ctypes.Structure):
    """`struct shape` of the kernel."""

    _fields_ = (
        ("layer_blob", ctypes.c_char_p),
        ("layer_ends", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("num_layers", ctypes.c_int64),
        ("size", ctypes.c_int64),
    )


class _Found(ctypes.Structure):
    """`struct found` of the kernel."""

    _fields_ = (
        ("linex_index", ctypes.c_int64),
        ("tokens_end", ctypes.c_int64),
        ("texts_end", ctypes.c_int64),
        ("has_offsets", ctypes.c_int64),
    )


def _load_kernel() -> ctypes.CDLL | None:
    """Loads the compiled kernel; None where it was not built."""
    spec = importlib.util.find_spec("bert_extract.output._parser_kernel")
    if spec is None or spec.origin is None:
        return None
    try:
        # Not `import`: it is no Python module. CDLL releases the lock in a call.
        kernel = ctypes.CDLL(spec.origin)
    except OSError:  # built for another machine
        return None
    kernel.bert_extract_read_record.restype = ctypes.c_int
    kernel.bert_extract_read_record.argtypes = [
        ctypes.c_char_p,  # line
        ctypes.c_int64,  # size
        ctypes.POINTER(_CShape),  # shape
        ctypes.c_int64,  # num_tokens
        ctypes.c_void_p,  # values
        ctypes.c_void_p,  # tokens
        ctypes.c_void_p,  # texts
        ctypes.c_void_p,  # offsets
        ctypes.POINTER(_Found),  # found
    ]
    return kernel


_KERNEL = _load_kernel()


class _Scratch:
    """Where the kernel leaves what is not vectors, for lines of up to `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.found = _Found()
        self._tokens, self._texts = np.empty((2, size), np.uint8)
        # An entry takes more bytes in a line than here: '{"token": "", "layers": []}'.
        self._offsets = np.empty((size // 16, 2), np.int64)
        self.addresses = (
            address_of(self._tokens),
            address_of(self._texts),
            address_of(self._offsets),
        )

    def to_record(self, shape: _Shape, values: NDArray[np.float32]) -> Record:
        """Makes a record of it and of the vectors.

        Raises:
          ValueError: a string is none.
        """
        found = self.found
        num_tokens = values.shape[1]
        return Record(
            found.linex_index,
            _strings(self._tokens, found.tokens_end),
            shape.layer_names,
            tuple(values[position] for position in shape.positions),
            None if found.texts_end < 0 else _strings(self._texts, found.texts_end),
            _spans(self._offsets[:num_tokens]) if found.has_offsets else None,
        )


def _strings(blob: NDArray[np.uint8], end: int) -> tuple[str, ...]:
    """Reads strings with a comma after each."""
    return tuple(json.loads(f"[{str(blob[: end - 1].data, 'ascii')}]"))


def _spans(offsets: NDArray[np.int64]) -> tuple[tuple[int, int] | None, ...]:
    return tuple(None if start < 0 else (start, end) for start, end in offsets.tolist())


class JsonParser:
    """Reads the lines of a file, one after the other, in one thread.

    Args:
      selection: the layers to read. The values of others are passed over by the
        kernel: where they are broken, nobody is told.
      kernel: see below.

    Attributes:
      kernel: "compiled" where the C kernel was built, else "python". Tests and
        benchmarks ask for one of them; both give the same records.
    """

    def __init__(
        self, selection: Selection = EVERYTHING, *, kernel: str | None = None
    ) -> None:
        if kernel is None:
            kernel = "python" if _KERNEL is None else "compiled"
        if kernel not in ("compiled", "python"):
            raise ValueError(f"kernel={kernel!r}: expected compiled or python")
        if kernel == "compiled" and _KERNEL is None:
            raise ValueError(f"kernel={kernel!r}: the C kernel was not built")
        self.kernel = kernel
        self._selection = selection
        # What the next line is expected to be like.
        self._shape: _Shape | None = None
        self._scratch = _Scratch(0)

    def parse(self, line: bytes) -> Record:
        """Reads one line, with its newline or without.

        Raises:
          InputError: it is no JSON, or no record, or has not the layers.
        """
        if self.kernel == "python":
            return self._selection.of_record(_parse_plainly(line))
        if self._shape is None:
            self._shape = _guess_shape(line, self._selection)
        record = None if self._shape is None else self._parse_own(line, self._shape)
        if record is None:
            record = _parse_plainly(line)
            self._shape = _shape_of(record, self._selection) or self._shape
            record = self._selection.of_record(record)
        return record

    def _parse_own(self, line: bytes, shape: _Shape) -> Record | None:
        """Returns the record; None if the line has another form or shape."""
        assert _KERNEL is not None
        num_tokens = line.count(b'{"token": "')
        num_values = num_tokens * shape.num_values
        # Whoever wrote the line must not decide how much memory is asked for.
        if not num_tokens or num_values * _MIN_VALUE_BYTES > len(line):
            return None
        if self._scratch.size < len(line):
            self._scratch = _Scratch(len(line))
        scratch = self._scratch
        values = np.empty((shape.num_read, num_tokens, shape.size), np.float32)
        if not _KERNEL.bert_extract_read_record(
            line,
            len(line),
            shape.c_shape,
            num_tokens,
            address_of(values),
            *scratch.addresses,
            scratch.found,
        ):
            return None
        try:
            return scratch.to_record(shape, values)
        except ValueError:  # an escape that there is not
            return None


def _parse_plainly(line: bytes) -> Record:
    try:
        # json's own loads: which parser jsonlines finds must not matter.
        entry = jsonlines.Reader([line], loads=json.loads).read()
    except jsonlines.InvalidLineError as error:
        # It counts lines, too: ours was its first.
        reason = str(error).removesuffix(f" (line {error.lineno})")
        raise InputError(
            f"expected a record in JSON: {reason}. Was it written to its end?"
        ) from error
    except RecursionError as error:
        raise InputError("expected a record in JSON, found lists in lists") from error
    return to_record(entry)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the lines of a file have in common, and what is asked for of it."""

    num_values: int  # of an entry
    size: int  # of one vector
    num_read: int  # layers that the kernel reads
    layer_names: tuple[int | str, ...]  # of the layers that are asked for
    positions: tuple[int, ...]  # and where each of them is among those that are read
    c_shape: _CShape  # the same for the kernel
    arrays: tuple[object, ...]  # to which c_shape points


def _make_shape(
    layer_names: tuple[int | str, ...], size: int, selection: Selection
) -> _Shape | None:
    """Makes the shape of lines; None for what the kernel does not read.

    Raises:
      InputError: a layer that is asked for is not among them.
    """
    if (
        not layer_names
        or not size
        or not {type(index) for index in layer_names} <= {int, str}
    ):
        return None
    pieces = layer_pieces(layer_names)
    ends = ends_of(pieces)
    ends_address = ends.buffer_info()[0]
    asked_for = selection.positions_of(layer_names)
    read = sorted(set(asked_for))
    positions = np.full(len(layer_names), -1, np.int64)
    positions[read] = np.arange(len(read))
    return _Shape(
        num_values=len(layer_names) * size,
        size=size,
        num_read=len(read),
        layer_names=tuple(layer_names[number] for number in asked_for),
        positions=tuple(positions[asked_for].tolist()),
        c_shape=_CShape(
            b"".join(pieces),
            ends_address,
            address_of(positions),
            len(layer_names),
            size,
        ),
        arrays=(ends, positions),
    )


def _guess_shape(line: bytes, selection: Selection) -> _Shape | None:
    """Looks at the first entry's layers; None if that does not help."""
    # A string has no quote without a backslash before it, so neither of these.
    begin = line.find(b'"layers": [')
    end = line.find(b"]}]}", begin)
    if begin < 0 or end < 0:
        return None
    try:
        layers: Any = json.loads(b"{" + line[begin : end + 4])["layers"]
        layer_names = tuple(layer["index"] for layer in layers)
        (size,) = {len(layer["values"]) for layer in layers}
        return _make_shape(layer_names, size, selection)
    except (InputError, KeyError, TypeError, ValueError, RecursionError):
        return None  # whoever reads the whole line says what is wrong


def _shape_of(record: Record, selection: Selection) -> _Shape | None:
    sizes = {layer.shape[1] for layer in record.layers}
    if len(sizes) != 1:
        return None
    return _make_shape(record.indexes, sizes.pop(), selection)


# What our lines begin with.
_BEGINNING = re.compile(rb'\{"linex_index": (0|[1-9][0-9]{0,17}), ')


def linex_index_of(line: bytes) -> int | None:
    """Looks at the beginning of a line; None if that does not tell."""
    match = _BEGINNING.match(line)
    return None if match is None else int(match[1])
