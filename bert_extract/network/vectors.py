"""A file of records -> tf.data of padded batches, for models that take vectors.

pieces of the files, in another order every epoch
  | read                 records, lazily
  | pool                 of a piece of many records each comes at random
  | stretch              records of one length share a batch
float32 [batch_size, num_tokens, size], and labels
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bert_extract.errors import ArgumentTypeError, InputError
from bert_extract.network.text_inputs import batch_places
from bert_extract.output.pieces import Pieces, find_pieces
from bert_extract.output.reading import Path
from bert_extract.output.record import Record
from bert_extract.output.selection import Layers

# Vectors in memory of records that wait for their turn: enough for some thousand
# records, and less than TensorFlow itself takes.
_POOL_BYTES = 256 << 20
# The same of those that are put into batches together.
_STRETCH_BYTES = 64 << 20
_STRETCH_BATCHES = 50
# Batches that are made ahead.
_AHEAD = 2


class _Entry(NamedTuple):
    """What a batch takes of a record."""

    linex_index: int
    vectors: NDArray[np.float32]  # [num_layers, num_tokens, size]


class _Shape(NamedTuple):
    """What all records have in common."""

    num_layers: int
    size: int  # of a vector


def vectors_dataset(
    path: Path | Iterable[Path],
    labels: Any = None,
    *,
    layers: Layers | None = None,
    first_only: bool = False,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int | None = None,
) -> "tf.data.Dataset":
    """Makes batches of precomputed vectors for `model.fit`, `evaluate` and `predict`.

    Records are read while they are needed, so files may be larger than the memory. An
    error on the way, such as a file that was cut off, comes out of TensorFlow with its
    message within one of TensorFlow's.

    Args:
      path: as `read_features` takes it. Files of JSON lines are gone through once, to
        find what can be read by itself; of the others only a part.
      labels: one for each line, by its linex_index, any array; None for vectors alone.
        Of several files each line must have a linex_index of its own, as the shards of
        one text have.
      layers: as `read_features` takes them; by default all that the files have.
      first_only: whether only the first entry of a record is taken, the only one with
        --unit=sentence, [CLS] of wordpieces.
      batch_size: records of a batch; the last one may have fewer.
      shuffle: whether every epoch has another order. JSON lines that are not compressed
        are drawn one by one; of other formats some lines that stand together are read
        together, and mixed with some thousand others. Records of about one length
        share a batch. Without it the order is that of the files.
      seed: of the orders.

    Returns:
      Of float32 [batch_size, num_tokens, size], zeros behind the last token of a
      record; of several layers [batch_size, num_layers, num_tokens, size]; with
      first_only without the axis of tokens. With labels of tuples (vectors, labels).

    Raises:
      InputError: a file cannot be read or has not the layers, or no record has
        a vector.
      ArgumentTypeError: there are fewer labels than records.
    """
    files = find_pieces(path)
    num_records = sum(int(pieces.num_lines.sum()) for pieces in files)
    targets = None if labels is None else np.asarray(labels)
    if targets is not None and len(targets) < num_records:
        raise ArgumentTypeError(
            f"labels must be one for each line: there are {num_records} records, and "
            f"{len(targets)} labels"
        )
    shape = _shape_of(files, layers)
    random = np.random.default_rng(seed) if shuffle else None

    def batches() -> Iterator[Any]:
        entries = _entries(files, layers, shape, first_only, random)
        if targets is not None:
            entries = _labelled(entries, len(targets))
        for batch in _batches(entries, batch_size, random):
            vectors = _padded(batch, shape, first_only)
            if targets is None:
                yield vectors
            else:
                yield vectors, targets[[entry.linex_index for entry in batch]]

    of_layers = [shape.num_layers] if shape.num_layers > 1 else []
    of_tokens = [] if first_only else [None]
    signature: Any = tf.TensorSpec(
        [None, *of_layers, *of_tokens, shape.size], tf.float32
    )
    if targets is not None:
        of_labels = tf.TensorSpec([None, *targets.shape[1:]], targets.dtype)
        signature = (signature, of_labels)
    made = tf.data.Dataset.from_generator(batches, output_signature=signature)
    num_batches = -(-num_records // batch_size)
    made = made.apply(tf.data.experimental.assert_cardinality(num_batches))
    return made.prefetch(_AHEAD)


def _shape_of(files: list[Pieces], layers: Layers | None) -> _Shape:
    for pieces in files:
        for number in range(len(pieces)):
            for record in pieces.read(number, layers):
                if record.tokens:
                    return _Shape(len(record.layers), record.layers[0].shape[1])
    names = ", ".join(pieces.path for pieces in files)
    raise InputError(f"{names}: expected records with vectors, found none")


# ---------------------------------------------------------------------- the records


def _entries(
    files: list[Pieces],
    layers: Layers | None,
    shape: _Shape,
    first_only: bool,
    random: np.random.Generator | None,
) -> Iterator[_Entry]:
    """Reads all records, at random or in their order."""

    def read(file_number: int, number: int) -> Iterator[_Entry]:
        for record in files[file_number].read(number, layers):
            yield _to_entry(record, shape, first_only)

    sizes = [len(pieces) for pieces in files]
    file_numbers = np.repeat(np.arange(len(files), dtype=np.int32), sizes)
    numbers = np.concatenate([np.arange(size, dtype=np.int64) for size in sizes])
    if random is None:
        order: Iterable[int] = range(len(numbers))
    else:
        order = random.permutation(len(numbers))
    entries = (
        entry
        for place in order
        for entry in read(int(file_numbers[place]), int(numbers[place]))
    )
    is_by_record = all((pieces.num_lines == 1).all() for pieces in files)
    if random is None or is_by_record:
        return entries
    return _pooled(entries, random)


def _to_entry(record: Record, shape: _Shape, first_only: bool) -> _Entry:
    """Takes what is needed: a record may be large, and its pool is not."""
    if not record.tokens:
        nothing = np.zeros((shape.num_layers, 0, shape.size), np.float32)
        return _Entry(record.linex_index, nothing)
    layers = [layer[:1] if first_only else layer for layer in record.layers]
    vectors = np.stack(layers)
    if (len(vectors), vectors.shape[2]) != shape:
        raise InputError(
            f"line {record.linex_index}: expected {shape.num_layers} layers of "
            f"{shape.size} values, as the first record has, found {len(vectors)} of "
            f"{vectors.shape[2]}: were the files made by one command?"
        )
    return _Entry(record.linex_index, vectors)


def _pooled(entries: Iterator[_Entry], random: np.random.Generator) -> Iterator[_Entry]:
    """Yields each at random among those that there is room for."""
    pool: list[_Entry] = []
    num_bytes = 0
    for entry in entries:
        pool.append(entry)
        num_bytes += entry.vectors.nbytes
        while num_bytes > _POOL_BYTES and len(pool) > 1:
            place = int(random.integers(len(pool)))
            pool[place], pool[-1] = pool[-1], pool[place]
            taken = pool.pop()
            num_bytes -= taken.vectors.nbytes
            yield taken
    for place in random.permutation(len(pool)):
        yield pool[place]


def _labelled(entries: Iterator[_Entry], num_labels: int) -> Iterator[_Entry]:
    """Passes on what has a label of its own.

    Raises:
      InputError: a line has none, or comes twice.
    """
    is_taken = np.zeros(num_labels, np.bool_)
    for entry in entries:
        line = entry.linex_index
        if not 0 <= line < num_labels:
            raise InputError(
                f"labels go by linex_index: there are {num_labels}, and none for "
                f"line {line}"
            )
        if is_taken[line]:
            raise InputError(
                f"labels go by linex_index, and {line} comes twice: make a dataset of "
                "each text's output, and concatenate them"
            )
        is_taken[line] = True
        yield entry


# ---------------------------------------------------------------------- the batches


def _batches(
    entries: Iterator[_Entry], batch_size: int, random: np.random.Generator | None
) -> Iterator[list[_Entry]]:
    stretch: list[_Entry] = []
    num_bytes = 0
    # Of a stretch each batch is full, so that their number is known beforehand.
    most = batch_size if random is None else batch_size * _STRETCH_BATCHES
    for entry in entries:
        stretch.append(entry)
        num_bytes += entry.vectors.nbytes
        is_large = num_bytes >= _STRETCH_BYTES and len(stretch) % batch_size == 0
        if len(stretch) == most or is_large:
            yield from _divided(stretch, batch_size, random)
            stretch, num_bytes = [], 0
    yield from _divided(stretch, batch_size, random)


def _divided(
    stretch: list[_Entry], batch_size: int, random: np.random.Generator | None
) -> Iterator[list[_Entry]]:
    lengths = np.array([entry.vectors.shape[1] for entry in stretch], np.int64)
    for places in batch_places(lengths, batch_size, random):
        yield [stretch[place] for place in places]


def _padded(
    batch: list[_Entry], shape: _Shape, first_only: bool
) -> NDArray[np.float32]:
    longest = max(entry.vectors.shape[1] for entry in batch)
    longest = max(longest, int(first_only))
    vectors = np.zeros((len(batch), shape.num_layers, longest, shape.size), np.float32)
    for row, entry in enumerate(batch):
        vectors[row, :, : entry.vectors.shape[1]] = entry.vectors
    if first_only:
        vectors = vectors[:, :, 0]
    return vectors if shape.num_layers > 1 else vectors[:, 0]
