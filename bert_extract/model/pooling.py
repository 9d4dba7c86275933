"""Layer outputs -> the vectors asked for: layers mixed, wordpieces -> words, sentences.

Layers are mixed first, then wordpieces. Everything is float32, and a sum is made from
the first summand to the last, one after another: ((x0 + x1) + x2) + ... So it is the
same however a line was divided for speed, and the same as NumPy's `sum(axis=0)` of
the rows.

    L layers asked for   T tokens of a model input   W words   H hidden_size
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Layers = tuple[NDArray[np.float32], ...]  # float32 [num_rows, size] each


class PoolingAbortedError(Exception):
    """A part of a line failed, and this one comes after it. Nobody gets to see it."""


class PoolingState:
    """What the parts of one line hand on: a word or sentence that goes on in the next.

    Parts are encoded by several threads, so each takes its turn.

    Attributes:
      num_wordpieces: how many were pooled so far.
      vectors: what they gave so far, float32 [size] for each layer; () if there were
        none.
    """

    def __init__(self) -> None:
        self.num_wordpieces = 0
        self.vectors: Layers = ()
        self._changed = threading.Condition()
        self._next_turn = 0
        self._is_lost = False

    @contextlib.contextmanager
    def in_order(self, number: int) -> Iterator[None]:
        """Waits for the turns before this one; the next one begins at its end.

        Raises:
          PoolingAbortedError: a turn before it failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_lost or self._next_turn == number)
            if self._is_lost:
                raise PoolingAbortedError
        try:
            yield
        except BaseException:
            self.abort()
            raise
        with self._changed:
            self._next_turn += 1
            self._changed.notify_all()

    def abort(self) -> None:
        """Lets everybody who waits fail: a turn will not come."""
        with self._changed:
            self._is_lost = True
            self._changed.notify_all()


def mix_layers(layers: Sequence[NDArray[np.float32]], layer_pooling: str) -> Layers:
    """Makes one layer of those asked for.

    Args:
      layers: L of them, float32 [..., H], in the order asked for.
      layer_pooling: "mean", "sum", or "concat".

    Returns:
      One array: float32 [..., H], or [..., L * H] for "concat".
    """
    if layer_pooling == "concat":
        return (np.concatenate(layers, axis=-1),)
    total = layers[0]
    for layer in layers[1:]:
        total = total + layer
    if layer_pooling == "mean":
        total = total / np.float32(len(layers))
    return (total,)


def pool_words(
    layers: Layers,
    ranges: NDArray[np.int64],
    word_pooling: str,
    carry: PoolingState | None = None,
    *,
    first_word_continues: bool = False,
    last_word_continues: bool = False,
) -> Layers:
    """Makes one vector of each word's wordpieces.

    Args:
      layers: float32 [T, size] each.
      ranges: int64 [W, 2], from which row on to which row each word has its
        wordpieces. A word without any gets zeros.
      word_pooling: "first", "last" or "mean" (the sum divided by their number).
      carry: the line's, in this part's turn; needed for the next two.
      first_word_continues: the first range continues the word that the carry holds.
      last_word_continues: the last range goes on in the next part, so the carry
        gets it.

    Returns:
      float32 [W, size] each; [W - 1, size] if last_word_continues.
    """
    starts, ends = ranges[:, 0], ranges[:, 1]
    counts = ends - starts
    filled = np.flatnonzero(counts)
    rows = ends[filled] - 1 if word_pooling == "last" else starts[filled]
    steps = []
    if word_pooling == "mean":
        for step in range(1, int(counts.max(initial=0))):
            longer = np.flatnonzero(counts > step)
            steps.append((longer, starts[longer] + step))
    before: Layers = ()
    if first_word_continues:
        assert carry is not None
        before = carry.vectors
        counts = counts.copy()
        counts[0] += carry.num_wordpieces
    pooled = []
    for number, layer in enumerate(layers):
        vectors = np.zeros((len(ranges), layer.shape[1]), np.float32)
        vectors[filled] = layer[rows]
        if before:
            has_more = ends[0] > starts[0]
            vectors[0] = _go_on(before[number], vectors[0], has_more, word_pooling)
        for longer, more in steps:
            vectors[longer] += layer[more]
        pooled.append(vectors)
    if last_word_continues:
        assert carry is not None
        carry.num_wordpieces = int(counts[-1])
        carry.vectors = tuple(vectors[-1].copy() for vectors in pooled)
        pooled = [vectors[:-1] for vectors in pooled]
        counts = counts[:-1]
    if word_pooling == "mean" and counts.max(initial=0) > 1:
        divisors = np.maximum(counts, 1).astype(np.float32)[:, np.newaxis]
        pooled = [vectors / divisors for vectors in pooled]
    return tuple(pooled)


def _go_on(
    before: NDArray[np.float32],
    vector: NDArray[np.float32],
    has_more: bool,
    word_pooling: str,
) -> NDArray[np.float32]:
    """What a word has so far, and its first wordpiece in this part: float32 [size]."""
    if word_pooling == "first" or not has_more:
        return before
    return vector if word_pooling == "last" else before + vector


def pool_sentence(
    layers: Layers,
    wordpieces: Sequence[slice],
    sentence_pooling: str,
    carry: PoolingState | None = None,
    *,
    is_last: bool = True,
) -> Layers:
    """Makes one vector of a line.

    Args:
      layers: float32 [T, size] each, [CLS] in row 0; for "pooler" [1, size].
      wordpieces: the rows that are neither [CLS] nor [SEP].
      sentence_pooling: "mean" (the sum divided by their number) or "max", over these
        rows; "cls" or "pooler", row 0.
      carry: the line's, in this part's turn, if the line has several parts.
      is_last: whether the line ends with this part.

    Returns:
      float32 [1, size] each, zeros if there was nothing to pool; [0, size] if not
      is_last.
    """
    if sentence_pooling in ("cls", "pooler"):
        return tuple(layer[:1] for layer in layers)
    combine = np.maximum if sentence_pooling == "max" else np.add
    num_wordpieces = sum(rows.stop - rows.start for rows in wordpieces)
    before: Sequence[NDArray[np.float32] | None] = [None] * len(layers)
    if carry is not None:
        num_wordpieces += carry.num_wordpieces
        before = carry.vectors or before
    vectors = tuple(
        _combined(combine, layer, wordpieces, vector)
        for layer, vector in zip(layers, before, strict=True)
    )
    if carry is not None and num_wordpieces:
        carry.num_wordpieces, carry.vectors = num_wordpieces, vectors
    if not is_last:
        return tuple(np.zeros((0, layer.shape[1]), np.float32) for layer in layers)
    if sentence_pooling == "mean":
        divisor = np.float32(max(num_wordpieces, 1))
        vectors = tuple(vector / divisor for vector in vectors)
    return tuple(vector[np.newaxis] for vector in vectors)


def _combined(
    combine: np.ufunc,
    layer: NDArray[np.float32],
    wordpieces: Sequence[slice],
    before: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Combines what there was with rows of a layer: float32 [size]."""
    rows = [layer[places] for places in wordpieces]
    if before is not None:
        rows.insert(0, before[np.newaxis])
    together = rows[0] if len(rows) == 1 else np.concatenate(rows or [layer[:0]])
    if not len(together):
        return np.zeros(layer.shape[1], np.float32)
    # Row by row, since rows are what lies together in the memory.
    combined: NDArray[np.float32] = combine.reduce(together, axis=0)
    return combined
