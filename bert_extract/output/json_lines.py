"""Record <-> one line of JSON: rounding, key order and "linex_index" live here."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import json
import operator
import threading
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import InputError
from bert_extract.output.record import Record, RecordPart, check_finite

# The compiled kernel's bound: "-123456789.123456, " is 19 bytes, and its last store
# may reach 63 bytes too far. The proof stands in _json_kernel.c.
_MAX_VALUE_BYTES = 19
_SPARE_BYTES = 64

_FLOAT32 = np.dtype(np.float32)
Exact = TypeVar("Exact", int, str, list[Any])

# Records of at most so many values, which take 50 us, are written under Python's lock:
# who lets go of it waits for up to 5 ms until another thread gives it back.
_VALUES_UNDER_LOCK = 1 << 14

# What is longer is not kept for the case that the next line says the same.
_MOST_REPEATED_BYTES = 1 << 18

# Wordpieces have at most 200 characters; longer tokens come once and are not kept.
_MAX_CACHED_TOKEN_LENGTH = 200


def _load_kernel(loader: type[ctypes.CDLL]) -> ctypes.CDLL | None:
    """Loads the compiled kernel; None where it was not built.

    Args:
      loader: CDLL, which releases Python's lock in a call, or PyDLL, which does not.
    """
    spec = importlib.util.find_spec("bert_extract.output._json_kernel")
    if spec is None or spec.origin is None:
        return None
    try:
        kernel = loader(spec.origin)  # not `import`: it is no Python module
    except OSError:  # built for another machine
        return None
    kernel.bert_extract_write_record.restype = ctypes.c_int64
    kernel.bert_extract_write_record.argtypes = [
        ctypes.c_void_p,  # layers
        ctypes.c_int64,  # num_tokens
        ctypes.c_int64,  # num_layers
        ctypes.c_int64,  # hidden_size
        ctypes.c_char_p,  # token_blob
        ctypes.c_void_p,  # token_ends
        ctypes.c_char_p,  # layer_blob
        ctypes.c_void_p,  # layer_ends
        ctypes.c_int,  # form
        ctypes.c_void_p,  # out
    ]
    return kernel


_KERNEL, _KERNEL_UNDER_LOCK = _load_kernel(ctypes.CDLL), _load_kernel(ctypes.PyDLL)

# The best of its forms that the C kernel may take.
_FORMS = {"scalar": 0, "avx2": 1, "compiled": 2}


class JsonFormatter:
    """Writes records as json.dumps would write them, byte for byte.

    One formatter serves any number of threads at once. Values are rounded as
    upstream rounds them: `round(float(x), 6)`.

    Attributes:
      kernel: "compiled" where the C kernel was built, else "python". Tests and
        benchmarks ask for one of them, or for a form of the C kernel that a
        better CPU leaves aside: "avx2", or "scalar" for no vector instructions.
        All write the same bytes.
    """

    def __init__(
        self, layer_names: Sequence[int | str], *, kernel: str | None = None
    ) -> None:
        if kernel is None:
            kernel = "python" if _KERNEL is None else "compiled"
        if kernel not in (*_FORMS, "python"):
            raise ValueError(
                f"kernel={kernel!r}: expected compiled, avx2, scalar or python"
            )
        if kernel != "python" and _KERNEL is None:
            raise ValueError(f"kernel={kernel!r}: the C kernel was not built")
        if kernel == "avx2" and _KERNEL and _KERNEL.bert_extract_json_form(1) != 1:
            raise ValueError("kernel='avx2': the CPU or the compiler has no AVX2")
        self.kernel = kernel
        self._own = threading.local()
        self._layer_names = tuple(layer_names)
        self._layer_pieces = layer_pieces(self._layer_names)
        self._layer_blob = b"".join(self._layer_pieces)
        self._layer_ends = ends_of(self._layer_pieces)
        self._layer_ends_address = self._layer_ends.buffer_info()[0]

    def format_all(
        self, parts: Sequence[RecordPart]
    ) -> list[bytes | bytearray | memoryview]:
        """Writes consecutive parts as `format` does; what is repeated is copied.

        Lines that say the same, as blank ones do, have the same arrays for vectors.
        Args and Raises are those of `format`.
        """
        lines: list[bytes | bytearray | memoryview] = []
        # The last part of this thread, and its line: groups are small, and what they
        # say may go on.
        before, line = getattr(self._own, "last", (None, b""))
        for part in parts:
            if before is not None and _is_repeated(part, before):
                start = len(_record_number(before.record.linex_index))
                number = _record_number(part.record.linex_index)
                lines.append(b"".join((number, line[start:])))
            else:
                line = self.format(part)
                lines.append(line)
                before = part if len(line) <= _MOST_REPEATED_BYTES else None
        self._own.last = before, line
        return lines

    def format(self, part: RecordPart) -> memoryview:
        """Writes one record, or a part of one, as ASCII.

        Args:
          part: its layers are named as the formatter's, float32 [num_tokens, size],
            C-contiguous or copied to be so.

        Returns:
          The line with its newline; of a part, what it adds to its line. It owns
          its memory.

        Raises:
          NotFiniteError: a value is NaN or infinite.
        """
        layers = self._checked_layers(part.record)
        pieces = _token_pieces(part)
        if self.kernel != "python":
            line = self._format_compiled(pieces, layers)
            if line is not None:
                return line
        check_finite(part)
        return memoryview(self._format_python(pieces, layers))

    def _checked_layers(self, record: Record) -> list[NDArray[np.float32]]:
        """Gives the layers, safe to hand to C as pointers."""
        names = self._layer_names
        if record.indexes != names or len(record.layers) != len(names):
            raise ValueError(
                f"record {record.linex_index} has {len(record.layers)} layers named "
                f"{record.indexes}; this formatter is for {names}"
            )
        num_tokens, size = len(record.tokens), -1
        for layer in record.layers:
            is_matrix = layer.dtype == _FLOAT32 and layer.ndim == 2
            if is_matrix and size < 0:
                size = layer.shape[1]
            if not is_matrix or layer.shape != (num_tokens, size):
                raise ValueError(
                    f"record {record.linex_index} has a layer {layer.dtype} "
                    f"{list(layer.shape)}; expected float32 "
                    f"[{num_tokens}, hidden_size], the same for each layer"
                )
        return [
            layer if layer.flags.c_contiguous else np.ascontiguousarray(layer)
            for layer in record.layers
        ]

    def _format_compiled(
        self, token_pieces: list[bytes], layers: list[NDArray[np.float32]]
    ) -> memoryview | None:
        """Gives the line, or None if a value is not finite or is 1e9 or more."""
        assert _KERNEL is not None
        assert _KERNEL_UNDER_LOCK is not None
        token_blob = b"".join(token_pieces)
        token_ends = ends_of(token_pieces)
        pointers = array("Q", map(address_of, layers))
        num_tokens = len(token_pieces) - 1
        num_values = sum(layer.size for layer in layers)
        # A fresh array for each record, most of whose unused tail is never touched:
        # a scratch buffer and a copy of its bytes cost 10 to 20 % more.
        out = np.empty(
            len(token_blob)
            + num_tokens * len(self._layer_blob)
            + num_values * _MAX_VALUE_BYTES
            + _SPARE_BYTES,
            dtype=np.uint8,
        )
        is_small = num_values <= _VALUES_UNDER_LOCK
        kernel = _KERNEL_UNDER_LOCK if is_small else _KERNEL
        num_bytes: int = kernel.bert_extract_write_record(
            pointers.buffer_info()[0],
            num_tokens,
            len(layers),
            layers[0].shape[1] if layers else 0,
            token_blob,
            token_ends.buffer_info()[0],
            self._layer_blob,
            self._layer_ends_address,
            _FORMS[self.kernel],
            address_of(out),
        )
        return None if num_bytes < 0 else out.data[:num_bytes]

    def _format_python(
        self, token_pieces: list[bytes], layers: list[NDArray[np.float32]]
    ) -> bytes:
        """Gives the line, without the C kernel."""
        rows_by_layer = [_format_rows(layer) for layer in layers]
        pieces = []
        for number, token_piece in enumerate(token_pieces[:-1]):
            pieces.append(token_piece)
            for layer_piece, rows in zip(
                self._layer_pieces, rows_by_layer, strict=False
            ):
                pieces += (layer_piece, rows[number])
            pieces.append(self._layer_pieces[-1])
        pieces.append(token_pieces[-1])
        return b"".join(pieces)


def address_of(values: NDArray[Any]) -> int:
    """Finds where the array's first element lies."""
    address: int = values.__array_interface__["data"][0]
    return address


