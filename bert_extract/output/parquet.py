"""Frames <-> Parquet: one row an entry of a record.

    linex_index              int64
    position                 int32, from 0 in each line
    token                    string
    text                     string or null, where words of pairs may have one
    offset_start, offset_end int32 or null, where offsets were asked for
    layer_-1, ...            FixedSizeList<float>[size], a column a layer

The file's metadata "bert_extract" is a JSON object: the layers, and which lines there
are, since a line without entries has no row.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import InputError
from bert_extract.output import append_file
from bert_extract.output.contents import Contents
from bert_extract.output.frames import FrameReader
from bert_extract.output.record import (
    Record,
    RecordPart,
    RecordSchema,
    join_records,
)
from bert_extract.output.selection import EVERYTHING, Selection

_METADATA = b"bert_extract"
# The columns that are no layers.
_PLAIN_COLUMNS = (
    *("linex_index", "position", "token"),
    *("text", "offset_start", "offset_end"),
)
# A row group has as many rows as there are vectors in so many bytes: enough for a
# reader that wants one column, and no more than a small machine can hold.
_ROW_GROUP_BYTES = 16 << 20
_MIN_ROWS, _MAX_ROWS = 64, 65536
# Arrow's names of the types of values, and NumPy's.
_DTYPES = {"float": "float32", "halffloat": "float16"}


def library_version() -> str:
    """The library that the file's bytes depend on."""
    import pyarrow

    return f"pyarrow {pyarrow.__version__}"


def column_names(layer_names: Sequence[int | str]) -> list[str]:
    """The columns of the layers; one that was asked for twice gets a number.

    (-1, 0, -1) -> layer_-1, layer_0, layer_-1_2
    """
    names: list[str] = []
    for layer_name in layer_names:
        name = f"layer_{layer_name}"
        count = 1 + sum(other == layer_name for other in layer_names[: len(names)])
        names.append(name if count == 1 else f"{name}_{count}")
    return names


# ------------------------------------------------------------------------- writing


def write(
    frames_file: str, output_file: str, schema: RecordSchema, vector_dtype: str
) -> None:
    """Makes a Parquet file of a file of frames.

    Args:
      frames_file: the whole records.
      output_file: the file to make.
      schema: what the records have in common.
      vector_dtype: "float32" or "float16".

    Raises:
      OutputError: a frame is broken.
      OSError: the file cannot be written.
    """
    import pyarrow.parquet

    columns = _columns(schema, vector_dtype)
    with (
        FrameReader(frames_file) as reader,
        pyarrow.parquet.ParquetWriter(
            output_file,
            columns,
            compression="zstd",
            # Vectors hardly repeat: a dictionary of them would be built for nothing.
            use_dictionary=["linex_index", "token", "text"],
            write_statistics=["linex_index", "position"],
            column_encoding=_encodings(schema, vector_dtype),
        ) as writer,
    ):
        rows = _Rows(schema, vector_dtype)
        lines = _Lines(schema.layer_names)
        for frame in reader.frames():
            append_file.crash_point("convert")
            lines.add(frame.part)
            record, vectors = frame.part.record, reader.read_vectors(frame)
            start = 0
            while start < len(record.tokens):
                start += rows.add(record, vectors, start, lines.position)
                if rows.is_full:
                    writer.write_table(rows.take(columns), rows.capacity)
            lines.position += len(record.tokens)
        if rows.num_rows:
            writer.write_table(rows.take(columns), rows.capacity)
        writer.add_key_value_metadata({_METADATA: lines.text()})