def ends_of(pieces: list[bytes]) -> array[int]:
    """Finds where each piece ends when they are joined, as 64-bit integers."""
    # No np.ndarray, which takes five times as long for the few pieces of a short line.
    return array("q", itertools.accumulate(map(len, pieces)))


def layer_pieces(layer_names: tuple[int | str, ...]) -> list[bytes]:
    """Gives what stands before each layer's values, and after the last's.

    (-1, 0) -> '{"index": -1, "values": [', ']}, {"index": 0, "values": [', ']}'
    """
    pieces = []
    before = ""
    for name in layer_names:
        pieces.append(f'{before}{{"index": {json.dumps(name)}, "values": [')
        before = "]}, "
    pieces.append("]}" if layer_names else "")
    return [piece.encode("ascii") for piece in pieces]


def _record_number(linex_index: int) -> bytes:
    """Gives the beginning of a record, by which alone two may differ."""
    return b'{"linex_index": %d' % linex_index


def _record_start(linex_index: int) -> bytes:
    """Gives what stands before a record's entries."""
    return _record_number(linex_index) + b', "features": ['


def _is_repeated(part: RecordPart, before: RecordPart) -> bool:
    """Whether two whole records differ in nothing but their number."""
    one, other = part.record, before.record
    return (
        one.tokens == other.tokens
        and all(map(operator.is_, one.layers, other.layers))
        and (part.is_first and part.is_last and before.is_first and before.is_last)
        and (one.texts is None and one.offsets is None)
        and (other.texts is None and other.offsets is None)
        and one.indexes == other.indexes
        and len(one.layers) == len(other.layers)
    )


def _start_piece(token: str) -> bytes:
    """Gives what stands before the layers of an entry without text and offset."""
    return f'{{"token": {json.dumps(token)}, "layers": ['.encode("ascii")


def _next_piece(token: str) -> bytes:
    """Gives the same with the end of the entry before it."""
    return b"]}, " + _start_piece(token)


_cached_next_piece = functools.lru_cache(maxsize=1 << 15)(_next_piece)
_cached_quoted = functools.lru_cache(maxsize=1 << 15)(json.dumps)


def _token_pieces(part: RecordPart) -> list[bytes]:
    """Gives what stands before each entry's layers, and after the last's."""
    record = part.record
    start = b""
    if part.is_first:
        start = _record_start(record.linex_index)
    end = b"]}\n" if part.is_last else b""
    if not record.tokens:
        return [start + end]
    if record.texts is None and record.offsets is None:
        pieces = [
            _cached_next_piece(token)
            if len(token) <= _MAX_CACHED_TOKEN_LENGTH
            else _next_piece(token)
            for token in record.tokens
        ]
    else:
        pieces = _annotated_pieces(record)
    # The first entry of a line follows none, that of a later part follows another's.
    pieces[0] = start + pieces[0][2 if part.position else 4 :]
    pieces.append(b"]}" + end)
    return pieces


def _annotated_pieces(record: Record) -> list[bytes]:
    """Gives what stands between the layers of entries with text or offset."""
    texts: Iterable[str] = [""] * len(record.tokens)
    offsets: Iterable[str] = texts
    if record.texts is not None:
        texts = (f', "text": {_cached_quoted(text)}' for text in record.texts)
    if record.offsets is not None:
        offsets = (
            ', "offset": null'
            if span is None
            else f', "offset": [{span[0]}, {span[1]}]'
            for span in record.offsets
        )
    quoted = (
        _cached_quoted(token)
        if len(token) <= _MAX_CACHED_TOKEN_LENGTH
        else json.dumps(token)
        for token in record.tokens
    )
    return [
        f']}}, {{"token": {token}{text}{offset}, "layers": ['.encode("ascii")
        for token, text, offset in zip(quoted, texts, offsets, strict=True)
    ]


def _text_table(texts: list[str], dtype: type[Any]) -> NDArray[Any]:
    """Makes each text one integer of the same bytes, filled up with NUL."""
    size = np.dtype(dtype).itemsize
    blob = b"".join(text.encode("ascii").ljust(size, b"\0") for text in texts)
    return np.frombuffer(blob, dtype)