def _columns(schema: RecordSchema, vector_dtype: str) -> Any:
    """The columns as pyarrow has them, a pyarrow.Schema."""
    import pyarrow

    columns: list[tuple[str, Any, bool]] = [
        ("linex_index", pyarrow.int64(), False),
        ("position", pyarrow.int32(), False),
        ("token", pyarrow.string(), False),
    ]
    if schema.has_texts:
        columns.append(("text", pyarrow.string(), True))
    if schema.has_offsets:
        columns.append(("offset_start", pyarrow.int32(), True))
        columns.append(("offset_end", pyarrow.int32(), True))
    value = {"float32": pyarrow.float32(), "float16": pyarrow.float16()}[vector_dtype]
    vector = pyarrow.list_(pyarrow.field("element", value, nullable=False), schema.size)
    names = column_names(schema.layer_names)
    columns += [(name, vector, False) for name in names]
    return pyarrow.schema(
        [pyarrow.field(name, kind, is_nullable) for name, kind, is_nullable in columns]
    )


def _encodings(schema: RecordSchema, vector_dtype: str) -> dict[str, str] | None:
    """Vectors are a tenth smaller with all their first bytes together, and so on.

    Readers know that for float32 since 2020, but for float16 only since 2024.
    """
    if vector_dtype != "float32" or not schema.layer_names:
        return None
    names = column_names(schema.layer_names)
    return {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in names}


class _Lines:
    """Which lines the file has."""

    def __init__(self, layer_names: Sequence[int | str]) -> None:
        self.position = 0  # entries of the line so far
        self._layer_names = layer_names
        self._first: int | None = None
        self._num_lines = 0

    def add(self, part: RecordPart) -> None:
        """Counts a line by its first part."""
        if part.is_first:
            self.position = 0
            self._num_lines += 1
            if self._first is None:
                self._first = part.record.linex_index

    def text(self) -> str:
        """What the file's metadata says."""
        return json.dumps(
            {
                "layers": self._layer_names,
                "first_line": self._first,
                "num_lines": self._num_lines,
            }
        )