# ", -12" ".345" "67": a value below 1000 is one of each, without the NULs.
_INTEGERS = _text_table(
    [f", {sign}{n}" for sign in ("", "-") for n in range(1000)], np.uint64
)
# The second thousand is for values with nothing but zeros after these three digits.
_THOUSANDTHS = _text_table(
    [f".{n:03}" for n in range(1000)]
    + [".0"]
    + [f".{n:03}".rstrip("0") for n in range(1, 1000)],
    np.uint32,
)
_MILLIONTHS = _text_table([f"{n:03}".rstrip("0") for n in range(1000)], np.uint32)


def _format_rows(layer: NDArray[np.float32]) -> list[bytes]:
    """Float32 [num_tokens, hidden_size] -> each row's values, joined with ", "."""
    # A float32 times 1e6 is exact in float64, so rint decides as round() does.
    n = np.rint(np.abs(layer).astype(np.float64) * 1e6)
    is_odd = np.any((n >= 1e9) | ((n > 0) & (n < 100)), axis=1)
    thousandths, last = np.divmod(np.minimum(n, 1e9 - 1).astype(np.uint32), 1000)
    integer, middle = np.divmod(thousandths, 1000)
    texts = np.empty((*layer.shape, 4), np.uint32)  # 16 bytes a value
    texts.view(np.uint64)[..., 0] = _INTEGERS[integer + 1000 * np.signbit(layer)]
    texts[..., 2] = _THOUSANDTHS[middle + 1000 * (last == 0)]
    texts[..., 3] = _MILLIONTHS[last]
    return [
        # Exponents and large numbers are rare; their rows take the plain way.
        json.dumps(np.round(row.astype(np.float64), 6).tolist())[1:-1].encode("ascii")
        if odd
        else text.tobytes().translate(None, b"\0")[2:]
        for row, text, odd in zip(layer, texts, is_odd.tolist(), strict=True)
    ]


def to_record(entry: Any) -> Record:
    """Turns a decoded line of JSON into a record.

    Raises:
      InputError: it is not one.
    """
    try:
        features = _exactly(list, entry["features"])
        layers_by_token = [token_entry["layers"] for token_entry in features]
        names_by_token = {
            tuple(layer["index"] for layer in layers) for layers in layers_by_token
        }
        if len(names_by_token) > 1:
            raise ValueError("tokens with different layers")
        layer_names = names_by_token.pop() if names_by_token else ()
        return Record(
            linex_index=_exactly(int, entry["linex_index"]),
            tokens=tuple(_exactly(str, each["token"]) for each in features),
            indexes=layer_names,
            layers=tuple(
                _to_matrix([layers[number]["values"] for layers in layers_by_token])
                for number in range(len(layer_names))
            ),
            texts=_to_texts(features),
            offsets=_to_offsets(features),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            'expected {"linex_index": .., "features": [{"token": .., "layers": '
            f'[{{"index": .., "values": [..]}}]}}]}}, found {error!r}'
        ) from error


def _to_texts(features: list[Any]) -> tuple[str, ...] | None:
    """Gives the entries' "text"; None if there is none."""
    if not any("text" in token_entry for token_entry in features):
        return None
    return tuple(_exactly(str, token_entry["text"]) for token_entry in features)


def _to_offsets(features: list[Any]) -> tuple[tuple[int, int] | None, ...] | None:
    """Gives the entries' "offset"; None if there is none."""
    if not any("offset" in token_entry for token_entry in features):
        return None
    offsets: list[tuple[int, int] | None] = []
    for token_entry in features:
        if token_entry["offset"] is None:
            offsets.append(None)
        else:
            begin, end = token_entry["offset"]
            offsets.append((_exactly(int, begin), _exactly(int, end)))
    return tuple(offsets)


def _to_matrix(values_by_token: list[Any]) -> NDArray[np.float32]:
    """Turns the values of one layer into float32 [num_tokens, hidden_size].

    NaN and infinity, which the original writes, stay what they are.
    """
    matrix = np.array(values_by_token)
    if matrix.ndim != 2:
        raise ValueError("values that are no list of numbers")
    if matrix.size and matrix.dtype.kind not in "iuf":
        raise ValueError("values that are no numbers")
    with np.errstate(over="raise"):
        try:
            return matrix.astype(np.float64).astype(np.float32)
        except FloatingPointError as error:
            raise ValueError("a value that no float32 holds") from error


def _exactly(kind: type[Exact], value: Any) -> Exact:
    """The value, if it is of that type; of JSON's: true is no int."""
    if type(value) is not kind:
        raise ValueError(f"{value!r:.60} for {kind.__name__}")
    return value