def _num_rows(row_bytes: int) -> int:
    """The rows of a row group: they depend on nothing but the columns."""
    return min(max(_ROW_GROUP_BYTES // max(1, row_bytes), _MIN_ROWS), _MAX_ROWS)


class _Rows:
    """The rows of one row group."""

    def __init__(self, schema: RecordSchema, vector_dtype: str) -> None:
        itemsize = np.dtype(vector_dtype).itemsize
        self.capacity = _num_rows(len(schema.layer_names) * schema.size * itemsize)
        self.num_rows = 0
        self._linex_indexes = np.empty(self.capacity, np.int64)
        self._positions = np.empty(self.capacity, np.int32)
        self._layers = [
            np.empty((self.capacity, schema.size), vector_dtype)
            for _ in schema.layer_names
        ]
        self._tokens: list[str] = []
        self._texts: list[str | None] = []
        self._spans: list[tuple[int, int] | tuple[None, None]] = []

    @property
    def is_full(self) -> bool:
        """Whether the row group is to be written."""
        return self.num_rows == self.capacity

    def add(
        self, record: Record, vectors: NDArray[Any], start: int, position: int
    ) -> int:
        """Takes entries of a part, as many as there is room for.

        Args:
          record: whose they are, without its layers.
          vectors: [num_layers, num_tokens, size].
          start: the first entry to take.
          position: entries of the line before this part.

        Returns:
          How many were taken.
        """
        begin = self.num_rows
        num_rows = min(len(record.tokens) - start, self.capacity - begin)
        taken, rows = slice(start, start + num_rows), slice(begin, begin + num_rows)
        self._linex_indexes[rows] = record.linex_index
        first = position + start
        self._positions[rows] = np.arange(first, first + num_rows)
        for layer, values in zip(self._layers, vectors, strict=True):
            layer[rows] = values[taken]
        self._tokens += record.tokens[taken]
        no_values = [None] * num_rows
        self._texts += no_values if record.texts is None else record.texts[taken]
        spans = no_values if record.offsets is None else record.offsets[taken]
        self._spans += [(None, None) if span is None else span for span in spans]
        self.num_rows += num_rows
        return num_rows

    def take(self, schema: Any) -> Any:
        """Gives the rows as a table, and begins anew."""
        import pyarrow

        columns: dict[str, Any] = {
            "linex_index": self._linex_indexes[: self.num_rows],
            "position": self._positions[: self.num_rows],
            "token": self._tokens,
            "text": self._texts,
            "offset_start": [start for start, _ in self._spans],
            "offset_end": [end for _, end in self._spans],
        }
        arrays = [
            pyarrow.array(columns[field.name], field.type)
            for field in schema
            if field.name in columns
        ]
        vector_fields = [field for field in schema if field.name not in columns]
        for field, layer in zip(vector_fields, self._layers, strict=True):
            values = pyarrow.array(layer[: self.num_rows].reshape(-1))
            arrays.append(
                pyarrow.FixedSizeListArray.from_arrays(values, type=field.type)
            )
        self.num_rows = 0
        self._tokens, self._texts, self._spans = [], [], []
        return pyarrow.Table.from_arrays(arrays, schema=schema)


# ------------------------------------------------------------------------- reading


def read(path: str, selection: Selection = EVERYTHING) -> Iterator[Record]:
    """Reads records one at a time, in the order of their lines.

    Raises:
      InputError: it is not such a file, or it was cut off, or has not the layers.
    """
    with _opened(path) as file:
        yield from _records(file, selection)


def contents(path: str) -> Contents:
    """Tells what is in a file, as its metadata says.

    Raises:
      InputError: it is not such a file, or it was cut off.
    """
    with _opened(path) as file:
        metadata = _metadata(file)
        first_line, num_lines = metadata["first_line"] or 0, metadata["num_lines"]
        names = column_names(metadata["layers"])
        dtype = ""
        if names:
            dtype = _DTYPES[str(file.schema_arrow.field(names[0]).type.value_type)]
        return Contents(
            first=_first_record(file, first_line, num_lines),
            num_lines=num_lines,
            lines_from="metadata",
            first_line=first_line if num_lines else None,
            last_line=first_line + num_lines - 1 if num_lines else None,
            num_tokens=file.metadata.num_rows,
            tokens_from="metadata",
            vector_dtype=dtype,
            is_whole=True,  # the metadata is written last, and was found
        )


def _first_record(file: Any, first_line: int, num_lines: int) -> Record | None:
    """The first record with entries, or else the first one."""
    if not num_lines:
        return None
    lines = range(first_line, first_line + num_lines)
    if file.metadata.num_rows:
        batch = next(file.iter_batches(batch_size=1, columns=["linex_index"]))
        lines = range(batch["linex_index"][0].as_py(), lines.stop)
    return next(_records(file, Selection(lines=lines[:1])))


def line_ranges(path: str) -> list[tuple[int, int, int]]:
    """Finds lines whose rows stand together; no vector is read.

    Returns:
      For each row group in which a line begins: the first line, the one behind the
      last, and how many. Together they are all lines.

    Raises:
      InputError: as `read`.
    """
    with _opened(path) as file:
        metadata = json.loads((file.metadata.metadata or {})[_METADATA])
        start = metadata["first_line"] or 0
        end = start + metadata["num_lines"]
        ends = []
        for number in range(file.metadata.num_row_groups):
            lines = file.read_row_group(number, columns=["linex_index"])["linex_index"]
            ends.append(lines[-1].as_py() + 1)
        ranges = []
        for stop in [*ends[:-1], end]:
            if stop > start:
                ranges.append((start, stop, stop - start))
                start = stop
        return ranges


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Opens a file, and says of one that is another what was expected.

    Raises:
      InputError: it is another, or it was cut off.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(
            f"{path}: cannot be read as Parquet: {error} Was it written to its end?"
        ) from error
    with file:
        try:
            yield file
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: expected Parquet as bert-extract writes it, with the columns "
                "linex_index, position, token and layer_..., and the metadata "
                f"'bert_extract': {error}"
            ) from error


def _metadata(file: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((file.metadata.metadata or {})[_METADATA])
    return metadata


def _records(file: Any, selection: Selection) -> Iterator[Record]:
    metadata = _metadata(file)
    names = column_names(metadata["layers"])
    sizes = [file.schema_arrow.field(name).type.list_size for name in names]
    positions = selection.positions_of(tuple(metadata["layers"]))
    empty = Record(
        0,
        (),
        tuple(metadata["layers"][position] for position in positions),
        tuple(np.zeros((0, sizes[position]), np.float32) for position in positions),
    )
    names = [names[position] for position in positions]
    parts = _parts(file, empty.indexes, names, 4 * sum(sizes), selection)
    first = metadata["first_line"] or 0
    end = first + metadata["num_lines"]
    if selection.lines is not None:
        first = max(first, selection.lines.start)
        end = min(end, selection.lines.stop)
    asked_for = filter(selection.has_line, range(first, end))
    yield from _filled(_joined(parts), asked_for, empty)


def _row_groups(metadata: Any, lines: range | None) -> list[int]:
    """The row groups that may hold some of the lines."""
    if lines is None:
        return list(range(metadata.num_row_groups))
    columns = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
    column = columns.index("linex_index")
    found = []
    for number in range(metadata.num_row_groups):
        statistics = metadata.row_group(number).column(column).statistics
        is_known = statistics is not None and statistics.has_min_max
        if lines and not (
            is_known and (statistics.max < lines[0] or lines[-1] < statistics.min)
        ):
            found.append(number)
    return found


def _parts(
    file: Any,
    layer_names: tuple[int | str, ...],
    names: list[str],
    row_bytes: int,
    selection: Selection,
) -> Iterator[Record]:
    """Yields what each batch of rows has of each line that is asked for."""
    others = [name for name in file.schema_arrow.names if name in _PLAIN_COLUMNS]
    for batch in file.iter_batches(
        batch_size=_num_rows(row_bytes),
        row_groups=_row_groups(file.metadata, selection.lines),
        columns=[*others, *dict.fromkeys(names)],
    ):
        linex_indexes = batch["linex_index"].to_numpy()
        edges = np.flatnonzero(np.diff(linex_indexes)) + 1
        starts = [0, *edges.tolist()] if len(linex_indexes) else []
        tokens = batch["token"].to_pylist()
        texts = _column(batch, "text")
        spans = _spans(batch)
        layers = [
            batch[name].flatten().to_numpy().reshape(batch.num_rows, -1)
            for name in names
        ]
        for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
            linex_index = int(linex_indexes[start])
            if not selection.has_line(linex_index):
                continue
            yield Record(
                linex_index,
                tuple(tokens[start:end]),
                layer_names,
                tuple(layer[start:end].astype(np.float32) for layer in layers),
                texts=_of_line(texts, start, end),
                offsets=None if spans is None else tuple(spans[start:end]),
            )


def _column(batch: Any, name: str) -> list[Any] | None:
    return batch[name].to_pylist() if name in batch.schema.names else None


def _of_line(texts: list[Any] | None, start: int, end: int) -> tuple[str, ...] | None:
    """The texts of a line's words; only pairs have them."""
    if texts is None or texts[start] is None:
        return None
    return tuple(texts[start:end])


def _spans(batch: Any) -> list[tuple[int, int] | None] | None:
    starts, ends = _column(batch, "offset_start"), _column(batch, "offset_end")
    if starts is None or ends is None:
        return None
    return [
        None if start is None else (start, end)
        for start, end in zip(starts, ends, strict=True)
    ]


def _joined(parts: Iterator[Record]) -> Iterator[Record]:
    """Puts together what a line has in several row groups."""
    held: list[Record] = []
    for part in parts:
        if held and held[0].linex_index != part.linex_index:
            yield join_records(held)
            held = []
        held.append(part)
    if held:
        yield join_records(held)


def _filled(
    records: Iterator[Record], lines: Iterator[int], empty: Record
) -> Iterator[Record]:
    """Adds the lines that have no entries, and so no rows."""
    for record in records:
        for linex_index in lines:
            if linex_index >= record.linex_index:
                break
            yield dataclasses.replace(empty, linex_index=linex_index)
        yield record
    for linex_index in lines:
        yield dataclasses.replace(empty, linex_index=linex_index)
